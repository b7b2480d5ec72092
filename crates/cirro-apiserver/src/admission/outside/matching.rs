//! Which writes a webhook or a policy is about.
//!
//! Source: apiserver `pkg/admission/plugin/webhook/predicates/rules`.

use serde_json::Value;

use super::Attributes;
use crate::json;
use crate::registry::{Registry, Served};
use crate::validate::selector;

/// Returns the version in which a write is told, when one of the rules is about it.
pub(super) fn rule_version(
    rules: &[Value],
    registry: &Registry,
    attributes: &Attributes<'_>,
) -> Option<Served> {
    rules.iter().find_map(|rule| version_of(rule, registry, attributes))
}

fn version_of(rule: &Value, registry: &Registry, attributes: &Attributes<'_>) -> Option<Served> {
    let kind = attributes.kind;
    let among =
        |member: &str, wanted: &str| json::array(rule, member).iter().any(|one| one == "*" || *one == wanted);
    let scope = match json::text(rule, "scope") {
        "Namespaced" => kind.namespaced,
        "Cluster" => !kind.namespaced,
        _ => true,
    };
    let names = super::texts(rule, "resourceNames");
    let named = names.is_empty() || names.iter().any(|name| name == attributes.name);
    let is_meant = scope
        && named
        && among("operations", attributes.operation.word())
        && among("apiGroups", &kind.group)
        && json::array(rule, "resources")
            .iter()
            .filter_map(Value::as_str)
            .any(|one| resource_fits(one, attributes));
    if !is_meant {
        return None;
    }
    if among("apiVersions", &kind.version) {
        return Some(Served::storage(kind.clone()));
    }
    // Asked in another version, it is told in the one that the rule knows.
    let versions = json::array(rule, "apiVersions").iter().filter_map(Value::as_str);
    versions.filter_map(|version| registry.served(&kind.group, version, &kind.plural)).next().cloned()
}

fn resource_fits(pattern: &str, attributes: &Attributes<'_>) -> bool {
    let (plural, subresource) = pattern.split_once('/').unwrap_or((pattern, ""));
    let fits = |pattern: &str, name: &str| pattern == "*" || pattern == name;
    fits(plural, &attributes.kind.plural) && (fits(subresource, attributes.subresource) || pattern == "*/*")
}

/// Whether the selectors let a write through.
pub(super) fn selected(
    namespaces: &Value,
    objects: &Value,
    namespace: Option<&Value>,
    attributes: &Attributes<'_>,
) -> bool {
    let in_namespace = namespace.is_none_or(|namespace| is_selected(namespaces, namespace));
    let mut of_object = [attributes.object, attributes.old].into_iter().flatten();
    in_namespace && of_object.any(|object| is_selected(objects, object))
}

/// Whether a selector, which may be absent, selects an object.
pub(super) fn is_selected(selector: &Value, object: &Value) -> bool {
    selector::matches(selector, object["metadata"].get("labels"))
}
