//! Changes of what the containers of a running pod may use.
//!
//! Source: `ValidatePodResize` and `validateResizePolicy` of upstream's `pkg/apis/core/validation/validation.go`;
//! `podResizeStrategy`.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::error::Causes;
use crate::json;
use crate::kinds::quality_of_service;
use crate::validate::quantity::Quantity;

const COMPUTED: [&str; 2] = ["cpu", "memory"];
const ONLY: &str = "only cpu and memory resources are mutable";
const RESTART: &str = "RestartContainer";

/// Checks what a container says of its own resizing.
pub(super) fn policy(field: &str, one: &Value, restart: &str, causes: &mut Causes) {
    let at = format!("{field}.resizePolicy");
    let mut seen = HashSet::new();
    for policy in json::array(one, "resizePolicy") {
        let resource = json::text(policy, "resourceName");
        match resource {
            "cpu" | "memory" => {}
            "" => causes.required(&at, ""),
            other => causes.unsupported(&at, &other.into(), &COMPUTED),
        }
        match json::text(policy, "restartPolicy") {
            "NotRequired" => {}
            RESTART if restart == "Never" => {
                let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
                causes.invalid(&at, &RESTART.into(), detail);
            }
            RESTART => {}
            "" => causes.required(&at, ""),
            other => causes.unsupported(&at, &other.into(), &["NotRequired", RESTART]),
        }
        if !seen.insert(resource) {
            causes.duplicate(&at, &resource.into());
        }
    }
}

/// Returns the old pod with the resources and resize policies that the new one has, container by container.
pub(crate) fn with(new: &Value, old: &Value) -> Value {
    let mut pod = old.clone();
    for list in ["containers", "initContainers"] {
        for container in json::elements_mut(&mut pod["spec"], list) {
            let wanted = json::array(&new["spec"], list);
            let same = wanted.iter().find(|one| one["name"] == container["name"]);
            for member in ["resources", "resizePolicy"] {
                match same.map(|same| same.get(member)) {
                    Some(Some(value)) => container[member] = value.clone(),
                    Some(None) if container.get(member).is_some() => {
                        container.as_object_mut().map(|container| container.remove(member));
                    }
                    _ => {}
                }
            }
        }
    }
    pod
}

/// Refuses what cannot change while containers run.
pub(crate) fn update(pod: &Value, old: &Value, causes: &mut Causes) {
    for one in [old, pod] {
        let own = &one["spec"]["resources"];
        if ["requests", "limits"].iter().any(|list| own[*list].as_object().is_some_and(|all| !all.is_empty()))
        {
            return causes.forbidden("", "pods with pod-level resources cannot be resized");
        }
    }
    let class = quality_of_service(&pod["spec"]);
    let before = json::text(old, "status.qosClass");
    let before = if before.is_empty() { quality_of_service(&old["spec"]) } else { before };
    if class != before {
        causes.invalid("spec", &before.into(), "Pod QOS Class may not change as a result of resizing");
    }
    if !is_supported(old) {
        causes.forbidden("spec", "Pod running on node without support for resize");
    }
    let (new_list, old_list) = (json::array(pod, "spec.containers"), json::array(old, "spec.containers"));
    for (index, (one, before)) in new_list.iter().zip(old_list).enumerate() {
        container(&format!("spec.containers[{index}].resources"), one, before, causes);
        if without_computed(one, before) != *before {
            causes.forbidden("spec", ONLY);
        }
    }
    let lists = [pod, old].map(|pod| json::array(pod, "spec.initContainers"));
    if lists[0] != lists[1] {
        causes.forbidden("spec", "resources for non-sidecar init containers are immutable");
    }
}

/// Whether the node tells what the containers have: one that does not cannot change it.
fn is_supported(pod: &Value) -> bool {
    let statuses = json::array(pod, "status.containerStatuses");
    let running = statuses.iter().find(|one| json::at(one, "state.running").is_some());
    running.is_none_or(|one| one.get("resources").is_some())
}

