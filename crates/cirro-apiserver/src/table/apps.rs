//! Columns of workloads.

use serde_json::Value;

use super::Column;
use crate::json;

/// Returns the columns of deployments.
pub(crate) fn deployment() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Ready", |object| {
            let ready = json::number(object, "status.readyReplicas").unwrap_or(0);
            let wanted = json::number(object, "spec.replicas").unwrap_or(0);
            format!("{ready}/{wanted}").into()
        }),
        Column::integer("Up-to-date", |object| number(object, "status.updatedReplicas")),
        Column::integer("Available", |object| number(object, "status.availableReplicas")),
        Column::age(),
        Column::text("Containers", container_names).wide(),
        Column::text("Images", container_images).wide(),
        Column::text("Selector", selector).wide(),
    ]
}

/// Returns the columns of replica sets.
pub(crate) fn replica_set() -> Vec<Column> {
    vec![
        Column::name(),
        Column::integer("Desired", |object| number(object, "spec.replicas")),
        Column::integer("Current", |object| number(object, "status.replicas")),
        Column::integer("Ready", |object| number(object, "status.readyReplicas")),
        Column::age(),
        Column::text("Containers", container_names).wide(),
        Column::text("Images", container_images).wide(),
        Column::text("Selector", selector).wide(),
    ]
}

fn number(object: &Value, path: &str) -> Value {
    json::number(object, path).unwrap_or(0).into()
}

fn container_names(object: &Value) -> Value {
    super::containers(json::at(object, "spec.template.spec")).0.into()
}

fn container_images(object: &Value) -> Value {
    super::containers(json::at(object, "spec.template.spec")).1.into()
}

fn selector(object: &Value) -> Value {
    super::selector_text(json::at(object, "spec.selector")).into()
}
