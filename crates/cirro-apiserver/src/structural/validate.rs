//! Values against a schema, with the faults in upstream's words.

use serde_json::{Number, Value};

use super::{EMBEDDED, INT_OR_STRING, is_set, pattern};
use crate::error::Causes;
use crate::json;

/// Most faults that are told of one object.
const MAX_FAULTS: usize = 100;

/// Checks an object. Parts that are as they were in `old` are let be, whatever the schema says of them now.
pub(crate) fn validate(schema: &Value, object: &Value, old: Option<&Value>, causes: &mut Causes) {
    value_at(schema, object, old, "", causes);
}

fn value_at(schema: &Value, value: &Value, old: Option<&Value>, path: &str, causes: &mut Causes) {
    let skip = (value.is_null() && is_set(schema, "nullable")) || old == Some(value);
    if causes.len() >= MAX_FAULTS || skip {
        return;
    }
    if !type_fits(schema, value) {
        let wanted =
            if is_set(schema, INT_OR_STRING) { "integer,string" } else { json::text(schema, "type") };
        let found = type_of(value);
        causes.type_invalid(
            path,
            found,
            &format!("{} in body must be of type {wanted}: {found:?}", shown(path)),
        );
        return;
    }
    choices(schema, value, path, causes);
    match value {
        Value::String(text) => check_text(schema, text, path, causes),
        Value::Number(number) => check_number(schema, number, path, causes),
        Value::Array(items) => check_list(schema, items, old, path, causes),
        Value::Object(_) => check_object(schema, value, old, path, causes),
        _ => {}
    }
    junctors(schema, value, path, causes);
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "<root>" } else { path }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(number: &Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn type_fits(schema: &Value, value: &Value) -> bool {
    if is_set(schema, INT_OR_STRING) {
        return matches!(value, Value::String(_))
            || matches!(value, Value::Number(number) if is_whole(number));
    }
    match (json::text(schema, "type"), value) {
        ("", _)
        | ("object", Value::Object(_))
        | ("array", Value::Array(_))
        | ("string", Value::String(_))
        | ("boolean", Value::Bool(_))
        | ("number", Value::Number(_)) => true,
        ("integer", Value::Number(number)) => is_whole(number),
        _ => false,
    }
}

fn choices(schema: &Value, value: &Value, path: &str, causes: &mut Causes) {
    let choices = json::array(schema, "enum");
    if !choices.is_empty() && !choices.contains(value) {
        let names: Vec<String> =
            choices.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        causes.unsupported(path, value, &names);
    }
}

fn check_text(schema: &Value, text: &str, path: &str, causes: &mut Causes) {
    let length = text.chars().count() as u64;
    let value = || Value::from(text);
    let at = shown(path);
    if let Some(limit) = schema["maxLength"].as_u64().filter(|limit| length > *limit) {
        causes.too_long(path, &format!("may not be more than {limit} bytes"));
    }
    if let Some(limit) = schema["minLength"].as_u64().filter(|limit| length < *limit) {
        causes.invalid(path, &value(), &format!("{at} in body should be at least {limit} chars long"));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        match pattern::matches(pattern, text) {
            Some(true) => {}
            Some(false) => causes.invalid(path, &value(), &format!("{at} in body should match '{pattern}'")),
            None => {
                causes.invalid(path, &value(), &format!("{at} in body, but pattern is invalid: '{pattern}'"))
            }
        }
    }
    let format = json::text(schema, "format");
    if !format_fits(format, text) {
        let detail = format!("{at} in body must be of type {format}: {text:?}");
        causes.invalid(path, &value(), &detail);
    }
}

/// Whether a text has a format. Formats that are not known are not looked at, as upstream.
pub(crate) fn format_fits(format: &str, text: &str) -> bool {
    use base64::Engine as _;
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "uri" => text.split_once(':').is_some_and(|(scheme, _)| !scheme.is_empty()) || text.starts_with('/'),
        "uuid" | "uuid4" => {
            let parts: Vec<usize> = text.split('-').map(str::len).collect();
            parts == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
        }
        "email" => text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty()),
        _ => true,
    }
}

