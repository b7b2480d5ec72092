//! The checks of the baseline level: what would reach the host.

use serde_json::Value;

use super::{Pod, Violation, listed, quoted};
use crate::json;

pub(super) type Check = fn(&Pod<'_>) -> Option<Violation>;

/// All checks.
pub(super) const CHECKS: [Check; 11] = [
    app_armor,
    capabilities,
    host_namespaces,
    host_paths,
    host_ports,
    privileged,
    proc_mount,
    selinux,
    seccomp,
    sysctls,
    windows_host_process,
];

/// Capabilities that the container runtime gives by itself, or fewer.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

pub(super) fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let mut found = Vec::new();
    let forbidden = |one: &Value| json::text(&one["securityContext"], "appArmorProfile.type") == "Unconfined";
    if forbidden(pod.spec) {
        found.push("pod must not set AppArmor profile type to \"Unconfined\"".to_owned());
    }
    let names = pod.names(forbidden);
    if !names.is_empty() {
        found.push(format!(
            "{} must not set AppArmor profile type to \"Unconfined\"",
            listed("container", &names)
        ));
    }
    for (key, value) in json::object(pod.object, "metadata.annotations").into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let known = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        if key.starts_with(APP_ARMOR) && !known {
            found.push(format!("annotation must not set AppArmor profile to \"{key}={value}\""));
        }
    }
    if found.is_empty() { None } else { Violation::new("forbidden AppArmor profile", found.join(", ")) }
}

fn added(container: &Value) -> impl Iterator<Item = &str> {
    json::array(&container["securityContext"], "capabilities.add").iter().filter_map(Value::as_str)
}

/// Names containers that add capabilities beyond `allowed`, and those capabilities.
pub(super) fn beyond(pod: &Pod<'_>, allowed: &[&str]) -> Option<String> {
    let names = pod.names(|container| added(container).any(|one| !allowed.contains(&one)));
    let all = pod.containers().flat_map(added).filter(|one| !allowed.contains(one));
    let what = quoted(all).join(", ");
    let who = listed("container", &names);
    let text = format!("{who} must not include {what} in securityContext.capabilities.add");
    (!names.is_empty()).then_some(text)
}

fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    Violation::new("non-default capabilities", beyond(pod, &CAPABILITIES)?)
}

pub(super) fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|member| pod.spec[*member] == true);
    let set: Vec<_> = set.map(|member| format!("{member}=true")).collect();
    if set.is_empty() { None } else { Violation::new("host namespaces", set.join(", ")) }
}

pub(super) fn host_paths(pod: &Pod<'_>) -> Option<Violation> {
    let volumes = json::array(pod.spec, "volumes").iter().filter(|volume| volume.get("hostPath").is_some());
    let names: Vec<_> = volumes.map(|volume| format!("{:?}", json::text(volume, "name"))).collect();
    if names.is_empty() { None } else { Violation::new("hostPath volumes", listed("volume", &names)) }
}

fn host_ports_of(container: &Value) -> impl Iterator<Item = i64> {
    let ports = json::array(container, "ports").iter();
    ports.filter_map(|port| json::number(port, "hostPort")).filter(|port| *port != 0)
}

pub(super) fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.names(|container| host_ports_of(container).next().is_some());
    let mut ports: Vec<_> = pod.containers().flat_map(host_ports_of).collect();
    ports.sort_unstable();
    ports.dedup();
    let (verb, noun) =
        (if names.len() == 1 { "uses" } else { "use" }, if ports.len() == 1 { "" } else { "s" });
    let ports: Vec<_> = ports.iter().map(i64::to_string).collect();
    let who = listed("container", &names);
    if names.is_empty() {
        return None;
    }
    Violation::new("hostPort", format!("{who} {verb} hostPort{noun} {}", ports.join(", ")))
}

pub(super) fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.names(|container| container["securityContext"]["privileged"] == true);
    let text = format!("{} must not set securityContext.privileged=true", listed("container", &names));
    if names.is_empty() { None } else { Violation::new("privileged", text) }
}

pub(super) fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mount = |container: &Value| json::text(&container["securityContext"], "procMount").to_owned();
    let forbidden = |container: &Value| !matches!(mount(container).as_str(), "" | "Default");
    let names = pod.names(forbidden);
    if names.is_empty() {
        return None;
    }
    let mounts: Vec<_> = pod.containers().filter(|one| forbidden(one)).map(mount).collect();
    let mounts = quoted(mounts.iter().map(String::as_str)).join(", ");
    let who = listed("container", &names);
    Violation::new("procMount", format!("{who} must not set securityContext.procMount to {mounts}"))
}

pub(super) fn selinux(pod: &Pod<'_>) -> Option<Violation> {
    const TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let options = |one: &Value| one["securityContext"]["seLinuxOptions"].clone();
    let forbidden = |one: &Value| {
        let options = options(one);
        !TYPES.contains(&json::text(&options, "type"))
            || !json::text(&options, "user").is_empty()
            || !json::text(&options, "role").is_empty()
    };
    let who = pod.whom(forbidden)?;
    let all = std::iter::once(pod.spec).chain(pod.containers());
    let offenders: Vec<Value> = all.filter(|one| forbidden(one)).map(options).collect();
    let types = offenders.iter().map(|one| json::text(one, "type")).filter(|kind| !TYPES.contains(kind));
    let types = quoted(types);
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("type{} {}", if types.len() == 1 { "" } else { "s" }, types.join(", ")));
    }
    for (member, text) in [("user", "user may not be set"), ("role", "role may not be set")] {
        if offenders.iter().any(|one| !json::text(one, member).is_empty()) {
            what.push(text.to_owned());
        }
    }
    let what = what.join("; ");
    Violation::new("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {what}"))
}

pub(super) fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let forbidden = |one: &Value| {
        !matches!(
            json::text(&one["securityContext"], "seccompProfile.type"),
            "" | "RuntimeDefault" | "Localhost"
        )
    };
    let who = pod.whom(forbidden)?;
    let text = "must not set securityContext.seccompProfile.type to \"Unconfined\"";
    Violation::new("seccompProfile", format!("{who} {text}"))
}

pub(super) fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    let set = json::array(pod.spec, "securityContext.sysctls").iter().map(|one| json::text(one, "name"));
    let forbidden: Vec<_> = set.filter(|name| !SYSCTLS.contains(name)).collect();
    if forbidden.is_empty() { None } else { Violation::new("forbidden sysctls", forbidden.join(", ")) }
}

pub(super) fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let forbidden = |one: &Value| one["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let who = pod.whom(forbidden)?;
    Violation::new(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}
