//! Checks a value against its type: unknown members are taken out and named, wrong types are refused.

use serde_json::{Number, Value};

use super::{Shape, types};
use crate::validate::quantity::Quantity;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Paths of the members that the type does not have; they were taken out.
    pub(crate) unknown: Vec<String>,
    /// The first value of a wrong type, in the words of Go's decoder.
    pub(crate) mismatch: Option<String>,
    /// The same in the words of upstream's converter, which reads what a strategic merge patch made.
    pub(crate) unrestorable: Option<String>,
}

/// Checks an object against a definition; without one nothing is known and all is let through.
pub(crate) fn check(definition: &str, value: &mut Value) -> Checked {
    let mut checked = Checked::default();
    if let Some(index) = types().find(definition) {
        let mut walk = Walk { checked: &mut checked, owner: types().get(index).name.to_string() };
        walk.value(&Shape::Type(index), value, "");
    }
    checked
}

struct Walk<'a> {
    checked: &'a mut Checked,
    /// Name of the innermost type.
    owner: String,
}

impl Walk<'_> {
    fn value(&mut self, shape: &Shape, value: &mut Value, path: &str) {
        if let (Shape::Quantity, Value::Number(number)) = (shape, &*value) {
            *value = number.to_string().into();
        }
        // What is none is left for validation to name.
        if let (Shape::Quantity, Value::String(text)) = (shape, &*value)
            && let Some(canonical) = Quantity::canonical(text)
        {
            *value = canonical.into();
        }
        let fits = fits(shape, value);
        match (shape, &mut *value) {
            (_, Value::Null) | (Shape::Any, _) => {}
            (Shape::Type(index), Value::Object(_)) => self.object(*index, value, path),
            (Shape::List(items), Value::Array(list)) => {
                for (index, item) in list.iter_mut().enumerate() {
                    self.value(items, item, &format!("{path}[{index}]"));
                }
            }
            (Shape::Map(values), Value::Object(map)) => {
                for (key, item) in map {
                    self.value(values, item, &format!("{path}.{key}"));
                }
            }
            _ if fits => {}
            _ => self.mismatch(shape, value, path),
        }
    }

    fn object(&mut self, index: usize, value: &mut Value, path: &str) {
        let kind = types().get(index);
        let Value::Object(members) = value else { return };
        let outer = std::mem::replace(&mut self.owner, kind.name.to_string());
        let mut unknown = Vec::new();
        for (member, item) in members.iter_mut() {
            let path = if path.is_empty() { member.clone() } else { format!("{path}.{member}") };
            match kind.field(member) {
                Some(field) => self.value(&field.shape, item, &path),
                None => {
                    self.checked.unknown.push(path);
                    unknown.push(member.clone());
                }
            }
        }
        unknown.iter().for_each(|member| drop(members.remove(member)));
        self.owner = outer;
    }

    fn mismatch(&mut self, shape: &Shape, value: &Value, path: &str) {
        if self.checked.mismatch.is_some() {
            return;
        }
        let path = without_indexes(path);
        let text = match (shape, value) {
            (Shape::Time | Shape::MicroTime, Value::String(text)) => {
                format!(
                    "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
                )
            }
            (Shape::Bytes, Value::String(_)) => "illegal base64 data at input byte 0".to_owned(),
            _ => format!(
                "json: cannot unmarshal {} into Go struct field {}.{path} of type {}",
                found(value, shape),
                self.owner,
                wanted(shape)
            ),
        };
        self.checked.mismatch = Some(text);
        self.checked.unrestorable = Some(unrestorable(shape, value));
    }
}

fn unrestorable(shape: &Shape, value: &Value) -> String {
    let found = match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    };
    match shape {
        Shape::Object | Shape::Map(_) => format!("cannot restore map from {found}"),
        Shape::List(_) | Shape::Bytes => format!("cannot restore slice from {found}"),
        Shape::Type(_) => format!("cannot restore struct from: {found}"),
        other => format!("cannot convert {found} to {}", wanted(other)),
    }
}

