//! Columns of signing requests.

use serde_json::Value;

use super::Column;
use crate::json;

/// Returns the columns of signing requests.
pub(crate) fn request() -> Vec<Column> {
    vec![
        Column::name(),
        Column::age(),
        Column::path("SignerName", "spec.signerName"),
        Column::path("Requestor", "spec.username"),
        Column::text("RequestedDuration", |request| match json::number(request, "spec.expirationSeconds") {
            Some(seconds) => super::human_duration(seconds).into(),
            None => "<none>".into(),
        }),
        Column::text("Condition", condition),
    ]
}

fn condition(request: &Value) -> Value {
    let conditions = json::array(request, "status.conditions");
    let has = |kind: &str| conditions.iter().any(|one| json::text(one, "type") == kind);
    let mut words = Vec::new();
    if has("Denied") {
        words.push("Denied");
    } else if has("Approved") {
        words.push("Approved");
    } else {
        words.push("Pending");
    }
    if has("Failed") {
        words.push("Failed");
    }
    if !json::text(request, "status.certificate").is_empty() {
        words.push("Issued");
    }
    words.join(",").into()
}
