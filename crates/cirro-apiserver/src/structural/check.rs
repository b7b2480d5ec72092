//! The rules that make a schema structural.

use serde_json::Value;

use super::{INT_OR_STRING, PRESERVE, is_set};
use crate::error::Causes;
use crate::json;

/// Deepest nesting of a schema.
const MAX_DEPTH: usize = 100;
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// What may only be said outside of `allOf`, `anyOf`, `oneOf` and `not`.
const STRUCTURE_ONLY: [&str; 7] =
    ["type", "additionalProperties", "default", "title", "description", "nullable", PRESERVE];
const NEVER: [&str; 5] = ["$ref", "definitions", "dependencies", "patternProperties", "id"];

/// Checks the schema of a version of a definition, which stands at `field`.
pub(crate) fn check(field: &str, schema: &Value, causes: &mut Causes) {
    if json::text(schema, "type") != "object" {
        let found = json::text(schema, "type");
        if found.is_empty() {
            causes.required(&format!("{field}.type"), "must not be empty at the root");
        } else {
            causes.invalid(&format!("{field}.type"), &found.into(), "must be object at the root");
        }
    }
    node(field, schema, Where::Root, 0, causes);
}

/// Where in a schema a part of it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Root,
    Member,
    Item,
}

fn node(field: &str, schema: &Value, place: Where, depth: usize, causes: &mut Causes) {
    if depth > MAX_DEPTH {
        causes.forbidden(field, "the schema is nested too deeply");
        return;
    }
    forbidden(field, schema, causes);
    let kind = json::text(schema, "type");
    if kind.is_empty() {
        if place != Where::Root && !is_set(schema, INT_OR_STRING) && !is_set(schema, PRESERVE) {
            let what = if place == Where::Item { "array items" } else { "object fields" };
            causes.required(&format!("{field}.type"), &format!("must not be empty for specified {what}"));
        }
    } else if !TYPES.contains(&kind) {
        causes.unsupported(&format!("{field}.type"), &kind.into(), &TYPES);
    } else if is_set(schema, INT_OR_STRING) {
        let detail = "type must be empty if x-kubernetes-int-or-string is true";
        causes.invalid(&format!("{field}.type"), &kind.into(), detail);
    }
    if kind == "array" && schema.get("items").is_none() {
        causes.required(&format!("{field}.items"), "must be specified");
    }
    if schema.get("properties").is_some()
        && schema.get("additionalProperties").is_some_and(|one| *one != false)
    {
        causes.forbidden(
            &format!("{field}.additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        );
    }
    lists(field, schema, causes);
    default(field, schema, causes);
    super::rules::check(field, schema, place == Where::Root, causes);
    for (name, inner) in json::object(schema, "properties").into_iter().flatten() {
        let field = format!("{field}.properties[{name}]");
        if place == Where::Root && name == "metadata" {
            metadata(&field, inner, causes);
        } else {
            node(&field, inner, Where::Member, depth + 1, causes);
        }
    }
    for member in ["items", "additionalProperties"] {
        match schema.get(member) {
            Some(inner) if inner.is_object() => {
                let place = if member == "items" { Where::Item } else { Where::Member };
                node(&format!("{field}.{member}"), inner, place, depth + 1, causes);
            }
            Some(Value::Array(_)) => {
                causes.forbidden(
                    &format!("{field}.{member}"),
                    "items must be a schema object and not an array",
                );
            }
            _ => {}
        }
    }
    junctors(field, schema, depth, causes);
}

fn forbidden(field: &str, schema: &Value, causes: &mut Causes) {
    for member in NEVER.iter().filter(|member| schema.get(**member).is_some_and(|one| !one.is_null())) {
        causes.forbidden(&format!("{field}.{member}"), &format!("{member} is not supported"));
    }
    if is_set(schema, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        causes.forbidden(&format!("{field}.uniqueItems"), detail);
    }
    if schema.get(PRESERVE) == Some(&Value::Bool(false)) {
        causes.invalid(&format!("{field}.{PRESERVE}"), &false.into(), "must be true or undefined");
    }
}

/// A default is an object of the schema itself.
fn default(field: &str, schema: &Value, causes: &mut Causes) {
    let Some(default) = schema.get("default").filter(|default| !default.is_null()) else { return };
    let field = format!("{field}.default");
    let mut pruned = default.clone();
    let gone = super::prune_value(schema, &mut pruned);
    if !gone.is_empty() {
        causes.invalid(&field, default, "must not have unknown fields");
    }
    super::fill(schema, &mut pruned);
    let mut faults = Causes::default();
    super::validate(schema, &pruned, None, &mut faults);
    causes.extend_under(&field, faults);
}

/// Only the name's form may be said of an object's own metadata.
fn metadata(field: &str, schema: &Value, causes: &mut Causes) {
    let strange = schema.as_object().is_some_and(|all| {
        all.keys().any(|one| !["type", "properties", "description"].contains(&one.as_str()))
    });
    let named = json::object(schema, "properties").into_iter().flatten();
    if strange || named.map(|(name, _)| name).any(|name| name != "name" && name != "generateName") {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        causes.forbidden(field, detail);
    }
}

fn lists(field: &str, schema: &Value, causes: &mut Causes) {
    let map_type = json::text(schema, "x-kubernetes-map-type");
    if !matches!(map_type, "" | "atomic" | "granular") {
        let field = format!("{field}.x-kubernetes-map-type");
        causes.unsupported(&field, &map_type.into(), &["atomic", "granular"]);
    }
    let keys = json::array(schema, "x-kubernetes-list-map-keys");
    match json::text(schema, "x-kubernetes-list-type") {
        "" | "atomic" | "set" if !keys.is_empty() => {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            causes.invalid(
                &format!("{field}.x-kubernetes-list-type"),
                &schema["x-kubernetes-list-type"],
                detail,
            );
        }
        "" | "atomic" | "set" => {}
        "map" => {
            if keys.is_empty() {
                let detail = "must not be empty if x-kubernetes-list-type is map";
                causes.required(&format!("{field}.x-kubernetes-list-map-keys"), detail);
            }
            for (index, key) in keys.iter().enumerate() {
                let name = key.as_str().unwrap_or_default();
                if json::object(schema, "items.properties").is_none_or(|all| !all.contains_key(name)) {
                    let field = format!("{field}.x-kubernetes-list-map-keys[{index}]");
                    causes.invalid(&field, key, "must be the name of a property of the items");
                    continue;
                }
                let required = json::array(schema, "items.required").iter().any(|one| one == name);
                if !required && schema["items"]["properties"][name].get("default").is_none() {
                    let field = format!("{field}.items.properties[{name}].default");
                    let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                    causes.required(&field, detail);
                }
            }
        }
        other => {
            let field = format!("{field}.x-kubernetes-list-type");
            causes.unsupported(&field, &other.into(), &["atomic", "map", "set"]);
        }
    }
}

fn junctors(field: &str, schema: &Value, depth: usize, causes: &mut Causes) {
    for member in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in json::array(schema, member).iter().enumerate() {
            junctor(
                &format!("{field}.{member}[{index}]"),
                inner,
                is_set(schema, INT_OR_STRING),
                depth + 1,
                causes,
            );
        }
    }
    if let Some(inner) = schema.get("not").filter(|inner| inner.is_object()) {
        junctor(&format!("{field}.not"), inner, false, depth + 1, causes);
    }
}

fn junctor(field: &str, schema: &Value, types_allowed: bool, depth: usize, causes: &mut Causes) {
    if depth > MAX_DEPTH {
        causes.forbidden(field, "the schema is nested too deeply");
        return;
    }
    forbidden(field, schema, causes);
    for member in STRUCTURE_ONLY {
        let said = schema.get(member).is_some_and(|one| !one.is_null() && *one != "");
        if said && !(member == "type" && types_allowed) {
            causes.forbidden(&format!("{field}.{member}"), "must be empty to be structural");
        }
    }
    for (name, inner) in json::object(schema, "properties").into_iter().flatten() {
        junctor(&format!("{field}.properties[{name}]"), inner, types_allowed, depth + 1, causes);
    }
    if let Some(inner) = schema.get("items").filter(|inner| inner.is_object()) {
        junctor(&format!("{field}.items"), inner, types_allowed, depth + 1, causes);
    }
    junctors(field, schema, depth, causes);
}
