//! Columns of classes, flow control and what extends the API.

use serde_json::Value;

use super::{Column, or_none};
use crate::json;

/// Returns the columns of runtime classes.
pub(crate) fn runtime_class() -> Vec<Column> {
    vec![Column::name(), Column::text("Handler", |class| json::text(class, "handler").into()), Column::age()]
}

/// Returns the columns of priority classes.
pub(crate) fn priority_class() -> Vec<Column> {
    vec![
        Column::name(),
        Column::integer("Value", |class| json::number(class, "value").unwrap_or(0).into()),
        Column {
            kind: "boolean",
            ..Column::text("Global-Default", |class| (class["globalDefault"] == true).into())
        },
        Column::age(),
        Column::text("PreemptionPolicy", |class| match json::text(class, "preemptionPolicy") {
            "" => "<unset>".into(),
            policy => policy.into(),
        }),
    ]
}

/// Returns the columns of flow schemas.
pub(crate) fn flow_schema() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("PriorityLevel", |one| {
            or_none(json::text(one, "spec.priorityLevelConfiguration.name").into())
        }),
        Column::integer("MatchingPrecedence", |one| {
            json::number(one, "spec.matchingPrecedence").unwrap_or(0).into()
        }),
        Column::text("DistinguisherMethod", |one| {
            or_none(json::text(one, "spec.distinguisherMethod.type").into())
        }),
        Column::age(),
        Column::text("MissingPL", |one| {
            let conditions = json::array(one, "status.conditions");
            let found = conditions.iter().find(|one| one["type"] == "Dangling");
            found.map_or("?", |one| json::text(one, "status")).into()
        }),
    ]
}

/// Returns the columns of priority levels.
pub(crate) fn priority_level() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Type", |one| json::text(one, "spec.type").into()),
        Column::text("NominalConcurrencyShares", |one| count(one, "spec.limited.nominalConcurrencyShares")),
        Column::text("Queues", |one| count(one, "spec.limited.limitResponse.queuing.queues")),
        Column::text("HandSize", |one| count(one, "spec.limited.limitResponse.queuing.handSize")),
        Column::text("QueueLengthLimit", |one| {
            count(one, "spec.limited.limitResponse.queuing.queueLengthLimit")
        }),
        Column::age(),
    ]
}

fn count(object: &Value, path: &str) -> Value {
    json::number(object, path).map_or("<none>".into(), |count| count.to_string().into())
}

/// Returns the columns of API services.
pub(crate) fn api_service() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Service", |one| match json::at(one, "spec.service") {
            None => "Local".into(),
            Some(service) => {
                format!("{}/{}", json::text(service, "namespace"), json::text(service, "name")).into()
            }
        }),
        Column::text("Available", |one| {
            let conditions = json::array(one, "status.conditions");
            let found = conditions.iter().find(|one| one["type"] == "Available");
            match found.map(|one| (json::text(one, "status"), json::text(one, "reason"))) {
                None => "Unknown".into(),
                Some(("True", _)) => "True".into(),
                Some((status, reason)) => format!("{status} ({reason})").into(),
            }
        }),
        Column::age(),
    ]
}

/// Returns the columns of webhook configurations.
pub(crate) fn webhooks() -> Vec<Column> {
    vec![
        Column::name(),
        Column::integer("Webhooks", |one| json::array(one, "webhooks").len().into()),
        Column::age(),
    ]
}

/// Returns the columns of validating admission policies.
pub(crate) fn admission_policy() -> Vec<Column> {
    vec![
        Column::name(),
        Column::integer("Validations", |one| json::array(one, "spec.validations").len().into()),
        Column::text("ParamKind", |one| match json::at(one, "spec.paramKind") {
            None => "<unset>".into(),
            Some(kind) => format!("{}/{}", json::text(kind, "apiVersion"), json::text(kind, "kind")).into(),
        }),
        Column::age(),
    ]
}

/// Returns the columns of bindings of admission policies.
pub(crate) fn policy_binding() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("PolicyName", |one| json::text(one, "spec.policyName").into()),
        Column::text("ParamRef", |one| match json::at(one, "spec.paramRef") {
            None => "<unset>".into(),
            Some(param) => match (json::text(param, "name"), json::text(param, "namespace")) {
                ("", _) => "*".into(),
                (name, "") => name.into(),
                (name, namespace) => format!("{namespace}/{name}").into(),
            },
        }),
        Column::age(),
    ]
}
