//! The checks of the restricted level: baseline's, and hardening that every pod can have.

use serde_json::Value;

use super::baseline::{self, Check};
use super::{Pod, Violation, listed, quoted};
use crate::json;

/// All checks; those of capabilities, volumes and seccomp are stricter forms of baseline's.
pub(super) const CHECKS: [Check; 14] = [
    privilege_escalation,
    baseline::app_armor,
    capabilities,
    baseline::host_namespaces,
    baseline::host_ports,
    baseline::privileged,
    baseline::proc_mount,
    volumes,
    run_as_non_root,
    run_as_user,
    baseline::selinux,
    seccomp,
    baseline::sysctls,
    baseline::windows_host_process,
];

const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn is_windows(pod: &Pod<'_>) -> bool {
    json::text(pod.spec, "os.name") == "windows"
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.names(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if names.is_empty() || is_windows(pod) {
        return None;
    }
    let who = listed("container", &names);
    let detail = format!("{who} must set securityContext.allowPrivilegeEscalation=false");
    Violation::new("allowPrivilegeEscalation != false", detail)
}

fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    if is_windows(pod) {
        return None;
    }
    let drops_all = |container: &Value| {
        json::array(&container["securityContext"], "capabilities.drop").iter().any(|one| one == "ALL")
    };
    let names = pod.names(|container| !drops_all(container));
    let mut details = Vec::new();
    if !names.is_empty() {
        let who = listed("container", &names);
        details.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    details.extend(baseline::beyond(pod, &["NET_BIND_SERVICE"]));
    if details.is_empty() { None } else { Violation::new("unrestricted capabilities", details.join("; ")) }
}

fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    let kind = |volume: &Value| -> String {
        let members = volume.as_object().into_iter().flatten();
        let source = members.map(|(member, _)| member).find(|member| *member != "name");
        source.cloned().unwrap_or_default()
    };
    let all = json::array(pod.spec, "volumes");
    let forbidden: Vec<_> = all.iter().filter(|volume| !VOLUMES.contains(&kind(volume).as_str())).collect();
    if forbidden.is_empty() {
        return None;
    }
    let names: Vec<_> = forbidden.iter().map(|volume| format!("{:?}", json::text(volume, "name"))).collect();
    let kinds: Vec<_> = forbidden.iter().map(|volume| kind(volume)).collect();
    let kinds = quoted(kinds.iter().map(String::as_str));
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let noun = if kinds.len() == 1 { "type" } else { "types" };
    let who = listed("volume", &names);
    Violation::new(
        "restricted volume types",
        format!("{who} {verb} restricted volume {noun} {}", kinds.join(", ")),
    )
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const WHAT: &str = "runAsNonRoot != true";
    let of = |one: &Value| one["securityContext"]["runAsNonRoot"].as_bool();
    let wrong = pod.names(|container| of(container) == Some(false));
    if !wrong.is_empty() {
        let who = listed("container", &wrong);
        return Violation::new(WHAT, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = pod.names(|container| of(container).is_none());
    match of(pod.spec) {
        Some(true) => None,
        _ if silent.is_empty() => None,
        Some(false) => Violation::new(WHAT, "pod must not set securityContext.runAsNonRoot=false".into()),
        None => {
            let who = listed("container", &silent);
            Violation::new(WHAT, format!("pod or {who} must set securityContext.runAsNonRoot=true"))
        }
    }
}

fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    let is_root = |one: &Value| one["securityContext"]["runAsUser"] == 0;
    let who = pod.whom(is_root)?;
    Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    if is_windows(pod) {
        return None;
    }
    let of = |one: &Value| json::text(&one["securityContext"], "seccompProfile.type").to_owned();
    let good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    if let Some(violation) = baseline::seccomp(pod) {
        return Some(violation);
    }
    let silent = pod.names(|container| of(container).is_empty());
    if good(&of(pod.spec)) || silent.is_empty() {
        return None;
    }
    let text = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    Violation::new("seccompProfile", format!("pod or {} {text}", listed("container", &silent)))
}
