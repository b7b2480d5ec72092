//! Patches: JSON patch, JSON merge patch, strategic merge patch.

use cirro_seams::api::ApiError;
use serde_json::Value;

use crate::error;

mod strategic;
mod told;

pub(crate) use strategic::strategic;
pub(crate) use told::unrestorable;

/// Most operations of a JSON patch.
const MAX_OPERATIONS: usize = 10_000;

/// Returns `target` with a JSON patch applied (RFC 6902).
///
/// # Errors
/// 400 for what is no patch, 422 for one that cannot be applied.
pub(crate) fn json_patched(target: &Value, patch: &Value) -> Result<Value, ApiError> {
    let operations = patch.as_array().ok_or_else(|| error::bad_request("a JSON patch is an array"))?;
    if operations.len() > MAX_OPERATIONS {
        let count = operations.len();
        return Err(error::too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        )));
    }
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|why| error::bad_request(format!("error decoding patch: {why}")))?;
    let mut result = target.clone();
    json_patch::patch(&mut result, &patch).map_err(|why| {
        error::unprocessable(format!("the server rejected our request due to an error in our request: {why}"))
    })?;
    Ok(result)
}

/// Returns `target` with a JSON merge patch merged in (RFC 7396).
pub(crate) fn merged(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut result = target.as_object().cloned().unwrap_or_default();
    for (key, change) in patch {
        if change.is_null() {
            result.remove(key);
        } else {
            let next = merged(result.get(key).unwrap_or(&Value::Null), change);
            result.insert(key.clone(), next);
        }
    }
    Value::Object(result)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_of_rfc_7396_hold() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!(["a"]), json!({"a": null, "b": 1}), json!({"b": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        ] {
            assert_eq!(merged(&target, &patch), result);
        }
    }
}
