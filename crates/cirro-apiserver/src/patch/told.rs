//! A patch that does not fit its kind, in the words of upstream's converter.

use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use crate::error;

/// Refuses a strategic merge patch after which something has a wrong type; `why` says what.
pub(crate) fn unrestorable(patch: &Value, why: &str) -> ApiError {
    let message = format!("Invalid value: {:?}: {why}", go(patch));
    let causes = json!([{"reason": "FieldValueInvalid", "message": message, "field": "patch"}]);
    error::unprocessable_with(format!(" \"\" is invalid: patch: {message}"), json!({"causes": causes}))
}

/// Writes a value as Go's `%v` does.
fn go(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(go).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let members: Vec<_> =
                members.iter().map(|(name, value)| format!("{name}:{}", go(value))).collect();
            format!("map[{}]", members.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patch_is_told_as_upstream_tells_it() {
        let refusal = unrestorable(&json!({"metadata": {"labels": "x"}}), "cannot restore map from string");
        assert_eq!(
            refusal.message,
            " \"\" is invalid: patch: Invalid value: \"map[metadata:map[labels:x]]\": cannot restore map from string"
        );
        assert_eq!(go(&json!({"a": [1, null, true]})), "map[a:[1 <nil> true]]");
    }
}
