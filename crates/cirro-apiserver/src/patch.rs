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
    for (index, operation) in patch.0.into_iter().enumerate() {
        if tests_absence(&operation, &result) {
            continue;
        }
        json_patch::patch(&mut result, &[operation]).map_err(|why| {
            error::unprocessable(format!(
                "the server rejected our request due to an error in our request: operation '/{index}' failed at path '{}': {}",
                why.path, why.kind
            ))
        })?;
    }
    Ok(result)
}

/// Whether an operation tests that a member is null which is not there: upstream's library takes the two for the same,
/// and clients begin lists so.
fn tests_absence(operation: &json_patch::PatchOperation, target: &Value) -> bool {
    let json_patch::PatchOperation::Test(test) = operation else { return false };
    let path = test.path.as_str();
    let parent = path.rsplit_once('/').map(|(parent, _)| target.pointer(parent));
    test.value.is_null() && target.pointer(path).is_none() && parent.flatten().is_some_and(Value::is_object)
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
    fn what_is_not_there_is_null_for_a_test() {
        let object = json!({"metadata": {"name": "a"}});
        let begin = json!([{"op": "test", "path": "/metadata/finalizers", "value": null},
            {"op": "add", "path": "/metadata/finalizers", "value": ["x"]}]);
        let begun = json_patched(&object, &begin).unwrap();
        assert_eq!(begun["metadata"]["finalizers"], json!(["x"]));
        assert!(json_patched(&begun, &begin).is_err());
        let lost =
            json!([{"op": "add", "path": "/a", "value": 1}, {"op": "test", "path": "/b/c", "value": null}]);
        let refusal = json_patched(&object, &lost).unwrap_err();
        assert!(
            refusal.code == 422 && refusal.message.contains("operation '/1' failed"),
            "{}",
            refusal.message
        );
    }

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
