//! Structural schemas: what a CustomResourceDefinition says its objects look like.
//!
//! Everything works on the schema as JSON: it is checked once, when the definition is written, and then walked beside
//! each object: `prune` takes out what it does not name, `fill` puts defaults in, `validate` finds faults.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema` (structural rules, pruning, defaulting), kube-openapi
//! `pkg/validation` (the words of faults).

use serde_json::{Map, Value};

use crate::custom::METADATA;
use crate::json;
use crate::schema;

mod check;
pub(crate) mod pattern;
mod rules;
mod validate;

pub(crate) use check::check;
pub(crate) use rules::Rules;
pub(crate) use validate::{format_fits, validate};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

fn is_set(schema: &Value, extension: &str) -> bool {
    schema.get(extension) == Some(&Value::Bool(true))
}

/// Whether a schema keeps members that it does not name.
pub(crate) fn keeps_unknown(schema: &Value) -> bool {
    is_set(schema, PRESERVE)
}

/// Whether a value is an object of the API in itself.
pub(crate) fn is_embedded(schema: &Value) -> bool {
    is_set(schema, EMBEDDED)
}

/// Returns the element of an older list that a newer one's stands for, where the schema tells elements apart.
fn counterpart<'a>(schema: &Value, item: &Value, old: &'a Value) -> Option<&'a Value> {
    if json::text(schema, "x-kubernetes-list-type") != "map" {
        return None;
    }
    let keys = keys_of(schema, item);
    old.as_array()?.iter().find(|one| keys_of(schema, one) == keys)
}

/// Returns what tells an element of a list apart.
fn keys_of(schema: &Value, item: &Value) -> String {
    let keys = json::array(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str);
    let found: Vec<_> = keys.map(|key| item.get(key).cloned().unwrap_or_default()).collect();
    Value::Array(found).to_string()
}

/// Takes out the members that a schema does not name; returns their paths. The members that every object has
/// (`apiVersion`, `kind`, `metadata`) are let be at the root.
pub(crate) fn prune(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut gone = Vec::new();
    prune_at(schema, object, "", true, &mut gone);
    gone
}

/// Does the same with a value that is no object of the API.
fn prune_value(schema: &Value, value: &mut Value) -> Vec<String> {
    let mut gone = Vec::new();
    prune_at(schema, value, "", is_embedded(schema), &mut gone);
    gone
}

fn prune_at(schema: &Value, value: &mut Value, path: &str, is_resource: bool, gone: &mut Vec<String>) {
    match value {
        Value::Object(members) => prune_object(schema, members, path, is_resource, gone),
        Value::Array(items) => {
            let Some(inner) = schema.get("items") else { return };
            for (index, item) in items.iter_mut().enumerate() {
                prune_at(inner, item, &format!("{path}[{index}]"), is_set(inner, EMBEDDED), gone);
            }
        }
        _ => {}
    }
}

fn prune_object(
    schema: &Value,
    members: &mut Map<String, Value>,
    path: &str,
    is_resource: bool,
    gone: &mut Vec<String>,
) {
    let (properties, others) = (json::object(schema, "properties"), schema.get("additionalProperties"));
    let keeps = is_set(schema, PRESERVE) || others == Some(&Value::Bool(true));
    let mut unknown = Vec::new();
    for (name, value) in members.iter_mut() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if is_resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            // The root's metadata is looked at with the object itself.
            if name == "metadata" && path != "metadata" && value.is_object() {
                let checked = schema::check(METADATA, value);
                gone.extend(checked.unknown.iter().map(|unknown| format!("{path}.{unknown}")));
            }
            continue;
        }
        match (properties.and_then(|all| all.get(name)), others) {
            (Some(inner), _) => prune_at(inner, value, &path, is_set(inner, EMBEDDED), gone),
            (None, Some(inner)) if inner.is_object() => {
                prune_at(inner, value, &path, is_set(inner, EMBEDDED), gone);
            }
            _ if keeps => {}
            _ => {
                gone.push(path);
                unknown.push(name.clone());
            }
        }
    }
    unknown.iter().for_each(|name| drop(members.remove(name)));
}

/// Puts in the defaults of members that are absent, also below ones that it puts in. A null where none is allowed counts as
/// absent.
pub(crate) fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, inner) in json::object(schema, "properties").into_iter().flatten() {
                let null = members.get(name).is_some_and(Value::is_null);
                let absent = !members.contains_key(name) || (null && !is_set(inner, "nullable"));
                if let Some(default) = inner.get("default").filter(|_| absent) {
                    members.insert(name.clone(), default.clone());
                }
                if let Some(value) = members.get_mut(name) {
                    fill(inner, value);
                }
            }
            if let Some(inner) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
                let named = json::object(schema, "properties");
                let others =
                    members.iter_mut().filter(|(name, _)| named.is_none_or(|all| !all.contains_key(*name)));
                others.for_each(|(_, value)| fill(inner, value));
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                items.iter_mut().for_each(|item| fill(inner, item));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
