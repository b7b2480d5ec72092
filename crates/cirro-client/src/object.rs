//! Reading the members that every object has.

use std::collections::BTreeMap;

use cirro_seams::api::{ObjectKey, Resource};
use serde_json::Value;

/// Returns a string at a JSON pointer, empty when there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Returns `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// Returns `metadata.namespace`, empty for cluster-scoped objects.
pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// Returns `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// Returns namespace and name, the key of most queues.
pub fn namespaced_name(object: &Value) -> (String, String) {
    (namespace(object).to_owned(), name(object).to_owned())
}

/// Returns an object's place, given its resource.
pub fn key_of(resource: &Resource, object: &Value) -> ObjectKey {
    ObjectKey { resource: resource.clone(), namespace: namespace(object).into(), name: name(object).into() }
}

/// Returns the uid of the owner that controls the object, if there is one.
pub fn controller_uid(object: &Value) -> Option<&str> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let controller = owners.iter().find(|owner| owner["controller"] == true)?;
    controller["uid"].as_str()
}

/// Returns `metadata.labels`.
pub fn labels(object: &Value) -> BTreeMap<&str, &str> {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    labels.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect()
}

/// Whether labels fit a selector: a `LabelSelector` (`matchLabels`, `matchExpressions`) or a plain map.
///
/// An absent or empty selector fits nothing when it is a plain map (as a Service's), everything when it is an
/// empty `LabelSelector`, as upstream has it.
pub fn matches_labels(selector: &Value, labels: &BTreeMap<&str, &str>) -> bool {
    let Some(selector) = selector.as_object() else { return false };
    let is_selector = selector.is_empty()
        || selector.contains_key("matchLabels")
        || selector.contains_key("matchExpressions");
    let all = |map: &serde_json::Map<String, Value>| {
        map.iter().all(|(key, value)| labels.get(key.as_str()).copied() == value.as_str())
    };
    if !is_selector {
        return all(selector);
    }
    let equal = selector.get("matchLabels").and_then(Value::as_object).is_none_or(all);
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    equal && expressions.into_iter().flatten().all(|expression| matches_expression(expression, labels))
}

fn matches_expression(expression: &Value, labels: &BTreeMap<&str, &str>) -> bool {
    let value = labels.get(text(expression, "/key"));
    let values = || expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
    match text(expression, "/operator") {
        "In" => value.is_some_and(|value| values().any(|wanted| wanted == *value)),
        "NotIn" => value.is_none_or(|value| values().all(|unwanted| unwanted != *value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_fit_as_upstream_has_it() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front"}}});
        let labels = labels(&object);
        for (selector, fits) in [
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (json!({"app": "web", "tier": "front"}), true),
            (json!({"app": "web", "x": "y"}), false),
            (json!({}), true),
            (json!(null), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "web"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}), false),
            (json!({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["web"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
        ] {
            assert_eq!(matches_labels(&selector, &labels), fits, "{selector}");
        }
    }

    #[test]
    fn only_the_controlling_owner_counts() {
        let object =
            json!({"metadata": {"ownerReferences": [{"uid": "a"}, {"uid": "b", "controller": true}]}});
        assert_eq!(controller_uid(&object), Some("b"));
        assert_eq!(controller_uid(&json!({"metadata": {}})), None);
    }
}