fn container(at: &str, one: &Value, before: &Value, causes: &mut Causes) {
    for list in ["requests", "limits"] {
        let (new, old) = (&one["resources"][list], &before["resources"][list]);
        if old.as_object().into_iter().flatten().any(|(resource, _)| new.get(resource).is_none()) {
            causes.forbidden(&format!("{at}.{list}"), &format!("resource {list} cannot be removed"));
        }
    }
    let policies = json::array(one, "resizePolicy");
    let policy = policies.iter().find(|policy| json::text(policy, "resourceName") == "memory");
    if policy.is_some_and(|policy| json::text(policy, "restartPolicy") == RESTART) {
        return;
    }
    let limit = |one: &Value| amount(&one["resources"]["limits"]["memory"]);
    let at = format!("{at}.limits[memory]");
    match (limit(one), limit(before)) {
        (Some(new), Some(old)) if new < old => {
            causes
                .forbidden(&at, "memory limits cannot be decreased unless resizePolicy is RestartContainer");
        }
        (Some(_), None) => {
            causes.forbidden(&at, "memory limits cannot be added unless resizePolicy is RestartContainer");
        }
        _ => {}
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::Null => None,
        Value::String(text) => Quantity::parse(text).ok(),
        other => Quantity::parse(&other.to_string()).ok(),
    }
}

/// Returns a container with the processors and the memory that it had before.
fn without_computed(one: &Value, before: &Value) -> Value {
    let mut one = one.clone();
    for list in ["requests", "limits"] {
        let Some(old) = json::object(before, "resources").and_then(|all| all.get(list)?.as_object()) else {
            // Nothing was said before: cpu and memory may be.
            if let Some(resources) = one.get_mut("resources").and_then(Value::as_object_mut) {
                let others = resources
                    .get(list)
                    .and_then(Value::as_object)
                    .is_some_and(|all| all.keys().any(|resource| !COMPUTED.contains(&resource.as_str())));
                if !others {
                    resources.remove(list);
                }
            }
            continue;
        };
        json::object_mut(&mut one, "resources");
        let new = json::object_mut(&mut one["resources"], list);
        for resource in COMPUTED {
            match old.get(resource) {
                Some(value) => new.insert(resource.into(), value.clone()),
                None => new.remove(resource),
            };
        }
    }
    if one["resources"].is_null() {
        one["resources"] = json!({});
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: Value, policy: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources, "resizePolicy": policy}]}})
    }

    fn said(new: Value, old: Value, policy: Value) -> String {
        let mut causes = Causes::default();
        update(&pod(new, policy.clone()), &pod(old, policy), &mut causes);
        causes.summary()
    }

    #[test]
    fn processors_and_memory_change_within_the_class() {
        let of = |cpu: &str, memory: &str| {
            json!({"requests": {"cpu": "100m", "memory": "20Mi"},
            "limits": {"cpu": cpu, "memory": memory}})
        };
        let old = of("200m", "30Mi");
        assert_eq!(said(of("300m", "40Mi"), old.clone(), json!([])), "[]");
        let said_of = |new: Value| said(new, old.clone(), json!([]));
        assert!(said_of(of("300m", "25Mi")).contains("spec.containers[0].resources.limits[memory]: Forbidden: memory limits cannot be decreased unless resizePolicy is RestartContainer"));
        let restart = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        assert_eq!(said(of("300m", "25Mi"), old.clone(), restart), "[]");
        assert!(said_of(of("100m", "20Mi")).contains("QOS Class may not change"));
        assert!(
            said_of(json!({"requests": {"cpu": "100m", "memory": "20Mi"}}))
                .contains("resource limits cannot be removed")
        );
        let mut other = of("200m", "30Mi");
        other["limits"]["example.com/card"] = "1".into();
        assert!(said_of(other).contains(ONLY));
    }

    #[test]
    fn a_node_that_does_not_tell_resources_cannot_resize() {
        let mut old = pod(json!({"requests": {"cpu": "100m"}}), json!([]));
        let new = pod(json!({"requests": {"cpu": "200m"}}), json!([]));
        old["status"] = json!({"containerStatuses": [{"state": {"running": {}}}]});
        let mut causes = Causes::default();
        update(&new, &old, &mut causes);
        assert!(causes.summary().contains("Pod running on node without support for resize"));
    }

    #[test]
    fn policies_are_known_and_said_once() {
        let mut causes = Causes::default();
        let one = json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"},
            {"resourceName": "cpu", "restartPolicy": "Sometimes"}, {"resourceName": "disk", "restartPolicy": "NotRequired"}]});
        policy("spec.containers[0]", &one, "Never", &mut causes);
        let said = causes.summary();
        for part in [
            "must be 'NotRequired' when",
            "Unsupported value: \"Sometimes\"",
            "Unsupported value: \"disk\"",
            "Duplicate value: \"cpu\"",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}