/// Go's decoder names no indexes.
fn without_indexes(path: &str) -> String {
    let mut depth = 0;
    path.chars()
        .filter(|c| {
            depth += i32::from(*c == '[');
            let keep = depth == 0;
            depth -= i32::from(*c == ']');
            keep
        })
        .collect()
}

fn fits(shape: &Shape, value: &Value) -> bool {
    let within = |number: &Number| number.as_i64().is_some_and(|number| i32::try_from(number).is_ok());
    match (shape, value) {
        (Shape::Text | Shape::Quantity | Shape::IntOrString, Value::String(_)) => true,
        (Shape::Time | Shape::MicroTime, Value::String(text)) => text.parse::<jiff::Timestamp>().is_ok(),
        (Shape::Bytes, Value::String(text)) => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        (Shape::Int32 | Shape::IntOrString, Value::Number(number)) => within(number),
        (Shape::Int64, Value::Number(number)) => number.as_i64().is_some(),
        (Shape::Number, Value::Number(_)) | (Shape::Boolean, Value::Bool(_)) => true,
        (Shape::Object | Shape::Raw | Shape::Fields, Value::Object(_)) => true,
        _ => false,
    }
}

fn found(value: &Value, shape: &Shape) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(number) if matches!(shape, Shape::Int32 | Shape::Int64 | Shape::IntOrString) => {
            format!("number {number}")
        }
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(_) => "array".into(),
        Value::Object(_) => "object".into(),
    }
}

fn wanted(shape: &Shape) -> String {
    match shape {
        Shape::Text => "string".into(),
        Shape::Int32 => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Number => "float64".into(),
        Shape::Boolean => "bool".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::IntOrString => "intstr.IntOrString".into(),
        Shape::Time => "v1.Time".into(),
        Shape::MicroTime => "v1.MicroTime".into(),
        Shape::Raw => "runtime.RawExtension".into(),
        Shape::Fields => "v1.FieldsV1".into(),
        Shape::Object | Shape::Any => "map[string]interface {}".into(),
        Shape::List(items) => format!("[]{}", wanted(items)),
        Shape::Map(values) => format!("map[string]{}", wanted(values)),
        Shape::Type(index) => format!("v1.{}", types().get(*index).name),
        Shape::Own(own) => own.name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";

    #[test]
    fn unknown_members_are_taken_out_and_named() {
        let mut value = json!({"apiVersion": "apps/v1", "kind": "Deployment", "foo": 1, "spec": {"replicas": 1,
            "template": {"spec": {"containers": [{"name": "a"}, {"imagePullPolicyy": "x"}]}}}});
        let checked = check(DEPLOYMENT, &mut value);
        assert_eq!(checked.unknown, ["foo", "spec.template.spec.containers[1].imagePullPolicyy"]);
        assert!(checked.mismatch.is_none() && value.get("foo").is_none());
        assert_eq!(value["spec"]["template"]["spec"]["containers"][1], json!({}));
    }

    #[test]
    fn wrong_types_are_told_in_gos_words() {
        let mut value = json!({"spec": {"replicas": "two"}});
        let text = check(DEPLOYMENT, &mut value).mismatch.unwrap();
        assert_eq!(
            text,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        let mut value = json!({"spec": {"template": {"spec": {"containers": [{"command": "sh"}]}}}});
        let text = check(DEPLOYMENT, &mut value).mismatch.unwrap();
        assert!(text.ends_with("Container.spec.template.spec.containers.command of type []string"), "{text}");
    }

    #[test]
    fn quantities_may_be_numbers() {
        let mut value = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": 2}}}]}});
        let checked = check("io.k8s.api.core.v1.Pod", &mut value);
        assert!(checked.mismatch.is_none());
        assert_eq!(value["spec"]["containers"][0]["resources"]["limits"]["cpu"], "2");
    }
}
