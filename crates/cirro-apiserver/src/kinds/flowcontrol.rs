//! flowcontrol.apiserver.k8s.io/v1: FlowSchema, PriorityLevelConfiguration; `fairness` acts by them.
//!
//! Source: `pkg/apis/flowcontrol/v1/defaults.go`, `pkg/apis/flowcontrol/validation/validation.go`.

use serde_json::{Value, json};

use crate::error::Causes;
use crate::fairness::defaults::status;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::cluster as columns;
use crate::validate;
use crate::validate::fields::{between, required, required_one_of};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::cluster(GROUP, "v1", "FlowSchema", "flowschemas")
            .schema("io.k8s.api.flowcontrol.v1.FlowSchema")
            .subresources(&[Subresource::Status])
            .columns(columns::flow_schema())
            .strategy(&FlowSchema),
        Kind::cluster(GROUP, "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
            .schema("io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration")
            .subresources(&[Subresource::Status])
            .columns(columns::priority_level())
            .strategy(&PriorityLevel),
    ]
}

struct FlowSchema;

impl Strategy for FlowSchema {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        json::object_mut(object, "spec");
        if json::number(object, "spec.matchingPrecedence").unwrap_or(0) == 0 {
            object["spec"]["matchingPrecedence"] = 1000.into();
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        // Admission looks; what the server makes itself comes with its level.
        object["status"] = status(json::text(object, "spec.priorityLevelConfiguration.name"), true);
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        between("spec.matchingPrecedence", object, 1, 10_000, causes);
        if json::at(object, "spec.distinguisherMethod").is_some() {
            required_one_of("spec.distinguisherMethod.type", object, &["ByNamespace", "ByUser"], causes);
        }
        required("spec.priorityLevelConfiguration.name", object, "must reference a priority level", causes);
        for (index, rule) in json::array(object, "spec.rules").iter().enumerate() {
            let field = format!("spec.rules[{index}]");
            let subjects = json::array(rule, "subjects");
            if subjects.is_empty() {
                causes.required(&format!("{field}.subjects"), "subjects must contain at least one value");
            }
            for (at, subject) in subjects.iter().enumerate() {
                let kind = json::text(subject, "kind");
                let kinds = ["Group", "ServiceAccount", "User"];
                if !kinds.contains(&kind) {
                    causes.unsupported(&format!("{field}.subjects[{at}].kind"), &kind.into(), &kinds);
                }
            }
            if json::array(rule, "resourceRules").is_empty()
                && json::array(rule, "nonResourceRules").is_empty()
            {
                let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
                causes.required(&field, detail);
            }
        }
    }
}

struct PriorityLevel;

impl Strategy for PriorityLevel {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        if let Some(exempt) = object.pointer_mut("/spec/exempt").filter(|one| one.is_object()) {
            set_default(exempt, "nominalConcurrencyShares", 0);
            set_default(exempt, "lendablePercent", 0);
        }
        let Some(limited) = object.pointer_mut("/spec/limited").filter(|one| one.is_object()) else { return };
        set_default(limited, "nominalConcurrencyShares", 30);
        set_default(limited, "lendablePercent", 0);
        if let Some(queuing) = limited.pointer_mut("/limitResponse/queuing").filter(|one| one.is_object()) {
            for (member, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                if json::number(queuing, member).unwrap_or(0) == 0 {
                    queuing[member] = value.into();
                }
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({});
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let spec = &object["spec"];
        let limited = spec.get("limited").is_some();
        required_one_of("spec.type", object, &["Exempt", "Limited"], causes);
        match json::text(spec, "type") {
            "Exempt" if limited => {
                let detail = "must be nil if the type is not Limited";
                causes.forbidden("spec.limited", detail);
            }
            "Limited" if !limited => {
                causes.required("spec.limited", "must not be empty when type is Limited");
            }
            "Limited" => self::limited(object, causes),
            _ => {}
        }
    }
}

fn limited(object: &Value, causes: &mut Causes) {
    for kind in ["limited", "exempt"] {
        validate::not_negative(&format!("spec.{kind}.nominalConcurrencyShares"), object, causes);
        between(&format!("spec.{kind}.lendablePercent"), object, 0, 100, causes);
    }
    let response = "spec.limited.limitResponse";
    required_one_of(&format!("{response}.type"), object, &["Queue", "Reject"], causes);
    let queuing = json::at(object, &format!("{response}.queuing"));
    match (json::text(object, &format!("{response}.type")), queuing) {
        ("Reject", Some(_)) => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            causes.forbidden(&format!("{response}.queuing"), detail);
        }
        ("Queue", None) => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            causes.required(&format!("{response}.queuing"), detail);
        }
        ("Queue", Some(queuing)) => {
            let number = |member: &str| json::number(queuing, member).unwrap_or(0);
            let at = |member: &str| format!("{response}.queuing.{member}");
            if number("queueLengthLimit") <= 0 {
                let value = number("queueLengthLimit").into();
                causes.invalid(&at("queueLengthLimit"), &value, "must be positive");
            }
            if number("queues") <= 0 || number("queues") > 10_000_000 {
                let detail = "must be positive and not greater than 10000000";
                causes.invalid(&at("queues"), &number("queues").into(), detail);
            }
            if number("handSize") <= 0 || number("handSize") > number("queues") {
                let detail = format!("should not be greater than queues ({})", number("queues"));
                causes.invalid(&at("handSize"), &number("handSize").into(), &detail);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_get_their_queues() {
        let mut object = json!({"spec": {"type": "Limited", "limited": {
            "limitResponse": {"type": "Queue", "queuing": {}}}}});
        PriorityLevel.defaults(&mut object);
        let mut causes = Causes::default();
        PriorityLevel.validate(&object, &mut causes);
        assert!(causes.is_empty(), "{causes:?}");
        assert_eq!(object["spec"]["limited"]["limitResponse"]["queuing"]["handSize"], 8);
        object["spec"]["type"] = "Exempt".into();
        PriorityLevel.validate(&object, &mut causes);
        assert!(!causes.is_empty());
    }
}
