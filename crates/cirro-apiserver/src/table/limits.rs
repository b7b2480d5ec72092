//! Columns of limit ranges and quotas.

use serde_json::Value;

use super::Column;
use crate::json;

/// Returns the columns of limit ranges.
pub(crate) fn limit_range() -> Vec<Column> {
    let created = |object: &Value| json::text(object, "metadata.creationTimestamp").into();
    vec![Column::name(), Column::text("Created At", created)]
}

/// Returns the columns of quotas.
pub(crate) fn quota() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Request", |quota| used(quota, false)),
        Column::text("Limit", |quota| used(quota, true)),
        Column::age(),
    ]
}

/// Writes `cpu: 1/2, pods: 0/3` of the limits, or of everything else.
fn used(quota: &Value, limits: bool) -> Value {
    let hard = json::object(quota, "status.hard").into_iter().flatten();
    let shown = hard.filter(|(resource, _)| resource.starts_with("limits.") == limits);
    let cells: Vec<_> = shown
        .map(|(resource, hard)| {
            let used = quota["status"]["used"].get(resource).and_then(Value::as_str).unwrap_or("0");
            format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default())
        })
        .collect();
    cells.join(", ").into()
}