fn check_number(schema: &Value, number: &Number, path: &str, causes: &mut Causes) {
    let (at, value) = (shown(path), Value::Number(number.clone()));
    let Some(found) = number.as_f64() else { return };
    if let Some(limit) = schema["maximum"].as_f64() {
        let exclusive = is_set(schema, "exclusiveMaximum");
        if found > limit || (exclusive && found == limit) {
            let or_equal = if exclusive { "less than" } else { "less than or equal to" };
            causes.invalid(path, &value, &format!("{at} in body should be {or_equal} {limit}"));
        }
    }
    if let Some(limit) = schema["minimum"].as_f64() {
        let exclusive = is_set(schema, "exclusiveMinimum");
        if found < limit || (exclusive && found == limit) {
            let or_equal = if exclusive { "greater than" } else { "greater than or equal to" };
            causes.invalid(path, &value, &format!("{at} in body should be {or_equal} {limit}"));
        }
    }
    if let Some(factor) = schema["multipleOf"].as_f64().filter(|factor| *factor > 0.0) {
        let quotient = found / factor;
        if (quotient - quotient.round()).abs() > 1e-9 {
            causes.invalid(path, &value, &format!("{at} in body should be a multiple of {factor}"));
        }
    }
    let fits = match json::text(schema, "format") {
        "int32" => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        "int64" => number.is_i64(),
        _ => true,
    };
    if !fits {
        let format = json::text(schema, "format");
        causes.invalid(
            path,
            &value,
            &format!("Checked value must be of type integer with format {format} in {at}"),
        );
    }
}

fn check_list(schema: &Value, items: &[Value], old: Option<&Value>, path: &str, causes: &mut Causes) {
    let (at, count) = (shown(path), items.len() as u64);
    if let Some(limit) = schema["maxItems"].as_u64().filter(|limit| count > *limit) {
        causes.too_many(path, count, limit);
    }
    if let Some(limit) = schema["minItems"].as_u64().filter(|limit| count < *limit) {
        let detail = format!("{at} in body should have at least {limit} items");
        causes.invalid(path, &count.into(), &detail);
    }
    if let Some(inner) = schema.get("items") {
        for (index, item) in items.iter().enumerate() {
            let before = old.and_then(|old| super::counterpart(schema, item, old));
            value_at(inner, item, before, &format!("{path}[{index}]"), causes);
        }
    }
    distinct(schema, items, path, causes);
}

/// Elements of sets and of maps are there once.
fn distinct(schema: &Value, items: &[Value], path: &str, causes: &mut Causes) {
    let identity = |item: &Value| match json::text(schema, "x-kubernetes-list-type") {
        "set" => Some(item.to_string()),
        "map" => Some(super::keys_of(schema, item)),
        _ => None,
    };
    let mut seen = std::collections::HashSet::new();
    for (index, item) in items.iter().enumerate() {
        if let Some(identity) = identity(item)
            && !seen.insert(identity)
        {
            causes.duplicate(&format!("{path}[{index}]"), item);
        }
    }
}

fn check_object(schema: &Value, object: &Value, old: Option<&Value>, path: &str, causes: &mut Causes) {
    let Some(members) = object.as_object() else { return };
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let (at, count) = (shown(path), members.len() as u64);
    if let Some(limit) = schema["maxProperties"].as_u64().filter(|limit| count > *limit) {
        causes.too_many(path, count, limit);
    }
    if let Some(limit) = schema["minProperties"].as_u64().filter(|limit| count < *limit) {
        let detail = format!("{at} in body should have at least {limit} properties");
        causes.invalid(path, &count.into(), &detail);
    }
    for name in json::array(schema, "required").iter().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            causes.required(&below(name), "");
        }
    }
    let properties = json::object(schema, "properties");
    for (name, value) in members {
        let inner = properties.and_then(|all| all.get(name));
        let inner = inner.or_else(|| schema.get("additionalProperties").filter(|inner| inner.is_object()));
        if let Some(inner) = inner {
            value_at(inner, value, old.and_then(|old| old.get(name)), &below(name), causes);
        }
    }
    if is_set(schema, EMBEDDED) {
        for name in ["apiVersion", "kind"] {
            if json::text(object, name).is_empty() {
                causes.required(&below(name), "must not be empty");
            }
        }
    }
}

fn holds(schema: &Value, value: &Value, path: &str) -> bool {
    let mut causes = Causes::default();
    value_at(schema, value, None, path, &mut causes);
    causes.is_empty()
}

fn junctors(schema: &Value, value: &Value, path: &str, causes: &mut Causes) {
    let at = shown(path);
    for inner in json::array(schema, "allOf") {
        value_at(inner, value, None, path, causes);
    }
    let any = json::array(schema, "anyOf");
    if !any.is_empty() && !any.iter().any(|inner| holds(inner, value, path)) {
        causes.invalid(
            path,
            &Value::Null,
            &format!("{at} in body must validate at least one schema (anyOf)"),
        );
    }
    let one = json::array(schema, "oneOf");
    if !one.is_empty() {
        let count = one.iter().filter(|inner| holds(inner, value, path)).count();
        if count != 1 {
            let found = if count == 0 { "Found none valid" } else { "Found more than one valid" };
            let detail = format!("{at} in body must validate one and only one schema (oneOf). {found}");
            causes.invalid(path, &Value::Null, &detail);
        }
    }
    if let Some(inner) = schema.get("not").filter(|inner| inner.is_object())
        && holds(inner, value, path)
    {
        causes.invalid(path, &Value::Null, &format!("{at} in body must not validate the schema (not)"));
    }
}
