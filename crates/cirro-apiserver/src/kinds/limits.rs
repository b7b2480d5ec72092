//! core/v1 LimitRange and ResourceQuota.
//!
//! Source: `pkg/apis/core/v1/defaults.go`, `pkg/apis/core/validation/validation.go`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::Causes;
use crate::json;
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::limits as columns;
use crate::validate::is_qualified_name;
use crate::validate::quantity::Quantity;

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::namespaced("", "v1", "LimitRange", "limitranges")
            .short(&["limits"])
            .schema("io.k8s.api.core.v1.LimitRange")
            .columns(columns::limit_range())
            .strategy(&LimitRange),
        Kind::namespaced("", "v1", "ResourceQuota", "resourcequotas")
            .short(&["quota"])
            .schema("io.k8s.api.core.v1.ResourceQuota")
            .subresources(&[Subresource::Status])
            .columns(columns::quota())
            .strategy(&ResourceQuota),
    ]
}

struct LimitRange;

impl Strategy for LimitRange {
    fn defaults(&self, object: &mut Value) {
        for limit in json::elements_mut(&mut object["spec"], "limits") {
            if json::text(limit, "type") != "Container" {
                continue;
            }
            for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                let source = json::object(limit, from).cloned().unwrap_or_default();
                if source.is_empty() {
                    continue;
                }
                let target = json::object_mut(limit, to);
                for (resource, value) in source {
                    target.entry(resource).or_insert(value);
                }
            }
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let mut types = Vec::new();
        for (index, limit) in json::array(object, "spec.limits").iter().enumerate() {
            let field = format!("spec.limits[{index}]");
            let kind = json::text(limit, "type");
            if kind.is_empty() {
                causes.required(&format!("{field}.type"), "");
            } else if types.contains(&kind) {
                causes.duplicate(&format!("{field}.type"), &kind.into());
            }
            types.push(kind);
            validate_limit(&field, kind, limit, causes);
        }
    }
}

fn validate_limit(field: &str, kind: &str, limit: &Value, causes: &mut Causes) {
    let amounts =
        |member: &str, causes: &mut Causes| amounts(&format!("{field}.{member}"), &limit[member], causes);
    let (min, max) = (amounts("min", causes), amounts("max", causes));
    let (default, request) = (amounts("default", causes), amounts("defaultRequest", causes));
    let ratios = amounts("maxLimitRequestRatio", causes);
    if kind == "Pod" {
        for (member, given) in [("default", &default), ("defaultRequest", &request)] {
            if !given.is_empty() {
                let what = "may not be specified when `type` is 'Pod'";
                causes.forbidden(&format!("{field}.{member}"), what);
            }
        }
    }
    if kind == "PersistentVolumeClaim" && !min.contains_key("storage") && !max.contains_key("storage") {
        let what = "either minimum or maximum storage value is required, but neither was provided";
        causes.required(&format!("{field}.limits"), what);
    }
    let mut ordered = |(low, low_name): (&Amounts, &str), (high, high_name): (&Amounts, &str), at: &str| {
        for (resource, (value, text)) in low {
            if let Some((_, other)) = high.get(resource).filter(|(other, _)| value > other) {
                let what = format!("{low_name} value {text} is greater than {high_name} value {other}");
                causes.invalid(&format!("{field}.{at}[{resource}]"), &text.as_str().into(), &what);
            }
        }
    };
    ordered((&min, "min"), (&max, "max"), "min");
    ordered((&min, "min"), (&request, "default request"), "defaultRequest");
    ordered((&request, "default request"), (&max, "max"), "defaultRequest");
    ordered((&request, "default request"), (&default, "default limit"), "defaultRequest");
    ordered((&min, "min"), (&default, "default"), "default");
    ordered((&default, "default"), (&max, "max"), "default");
    for (resource, (value, text)) in &ratios {
        if *value < Quantity::from_units(1) {
            let what = format!("ratio {text} is less than 1");
            causes.invalid(
                &format!("{field}.maxLimitRequestRatio[{resource}]"),
                &text.as_str().into(),
                &what,
            );
        }
    }
}

