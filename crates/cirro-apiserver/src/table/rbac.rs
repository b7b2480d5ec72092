//! Columns of roles and bindings.

use serde_json::Value;

use super::Column;
use crate::json;

/// Returns the columns of roles.
pub(crate) fn role() -> Vec<Column> {
    let created = |object: &Value| json::text(object, "metadata.creationTimestamp").into();
    vec![Column::name(), Column::text("Created At", created)]
}

/// Returns the columns of bindings.
pub(crate) fn binding() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Role", |binding| {
            format!("{}/{}", json::text(binding, "roleRef.kind"), json::text(binding, "roleRef.name")).into()
        }),
        Column::age(),
        Column::text("Users", |binding| subjects(binding, "User")).wide(),
        Column::text("Groups", |binding| subjects(binding, "Group")).wide(),
        Column::text("ServiceAccounts", |binding| subjects(binding, "ServiceAccount")).wide(),
    ]
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let of_kind = json::array(binding, "subjects").iter().filter(|one| json::text(one, "kind") == kind);
    let names: Vec<_> = of_kind
        .map(|subject| match json::text(subject, "namespace") {
            "" => json::text(subject, "name").to_owned(),
            namespace => format!("{namespace}/{}", json::text(subject, "name")),
        })
        .collect();
    names.join(", ").into()
}
