//! policy/v1: PodDisruptionBudget.

use serde_json::Value;

use crate::error::Causes;
use crate::json;
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::batch as columns;
use crate::validate::fields::{one_of, share};
use crate::validate::selector;

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::namespaced("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            .short(&["pdb"])
            .schema("io.k8s.api.policy.v1.PodDisruptionBudget")
            .subresources(&[Subresource::Status])
            .columns(columns::disruption_budget())
            .view(super::retired::disruption_budget_view())
            .strategy(&PodDisruptionBudget),
    ]
}

struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = serde_json::json!({"disruptionsAllowed": 0, "currentHealthy": 0,
            "desiredHealthy": 0, "expectedPods": 0});
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let spec = &object["spec"];
        if spec.get("minAvailable").is_some() && spec.get("maxUnavailable").is_some() {
            causes.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for member in ["minAvailable", "maxUnavailable"] {
            share(&format!("spec.{member}"), object, causes);
        }
        if let Some(chosen) = json::at(object, "spec.selector") {
            selector::check("spec.selector", chosen, causes);
        }
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        one_of("spec.unhealthyPodEvictionPolicy", object, &policies, causes);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_budget_says_one_thing() {
        let faults = |spec: Value| {
            let mut causes = Causes::default();
            PodDisruptionBudget.validate(&json!({"spec": spec}), &mut causes);
            format!("{causes:?}")
        };
        assert_eq!(faults(json!({"minAvailable": "50%"})), "Causes([])");
        assert!(faults(json!({"minAvailable": 1, "maxUnavailable": 1})).contains("cannot be both set"));
        assert!(faults(json!({"minAvailable": "101%"})).contains("must not be greater than 100%"));
    }
}
