//! What objects must look like, with upstream's field paths and texts.
//!
//! Source: apimachinery `util/validation`, `api/validation`; `pkg/apis/*/validation`.

use serde_json::Value;

use crate::error::Causes;
use crate::json;
use crate::registry::Kind;

pub(crate) mod cron;
pub(crate) mod fields;
pub(crate) mod names;
pub(crate) mod pod;
pub(crate) mod quantity;
pub(crate) mod selector;

pub(crate) use names::{NameRule, is_label_value, is_qualified_name};

/// Most bytes that all annotations of an object may have.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Checks `metadata`, whatever the kind.
pub(crate) fn metadata(kind: &Kind, object: &Value, causes: &mut Causes) {
    let name = json::name(object);
    if name.is_empty() {
        causes.required("metadata.name", "name or generateName is required");
    } else if let Err(why) = kind.strategy.name_rule().check(name) {
        causes.invalid("metadata.name", &name.into(), &why);
    }
    let namespace = json::namespace(object);
    if !kind.namespaced && !namespace.is_empty() {
        causes.forbidden("metadata.namespace", "not allowed on this type");
    }
    labels("metadata.labels", json::at(object, "metadata.labels"), causes);
    annotations(object, causes);
    finalizers(object, causes);
    owners(object, causes);
}

/// Checks a map of labels.
pub(crate) fn labels(field: &str, labels: Option<&Value>, causes: &mut Causes) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        if let Err(why) = names::qualified_name(key) {
            causes.invalid(field, &key.as_str().into(), &why);
        }
        if let Err(why) = names::label_value(value.as_str().unwrap_or_default()) {
            causes.invalid(field, value, &why);
        }
    }
}

/// Checks the annotations of an object.
pub(crate) fn annotations(object: &Value, causes: &mut Causes) {
    let mut size = 0;
    for (key, value) in json::object(object, "metadata.annotations").into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        if let Err(why) = names::qualified_name(&key.to_lowercase()) {
            causes.invalid("metadata.annotations", &key.as_str().into(), &why);
        }
    }
    if size > MAX_ANNOTATIONS {
        let detail = format!("may not be more than {MAX_ANNOTATIONS} bytes");
        causes.too_long("metadata.annotations", &detail);
    }
}

fn finalizers(object: &Value, causes: &mut Causes) {
    for finalizer in json::array(object, "metadata.finalizers") {
        if let Err(why) = names::qualified_name(finalizer.as_str().unwrap_or_default()) {
            causes.invalid("metadata.finalizers", finalizer, &why);
        }
    }
}

fn owners(object: &Value, causes: &mut Causes) {
    let mut controllers = 0;
    for (index, owner) in json::array(object, "metadata.ownerReferences").iter().enumerate() {
        for member in ["apiVersion", "kind", "name", "uid"] {
            if json::text(owner, member).is_empty() {
                let field = format!("metadata.ownerReferences[{index}].{member}");
                causes.invalid(&field, &"".into(), &format!("{member} must not be empty"));
            }
        }
        controllers += i32::from(owner["controller"] == true);
    }
    if controllers > 1 {
        let value = json::at(object, "metadata.ownerReferences").cloned().unwrap_or_default();
        causes.invalid(
            "metadata.ownerReferences",
            &value,
            "Only one reference can have Controller set to true",
        );
    }
}

/// Refuses a change of a member that is fixed at creation.
pub(crate) fn immutable(field: &str, new: &Value, old: &Value, causes: &mut Causes) {
    if json::at(new, field) != json::at(old, field) {
        let value = json::at(new, field).cloned().unwrap_or_default();
        causes.invalid(field, &value, "field is immutable");
    }
}

/// Refuses negative counts.
pub(crate) fn not_negative(field: &str, object: &Value, causes: &mut Causes) {
    if let Some(value) = json::number(object, field).filter(|value| *value < 0) {
        causes.invalid(field, &value.into(), "must be greater than or equal to 0");
    }
}
