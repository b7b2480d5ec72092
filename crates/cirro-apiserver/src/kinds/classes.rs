//! node.k8s.io/v1 RuntimeClass and scheduling.k8s.io/v1 PriorityClass.
//!
//! Source: `pkg/apis/{node,scheduling}/validation`, `pkg/apis/scheduling/v1/helpers.go`.

use serde_json::Value;

use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy};
use crate::table::cluster as columns;
use crate::validate::fields::{one_of, required, unchanged};
use crate::validate::{self, NameRule};

/// Highest priority that a class of a user may have.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;
/// The classes that the server itself has: name, value, description.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::cluster("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses")
            .schema("io.k8s.api.node.v1.RuntimeClass")
            .columns(columns::runtime_class())
            .strategy(&RuntimeClass),
        Kind::cluster("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
            .short(&["pc"])
            .schema("io.k8s.api.scheduling.v1.PriorityClass")
            .columns(columns::priority_class())
            .strategy(&PriorityClass),
    ]
}

/// Returns the priority classes that every cluster has.
pub(crate) fn system_priorities() -> Vec<Value> {
    let class = |(name, value): &(&str, i64)| {
        let description = if name.contains("node") {
            "Used for system critical pods that must not be moved from their current node."
        } else {
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."
        };
        serde_json::json!({"metadata": {"name": name}, "value": value, "description": description})
    };
    SYSTEM_CLASSES.iter().map(class).collect()
}

struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn validate(&self, object: &Value, causes: &mut Causes) {
        if required("handler", object, "", causes)
            && let Err(why) = NameRule::Label.check(json::text(object, "handler"))
        {
            causes.invalid("handler", &object["handler"], &why);
        }
        validate::labels("scheduling.nodeSelector", json::at(object, "scheduling.nodeSelector"), causes);
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        validate::immutable("handler", object, old, causes);
    }
}

struct PriorityClass;

impl Strategy for PriorityClass {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        set_default(object, "preemptionPolicy", "PreemptLowerPriority");
        set_default(object, "value", 0);
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let (name, value) = (json::name(object), json::number(object, "value").unwrap_or(0));
        if name.starts_with("system-") {
            if !SYSTEM_CLASSES.contains(&(name, value)) {
                let detail = "priority class names with 'system-' prefix are reserved for system use only. error: not a known system priority class";
                causes.forbidden("metadata.name", detail);
            }
        } else if value > HIGHEST_USER_PRIORITY {
            let detail =
                format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
            causes.forbidden("value", &detail);
        }
        one_of("preemptionPolicy", object, &["Never", "PreemptLowerPriority"], causes);
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        unchanged("value", object, old, "may not be changed in an update.", causes);
        validate::immutable("preemptionPolicy", object, old, causes);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_systems_classes_are_above_a_milliard() {
        let faults = |object: Value| {
            let mut causes = Causes::default();
            PriorityClass.validate(&object, &mut causes);
            format!("{causes:?}")
        };
        assert!(system_priorities().into_iter().all(|class| faults(class) == "Causes([])"));
        assert!(
            faults(json!({"metadata": {"name": "a"}, "value": 1_000_000_001})).contains("maximum allowed")
        );
        assert!(faults(json!({"metadata": {"name": "system-x"}, "value": 1})).contains("reserved"));
    }
}
