//! Small questions asked of JSON objects, by dotted path.

use serde_json::{Map, Value};

/// Most objects are smaller when they are written.
const USUAL: usize = 2048;

/// Writes a value as compact JSON.
pub(crate) fn written(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL);
    serde_json::to_writer(&mut bytes, value).expect("its keys are text and memory takes it");
    bytes
}

/// Returns the value at a dotted path of members (`spec.template.spec`).
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, member| value.get(member)).filter(|value| !value.is_null())
}

/// Returns the string at a path; empty when there is none.
pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the integer at a path.
pub(crate) fn number(value: &Value, path: &str) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// Returns the array at a path; empty when there is none.
pub(crate) fn array<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Returns the object at a path.
pub(crate) fn object<'a>(value: &'a Value, path: &str) -> Option<&'a Map<String, Value>> {
    at(value, path).and_then(Value::as_object)
}

/// Returns the member of an object, made an empty object when it is absent or something else.
pub(crate) fn object_mut<'a>(value: &'a mut Value, member: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let object = value.as_object_mut().expect("made an object above");
    let slot = object.entry(member).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("made an object above")
}

/// Returns the place of a member, in what is made an object when it is something else.
pub(crate) fn member_mut<'a>(value: &'a mut Value, member: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    &mut value[member]
}

/// Returns the elements of an array at a path, for changing.
pub(crate) fn elements_mut<'a>(value: &'a mut Value, path: &str) -> impl Iterator<Item = &'a mut Value> {
    let found = path.split('.').try_fold(value, |value, member| value.get_mut(member));
    found.and_then(Value::as_array_mut).into_iter().flatten()
}

/// Sets a member of an object unless it has a value.
pub(crate) fn set_default(object: &mut Value, member: &str, default: impl Into<Value>) {
    if let Some(object) = object.as_object_mut() {
        let slot = object.entry(member).or_insert(Value::Null);
        if slot.is_null() {
            *slot = default.into();
        }
    }
}

/// Removes a member of an object.
pub(crate) fn remove(object: &mut Value, member: &str) -> Option<Value> {
    object.as_object_mut()?.remove(member)
}

/// Removes members that are null: Go's decoder takes them as absent.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Returns `metadata.name`.
pub(crate) fn name(value: &Value) -> &str {
    text(value, "metadata.name")
}

/// Returns `metadata.namespace`; empty when there is none.
pub(crate) fn namespace(value: &Value) -> &str {
    text(value, "metadata.namespace")
}