type Amounts = BTreeMap<String, (Quantity, String)>;

/// Reads a map of quantities and notes what is wrong with it.
fn amounts(field: &str, map: &Value, causes: &mut Causes) -> Amounts {
    let mut amounts = Amounts::new();
    for (resource, value) in map.as_object().into_iter().flatten() {
        let at = format!("{field}[{resource}]");
        if !is_qualified_name(resource) {
            causes.invalid(
                &at,
                &resource.as_str().into(),
                "must be a standard resource type or fully qualified",
            );
        }
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match Quantity::parse(&text) {
            Ok(quantity) if quantity.is_negative() => {
                causes.invalid(&at, value, "must be greater than or equal to 0");
            }
            Ok(quantity) => {
                amounts.insert(resource.clone(), (quantity, text));
            }
            Err(why) => causes.invalid(&at, value, &why),
        }
    }
    amounts
}

struct ResourceQuota;

const SCOPES: [&str; 6] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
];

impl Strategy for ResourceQuota {
    fn validate(&self, object: &Value, causes: &mut Causes) {
        amounts("spec.hard", &object["spec"]["hard"], causes);
        let scopes: Vec<_> = json::array(object, "spec.scopes").iter().filter_map(Value::as_str).collect();
        for scope in &scopes {
            if !SCOPES.contains(scope) {
                causes.invalid("spec.scopes", &(*scope).into(), "unsupported scope");
            }
        }
        for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
            if scopes.contains(&one) && scopes.contains(&other) {
                causes.invalid("spec.scopes", &object["spec"]["scopes"], "conflicting scopes");
            }
        }
        let terms = json::array(object, "spec.scopeSelector.matchExpressions");
        for (index, term) in terms.iter().enumerate() {
            validate_term(&format!("spec.scopeSelector.matchExpressions[{index}]"), term, causes);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        let sorted = |object: &Value| {
            let mut scopes: Vec<_> =
                json::array(object, "spec.scopes").iter().map(Value::to_string).collect();
            scopes.sort();
            scopes
        };
        if sorted(object) != sorted(old) {
            causes.invalid("spec.scopes", &object["spec"]["scopes"], "field is immutable");
        }
    }
}

fn validate_term(field: &str, term: &Value, causes: &mut Causes) {
    let scope = json::text(term, "scopeName");
    if !SCOPES.contains(&scope) {
        causes.invalid(&format!("{field}.scopeName"), &scope.into(), "unsupported scope");
    }
    let values = json::array(term, "values");
    match json::text(term, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let what = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            causes.required(&format!("{field}.values"), what);
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let what = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
            causes.invalid(&format!("{field}.values"), &term["values"], what);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {
            if scope != "PriorityClass" && json::text(term, "operator") != "Exists" {
                let what = format!("must be 'Exist' when scope is any of {}", SCOPES.join(", "));
                causes.invalid(&format!("{field}.operator"), &term["operator"], &what);
            }
        }
        _ => causes.invalid(&format!("{field}.operator"), &term["operator"], "not a valid selector operator"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_of_containers_get_their_defaults() {
        let mut range = json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}},
            {"type": "Pod", "max": {"cpu": "2"}}]}});
        LimitRange.defaults(&mut range);
        let container = &range["spec"]["limits"][0];
        assert_eq!(container["default"], json!({"cpu": "2"}));
        assert_eq!(container["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        assert!(range["spec"]["limits"][1].get("default").is_none());
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let faults = |limit: Value| {
            let mut causes = Causes::default();
            LimitRange.validate(&json!({"spec": {"limits": [limit]}}), &mut causes);
            !causes.is_empty()
        };
        assert!(faults(json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}})));
        assert!(faults(json!({"type": "Pod", "default": {"cpu": "1"}})));
        assert!(faults(json!({"min": {"cpu": "1"}})));
        assert!(faults(json!({"type": "Container", "max": {"cpu": "x"}})));
        assert!(!faults(json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "1"}})));
    }
}
