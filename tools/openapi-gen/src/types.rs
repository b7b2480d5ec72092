//! What the server needs of every type, in few bytes.
//!
//! A type is `{"f": {member: {"t": code, "n": number, ...}}, "i": {number: {number: member}}, "r": [required]}`.
//! Codes: `s` string, `i` int32, `l` int64, `d` number, `b` boolean, `y` bytes, `q` Quantity, `x` IntOrString,
//! `t` Time, `u` MicroTime, `w` RawExtension, `v` FieldsV1, `o` any object, `*` anything, `[` array of, `{` map of,
//! `#name` another type. `i` lists messages that JSON inlines. `p`, `k`, `l`, `m`: patch strategy, merge key, list
//! type, list map keys.

use serde_json::{Map, Value, json};

use crate::protobuf::{Field, Messages, folded};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const PREFIX: &str = "#/components/schemas/";

/// Compacts every object definition.
pub fn compact(definitions: &Map<String, Value>, messages: &Messages) -> Result<Map<String, Value>, String> {
    let mut types = Map::new();
    for (name, schema) in definitions {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let entry = entry(name, properties, schema, messages).map_err(|why| format!("{name}: {why}"))?;
            types.insert(name.clone(), entry);
        }
    }
    Ok(types)
}

fn entry(
    name: &str,
    properties: &Map<String, Value>,
    schema: &Value,
    messages: &Messages,
) -> Result<Value, String> {
    let message = messages.fields(name).unwrap_or_default();
    let mut fields = Map::new();
    for (member, property) in properties {
        let mut field = json!({"t": code(property)?});
        if let Some(number) = number(message, member) {
            field["n"] = number.into();
        }
        for (short, long) in [
            ("p", "x-kubernetes-patch-strategy"),
            ("k", "x-kubernetes-patch-merge-key"),
            ("l", "x-kubernetes-list-type"),
            ("m", "x-kubernetes-list-map-keys"),
        ] {
            if let Some(value) = property.get(long) {
                field[short] = value.clone();
            }
        }
        fields.insert(member.clone(), field);
    }
    let mut entry = json!({"f": fields});
    let inlined = inlined(message, properties, messages);
    if !inlined.is_empty() {
        entry["i"] = Value::Object(inlined);
    }
    if let Some(required) = schema.get("required") {
        entry["r"] = required.clone();
    }
    Ok(entry)
}

fn number(message: &[Field], member: &str) -> Option<u32> {
    message.iter().find(|field| folded(&field.name) == folded(member)).map(|field| field.tag)
}

/// Finds the fields whose members appear in the outer object in JSON.
fn inlined(message: &[Field], properties: &Map<String, Value>, messages: &Messages) -> Map<String, Value> {
    let known = |field: &&Field| !properties.keys().any(|member| folded(member) == folded(&field.name));
    let mut inlined = Map::new();
    for field in message.iter().filter(known) {
        let inner = field.message.as_deref().and_then(|name| messages.fields(name)).unwrap_or_default();
        let members =
            properties.keys().filter_map(|member| Some((number(inner, member)?.to_string(), json!(member))));
        let members: Map<_, _> = members.collect();
        if !members.is_empty() {
            inlined.insert(field.tag.to_string(), Value::Object(members));
        }
    }
    inlined
}

fn code(property: &Value) -> Result<String, String> {
    let reference = property.get("$ref").or_else(|| property["allOf"].get(0)?.get("$ref"));
    if let Some(reference) = reference.and_then(Value::as_str) {
        return Ok(of_reference(reference.strip_prefix(PREFIX).ok_or("foreign reference")?));
    }
    let format = property.get("format").and_then(Value::as_str).unwrap_or_default();
    Ok(match property.get("type").and_then(Value::as_str) {
        Some("string") if format == "byte" => "y".into(),
        Some("string") if format == "date-time" => "t".into(),
        Some("string") => "s".into(),
        Some("integer") if format == "int64" => "l".into(),
        Some("integer") => "i".into(),
        Some("number") => "d".into(),
        Some("boolean") => "b".into(),
        Some("array") => format!("[{}", code(&property["items"])?),
        Some("object") => match property.get("additionalProperties") {
            Some(items) if items.is_object() => format!("{{{}", code(items)?),
            _ => "o".into(),
        },
        None if property["x-kubernetes-int-or-string"] == true => "x".into(),
        None => "*".into(),
        Some(other) => return Err(format!("unknown type {other}")),
    })
}

fn of_reference(name: &str) -> String {
    match name.strip_prefix(META).or_else(|| name.strip_prefix("io.k8s.apimachinery.pkg.")) {
        Some("Time") => "t".into(),
        Some("MicroTime") => "u".into(),
        Some("FieldsV1") => "v".into(),
        Some("api.resource.Quantity") => "q".into(),
        Some("util.intstr.IntOrString") => "x".into(),
        Some("runtime.RawExtension") => "w".into(),
        _ if name.starts_with("io.k8s.apiextensions-apiserver.") && name.contains(".JSONSchemaPropsOr") => {
            "*".into()
        }
        _ if name.ends_with(".apiextensions.v1.JSON") => "*".into(),
        _ => format!("#{name}"),
    }
}
