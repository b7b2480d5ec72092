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
    super::selector_of(object).into()
}

/// Returns the columns of pod templates.
pub(crate) fn pod_template() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Containers", |object| super::containers(json::at(object, "template.spec")).0.into()),
        Column::text("Images", |object| super::containers(json::at(object, "template.spec")).1.into()),
        Column::text("Pod Labels", |object| {
            super::or_none(super::map_terms(json::object(object, "template.metadata.labels")).join(","))
        }),
    ]
}

/// Returns the columns of stateful sets.
pub(crate) fn stateful_set() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Ready", |object| {
            let ready = json::number(object, "status.readyReplicas").unwrap_or(0);
            let wanted = json::number(object, "spec.replicas").unwrap_or(0);
            format!("{ready}/{wanted}").into()
        }),
        Column::age(),
        Column::text("Containers", container_names).wide(),
        Column::text("Images", container_images).wide(),
    ]
}

/// Returns the columns of daemon sets.
pub(crate) fn daemon_set() -> Vec<Column> {
    vec![
        Column::name(),
        Column::integer("Desired", |object| number(object, "status.desiredNumberScheduled")),
        Column::integer("Current", |object| number(object, "status.currentNumberScheduled")),
        Column::integer("Ready", |object| number(object, "status.numberReady")),
        Column::integer("Up-to-date", |object| number(object, "status.updatedNumberScheduled")),
        Column::integer("Available", |object| number(object, "status.numberAvailable")),
        Column::text("Node Selector", |object| {
            super::or_none(
                super::map_terms(json::object(object, "spec.template.spec.nodeSelector")).join(","),
            )
        }),
        Column::age(),
        Column::text("Containers", container_names).wide(),
        Column::text("Images", container_images).wide(),
        Column::text("Selector", selector).wide(),
    ]
}

/// Returns the columns of controller revisions.
pub(crate) fn controller_revision() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Controller", |object| {
            let owners = json::array(object, "metadata.ownerReferences");
            let owner = owners.iter().find(|owner| owner["controller"] == true);
            super::or_none(owner.map(controller).unwrap_or_default())
        }),
        Column::integer("Revision", |object| number(object, "revision")),
        Column::age(),
    ]
}

fn controller(owner: &Value) -> String {
    let kind = json::text(owner, "kind").to_lowercase();
    let group = json::text(owner, "apiVersion").split_once('/').map(|(group, _)| format!(".{group}"));
    format!("{kind}{}/{}", group.unwrap_or_default(), json::text(owner, "name"))
}
