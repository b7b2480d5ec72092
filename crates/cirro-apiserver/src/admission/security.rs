//! Pod Security: what the labels of a namespace let pods do.
//!
//! Source: the Pod Security Standards; texts after `k8s.io/pod-security-admission`.

use cirro_seams::api::ApiError;
use serde_json::Value;

use crate::asker;
use crate::error;
use crate::json;
use crate::registry::Kind;
use crate::storage::Storage;

mod baseline;
mod restricted;

const LABEL: &str = "pod-security.kubernetes.io/";

/// How much a namespace lets pods do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }
}

/// What a pod does that a level forbids: what, and where.
pub(super) struct Violation {
    what: &'static str,
    detail: String,
}

impl Violation {
    fn new(what: &'static str, detail: String) -> Option<Self> {
        Some(Self { what, detail })
    }
}

/// Refuses a pod, or a change of its spec, that its namespace's labels forbid; warns where they only warn.
/// Workloads that make such pods are warned about and not refused.
///
/// # Errors
/// 403 in upstream's words.
pub(super) async fn check(
    storage: &Storage,
    kind: &Kind,
    namespace: &str,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let is_pod = kind.group.is_empty() && kind.plural == "pods";
    let Some(spec) = pod_spec(kind, new) else { return Ok(()) };
    if old.and_then(|old| pod_spec(kind, old)) == Some(spec) {
        return Ok(());
    }
    let namespace = storage.get(storage.core_place("namespaces", "", namespace)).await?;
    let policy = |mode: &str| {
        let label = |suffix: &str| {
            let value = namespace["metadata"]["labels"].get(format!("{LABEL}{mode}{suffix}"));
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let text = label("");
        // A label that says nothing known is taken for the strictest, as upstream.
        let level = if text.is_empty() {
            Level::Privileged
        } else {
            Level::parse(&text).unwrap_or(Level::Restricted)
        };
        let version = Some(label("-version")).filter(|version| !version.is_empty());
        (level, format!("{text}:{}", version.unwrap_or_else(|| "latest".into())))
    };
    let ((enforced, name), (warned, warned_name)) = (policy("enforce"), policy("warn"));
    let (audited, audited_name) = policy("audit");
    let found = describe(&violations(audited, new, spec));
    if !found.is_empty() {
        let what = format!("would violate PodSecurity {audited_name:?}: {found}");
        asker::annotate(&format!("{LABEL}audit-violations"), what);
    }
    if is_pod {
        let shown = if name.starts_with(':') { format!("privileged{name}") } else { name.clone() };
        asker::annotate(&format!("{LABEL}enforce-policy"), shown);
    }
    if is_pod {
        let found = describe(&violations(enforced, new, spec));
        if !found.is_empty() {
            let what = format!("violates PodSecurity {name:?}: {found}");
            return Err(error::forbidden(kind, json::name(new), &what));
        }
    }
    // A pod's template carries the annotations that its checks read.
    let found = describe(&violations(warned, new, spec));
    if !found.is_empty() {
        asker::warn(format!("would violate PodSecurity {warned_name:?}: {found}"));
    }
    Ok(())
}

/// Checks the labels of a namespace.
pub(crate) fn check_labels(namespace: &Value, causes: &mut error::Causes) {
    for mode in ["enforce", "audit", "warn"] {
        let key = format!("{LABEL}{mode}");
        if let Some(value) = namespace["metadata"]["labels"].get(&key)
            && Level::parse(value.as_str().unwrap_or_default()).is_none()
        {
            let what = "must be one of privileged, baseline, restricted";
            causes.invalid(&format!("metadata.labels[{key}]"), value, what);
        }
    }
}

fn pod_spec<'a>(kind: &Kind, object: &'a Value) -> Option<&'a Value> {
    let path = match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => "spec",
        ("", "podtemplates") => "template.spec",
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => "spec.template.spec",
        ("batch", "cronjobs") => "spec.jobTemplate.spec.template.spec",
        _ => return None,
    };
    json::at(object, path)
}

fn violations(level: Level, object: &Value, spec: &Value) -> Vec<Violation> {
    let pod = Pod { object, spec };
    // In the order of upstream's checks, which is that of their names.
    match level {
        Level::Privileged => Vec::new(),
        Level::Baseline => baseline::CHECKS.iter().filter_map(|check| check(&pod)).collect(),
        Level::Restricted => restricted::CHECKS.iter().filter_map(|check| check(&pod)).collect(),
    }
}

fn describe(violations: &[Violation]) -> String {
    let words: Vec<_> = violations
        .iter()
        .map(|one| match one.detail.as_str() {
            "" => one.what.to_owned(),
            detail => format!("{} ({detail})", one.what),
        })
        .collect();
    words.join(", ")
}

/// What the checks look at.
struct Pod<'a> {
    object: &'a Value,
    spec: &'a Value,
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        let spec = self.spec;
        lists.into_iter().flat_map(move |list| json::array(spec, list))
    }

    /// Returns the names of the containers of which something holds.
    fn names(&self, holds: impl Fn(&Value) -> bool) -> Vec<String> {
        let found = self.containers().filter(|container| holds(container));
        found.map(|container| format!("{:?}", json::text(container, "name"))).collect()
    }

    /// Says of whom something holds: `pod`, `container "a"`, `pod and containers "a", "b"`; nothing when of nobody.
    fn whom(&self, holds: impl Fn(&Value) -> bool) -> Option<String> {
        let names = self.names(&holds);
        let containers = (!names.is_empty()).then(|| listed("container", &names));
        match (holds(self.spec), containers) {
            (true, Some(containers)) => Some(format!("pod and {containers}")),
            (true, None) => Some("pod".to_owned()),
            (false, containers) => containers,
        }
    }
}

/// Says `container "a"` or `containers "a", "b"`.
fn listed(noun: &str, names: &[String]) -> String {
    format!("{noun}{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
}

/// Quotes strings, sorted and each once.
fn quoted<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut words: Vec<_> = words.map(|word| format!("{word:?}")).collect();
    words.sort();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(level: Level, spec: Value) -> String {
        let pod = json!({"metadata": {}, "spec": spec});
        describe(&violations(level, &pod, &pod["spec"]))
    }

    #[test]
    fn a_plain_pod_is_baseline_and_not_restricted() {
        let plain = json!({"containers": [{"name": "c", "image": "i"}]});
        assert_eq!(said(Level::Baseline, plain.clone()), "");
        assert_eq!(
            said(Level::Restricted, plain),
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}]});
        assert_eq!(said(Level::Restricted, good), "");
    }

    #[test]
    fn what_reaches_the_host_is_not_baseline() {
        for (spec, wanted) in [
            (
                json!({"hostNetwork": true, "hostPID": true}),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
                "hostPath volumes (volume \"v\")",
            ),
            (
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}),
                "hostPort (container \"c\" uses hostPort 80)",
            ),
            (
                json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]}),
                "privileged (container \"c\" must not set securityContext.privileged=true)",
            ),
            (
                json!({"initContainers": [{"name": "c", "securityContext": {"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}}}]}),
                "non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}, {"name": "net.ipv4.tcp_syncookies", "value": "1"}]}}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                json!({"containers": [{"name": "c", "securityContext": {"procMount": "Unmasked"}}]}),
                "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
            ),
        ] {
            assert_eq!(said(Level::Baseline, spec.clone()), wanted, "{spec}");
            assert_ne!(said(Level::Restricted, spec), "");
        }
    }
}
