//! Columns of our own kinds.

use serde_json::Value;

use super::Column;
use crate::json;

/// Returns the columns of instances.
pub(crate) fn instance() -> Vec<Column> {
    vec![
        Column::name(),
        Column::path("Image", "spec.image"),
        Column::text("Phase", |instance| match json::text(instance, "status.phase") {
            _ if json::at(instance, "metadata.deletionTimestamp").is_some() => "Terminating".into(),
            "" => "Pending".into(),
            phase => phase.into(),
        }),
        Column::path("Address", "status.address"),
        Column::path("Node", "status.node"),
        Column::age(),
        Column::path("Subnet", "spec.subnet").wide(),
        Column { kind: "integer", ..Column::path("CPU", "spec.cpu").wide() },
        Column::path("Memory", "spec.memory").wide(),
    ]
}

/// Returns the columns of VPCs.
pub(crate) fn vpc() -> Vec<Column> {
    vec![Column::name(), Column::path("CIDR", "spec.cidr"), Column::age()]
}

/// Returns the columns of subnets.
pub(crate) fn subnet() -> Vec<Column> {
    vec![Column::name(), Column::path("VPC", "spec.vpc"), Column::path("CIDR", "spec.cidr"), Column::age()]
}

/// Returns the columns of security groups.
pub(crate) fn security_group() -> Vec<Column> {
    vec![
        Column::name(),
        Column::path("VPC", "spec.vpc"),
        Column::integer("Ingress", |group| json::array(group, "spec.ingress").len().into()),
        Column::text("Egress", |group| match json::at(group, "spec.egress").and_then(Value::as_array) {
            Some(rules) => rules.len().to_string().into(),
            None => "all".into(),
        }),
        Column::age(),
    ]
}
