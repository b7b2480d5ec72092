//! Label selectors inside objects (`matchLabels`, `matchExpressions`).

use serde_json::Value;

use super::names;
use crate::error::Causes;
use crate::json;

/// Whether a selector selects nothing in particular.
pub(crate) fn is_empty(selector: Option<&Value>) -> bool {
    let Some(selector) = selector else { return true };
    json::object(selector, "matchLabels").is_none_or(|labels| labels.is_empty())
        && json::array(selector, "matchExpressions").is_empty()
}

/// Checks a label selector.
pub(crate) fn check(field: &str, selector: &Value, causes: &mut Causes) {
    super::labels(&format!("{field}.matchLabels"), selector.get("matchLabels"), causes);
    for (index, term) in json::array(selector, "matchExpressions").iter().enumerate() {
        let field = format!("{field}.matchExpressions[{index}]");
        let values = json::array(term, "values");
        match json::text(term, "operator") {
            "In" | "NotIn" if values.is_empty() => causes
                .required(&format!("{field}.values"), "must be specified when `operator` is 'In' or 'NotIn'"),
            "Exists" | "DoesNotExist" if !values.is_empty() => causes.forbidden(
                &format!("{field}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                causes.invalid(&format!("{field}.operator"), &other.into(), "not a valid selector operator");
            }
        }
        if let Err(why) = names::qualified_name(json::text(term, "key")) {
            causes.invalid(&format!("{field}.key"), &term["key"], &why);
        }
    }
}

/// Whether a label selector selects these labels.
pub(crate) fn matches(selector: &Value, labels: Option<&Value>) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
    let equal = json::object(selector, "matchLabels")
        .into_iter()
        .flatten()
        .all(|(key, value)| label(key) == value.as_str());
    let listed = |term: &Value, value: Option<&str>| {
        json::array(term, "values").iter().any(|one| one.as_str() == value)
    };
    equal
        && json::array(selector, "matchExpressions").iter().all(|term| {
            let value = label(json::text(term, "key"));
            match json::text(term, "operator") {
                "In" => value.is_some() && listed(term, value),
                "NotIn" => value.is_none() || !listed(term, value),
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}
