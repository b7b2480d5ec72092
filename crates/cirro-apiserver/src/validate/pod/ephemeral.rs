//! Ephemeral containers: what they may say, and that they are only ever added.
//!
//! Source: `validateEphemeralContainers` and `ValidatePodEphemeralContainersUpdate` of upstream's
//! `pkg/apis/core/validation/validation.go`; `podEphemeralContainersStrategy`.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::container;
use crate::error::Causes;
use crate::json;

/// Members that an ephemeral container may have.
const ALLOWED: [&str; 17] = [
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];
const NOT_HERE: &str = "cannot be set for an Ephemeral Container";

/// Checks the ephemeral containers of a spec at `field`; `names` has those of all other containers.
pub(super) fn containers<'a>(
    field: &str,
    spec: &'a Value,
    volumes: &HashSet<&str>,
    names: &mut HashSet<&'a str>,
    causes: &mut Causes,
) {
    let list = json::array(spec, "ephemeralContainers");
    let field = format!("{field}.ephemeralContainers");
    if !list.is_empty() && field != "spec.ephemeralContainers" {
        causes.forbidden(&field, "ephemeral containers not allowed in pod template");
        return;
    }
    let targets = names.clone();
    for (index, one) in list.iter().enumerate() {
        let at = format!("{field}[{index}]");
        container(&at, one, volumes, causes);
        if !names.insert(json::text(one, "name")) {
            causes.duplicate(&format!("{at}.name"), &one["name"]);
        }
        let target = json::text(one, "targetContainerName");
        if !target.is_empty() && !targets.contains(target) {
            causes.not_found(&format!("{at}.targetContainerName"), &target.into());
        }
        refuse_members(&at, one, causes);
    }
}

fn refuse_members(at: &str, one: &Value, causes: &mut Causes) {
    for (member, value) in one.as_object().into_iter().flatten() {
        // What Go takes for not set is not told from what is.
        let empty = *value == json!({}) || *value == json!([]) || *value == json!("");
        if !empty && !ALLOWED.contains(&member.as_str()) {
            causes.forbidden(&format!("{at}.{member}"), NOT_HERE);
        }
    }
    for (index, mount) in json::array(one, "volumeMounts").iter().enumerate() {
        for member in ["subPath", "subPathExpr"] {
            if !json::text(mount, member).is_empty() {
                causes.forbidden(&format!("{at}.volumeMounts[{index}].{member}"), NOT_HERE);
            }
        }
    }
}

/// Returns the old pod with the new one's ephemeral containers.
pub(crate) fn with(new: &Value, old: &Value) -> Value {
    let mut pod = old.clone();
    let spec = json::object_mut(&mut pod, "spec");
    match new["spec"].get("ephemeralContainers") {
        Some(list) => spec.insert("ephemeralContainers".into(), list.clone()),
        None => spec.remove("ephemeralContainers"),
    };
    pod
}

/// Refuses the change or the loss of an ephemeral container.
pub(crate) fn update(pod: &Value, old: &Value, causes: &mut Causes) {
    const FIELD: &str = "spec.ephemeralContainers";
    let new = json::array(pod, FIELD);
    for before in json::array(old, FIELD) {
        let name = json::text(before, "name");
        // Patches need not keep the order.
        match new.iter().find(|one| json::text(one, "name") == name) {
            None => causes
                .forbidden(FIELD, &format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(after) if after != before => {
                let members = super::differing(after, before).join(", ");
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n{members}");
                causes.forbidden(FIELD, &detail);
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(ephemeral: Value) -> String {
        let spec = json!({"containers": [{"name": "web", "image": "i"}], "ephemeralContainers": ephemeral});
        let mut causes = Causes::default();
        super::super::spec("spec", &spec, &mut causes);
        causes.summary()
    }

    #[test]
    fn what_would_serve_the_workload_is_refused() {
        assert_eq!(
            faults(json!([{"name": "look", "image": "i", "targetContainerName": "web", "resources": {}}])),
            "[]"
        );
        let said = faults(json!([{"name": "look", "image": "i", "ports": [{"containerPort": 1}],
            "livenessProbe": {"exec": {}}, "resources": {"limits": {"cpu": "1"}}, "lifecycle": {"preStop": {"sleep": {}}}}]));
        for member in ["ports", "livenessProbe", "resources", "lifecycle"] {
            assert!(
                said.contains(&format!("spec.ephemeralContainers[0].{member}: Forbidden: {NOT_HERE}")),
                "{said}"
            );
        }
        let said = faults(json!([{"name": "web", "image": "i", "targetContainerName": "no"}]));
        assert!(said.contains("spec.ephemeralContainers[0].name: Duplicate value: \"web\""), "{said}");
        assert!(
            said.contains("spec.ephemeralContainers[0].targetContainerName: Not found: \"no\""),
            "{said}"
        );
    }

    #[test]
    fn they_are_only_ever_added() {
        let pod = |list: Value| json!({"spec": {"ephemeralContainers": list}});
        let said = |new: Value, old: Value| {
            let mut causes = Causes::default();
            update(&pod(new), &pod(old), &mut causes);
            causes.summary()
        };
        let (a, b) = (json!({"name": "a", "image": "i"}), json!({"name": "b", "image": "i"}));
        assert_eq!(said(json!([b, a]), json!([a])), "[]");
        assert!(
            said(json!([b]), json!([a])).contains("existing ephemeral containers \"a\" may not be removed")
        );
        let other = json!({"name": "a", "image": "j"});
        assert!(said(json!([other]), json!([a])).contains("\"a\" may not be changed\nimage"));
    }
}
