//! Columns of jobs, autoscalers and disruption budgets.

use jiff::Timestamp;
use serde_json::Value;

use super::{Column, or_none};
use crate::json;

/// Returns the columns of jobs.
pub(crate) fn job() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Status", job_status),
        Column::text("Completions", completions),
        Column::text("Duration", duration),
        Column::age(),
        Column::text("Containers", |job| super::containers(json::at(job, "spec.template.spec")).0.into())
            .wide(),
        Column::text("Images", |job| super::containers(json::at(job, "spec.template.spec")).1.into()).wide(),
        Column::text("Selector", |job| super::selector_text(json::at(job, "spec.selector")).into()).wide(),
    ]
}

fn job_status(job: &Value) -> Value {
    let has = |kind: &str| {
        let conditions = json::array(job, "status.conditions");
        conditions.iter().any(|one| one["type"] == kind && one["status"] == "True")
    };
    let status = match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if json::at(job, "metadata.deletionTimestamp").is_some() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    status.into()
}

fn completions(job: &Value) -> Value {
    let done = json::number(job, "status.succeeded").unwrap_or(0);
    let parallelism = json::number(job, "spec.parallelism").unwrap_or(0);
    match json::number(job, "spec.completions") {
        Some(wanted) => format!("{done}/{wanted}").into(),
        None if parallelism > 1 => format!("{done}/1 of {parallelism}").into(),
        None => format!("{done}/1").into(),
    }
}

fn duration(job: &Value) -> Value {
    let time = |path| json::text(job, path).parse::<Timestamp>().ok();
    let Some(start) = time("status.startTime") else { return "".into() };
    let end = time("status.completionTime").unwrap_or_else(Timestamp::now);
    super::human_duration(end.as_second() - start.as_second()).into()
}

/// Returns the columns of cron jobs.
pub(crate) fn cron_job() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Schedule", |job| json::text(job, "spec.schedule").into()),
        Column::text("Timezone", |job| or_none(json::text(job, "spec.timeZone").into())),
        Column::text("Suspend", |job| {
            if json::at(job, "spec.suspend") == Some(&true.into()) { "True" } else { "False" }.into()
        }),
        Column::integer("Active", |job| json::array(job, "status.active").len().into()),
        Column::text("Last Schedule", |job| match json::text(job, "status.lastScheduleTime") {
            "" => "<none>".into(),
            time => super::age(time).into(),
        }),
        Column::age(),
        Column::text("Containers", |job| super::containers(pods_of(job)).0.into()).wide(),
        Column::text("Images", |job| super::containers(pods_of(job)).1.into()).wide(),
        Column::text("Selector", |job| {
            super::selector_text(json::at(job, "spec.jobTemplate.spec.selector")).into()
        })
        .wide(),
    ]
}

fn pods_of(job: &Value) -> Option<&Value> {
    json::at(job, "spec.jobTemplate.spec.template.spec")
}

/// Returns the columns of horizontal pod autoscalers.
pub(crate) fn autoscaler() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Reference", |scaler| {
            let target = "spec.scaleTargetRef";
            let kind = json::text(scaler, &format!("{target}.kind"));
            format!("{kind}/{}", json::text(scaler, &format!("{target}.name"))).into()
        }),
        Column::text("Targets", targets),
        Column::text("MinPods", |scaler| match json::number(scaler, "spec.minReplicas") {
            Some(count) => count.to_string().into(),
            None => "<unset>".into(),
        }),
        Column::integer("MaxPods", |scaler| json::number(scaler, "spec.maxReplicas").unwrap_or(0).into()),
        Column::integer("Replicas", |scaler| {
            json::number(scaler, "status.currentReplicas").unwrap_or(0).into()
        }),
        Column::age(),
    ]
}

fn targets(scaler: &Value) -> Value {
    let metrics = json::array(scaler, "spec.metrics");
    if metrics.is_empty() {
        return "<none>".into();
    }
    let current = json::array(scaler, "status.currentMetrics");
    let shown = metrics.iter().take(2).enumerate();
    let mut texts: Vec<_> = shown.map(|(at, metric)| target(metric, current.get(at))).collect();
    if metrics.len() > 2 {
        texts.push(format!("{} more...", metrics.len() - 2));
    }
    texts.join(", ").into()
}

fn target(metric: &Value, current: Option<&Value>) -> String {
    let kind = json::text(metric, "type");
    let source = match kind {
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".into(),
    };
    let now = |member: &str| {
        let value = current.and_then(|current| json::at(current, &format!("{source}.current.{member}")));
        value.map_or("<unknown>".to_owned(), plain)
    };
    let goal = &metric[source]["target"];
    let name = match kind {
        "Resource" | "ContainerResource" => format!("{}: ", json::text(metric, &format!("{source}.name"))),
        _ => String::new(),
    };
    if let Some(goal) = json::at(goal, "averageValue") {
        let average = if matches!(kind, "Object" | "External") { " (avg)" } else { "" };
        format!("{name}{}/{}{average}", now("averageValue"), plain(goal))
    } else if let Some(goal) = json::number(goal, "averageUtilization") {
        let now = now("averageUtilization");
        let now = if now == "<unknown>" { now } else { format!("{now}%") };
        format!("{name}{now}/{goal}%")
    } else {
        format!("{name}{}/{}", now("value"), json::at(goal, "value").map(plain).unwrap_or_default())
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Returns the columns of disruption budgets.
pub(crate) fn disruption_budget() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Min Available", |budget| amount(budget, "spec.minAvailable")),
        Column::text("Max Unavailable", |budget| amount(budget, "spec.maxUnavailable")),
        Column::integer("Allowed Disruptions", |budget| {
            json::number(budget, "status.disruptionsAllowed").unwrap_or(0).into()
        }),
        Column::age(),
    ]
}

fn amount(budget: &Value, path: &str) -> Value {
    json::at(budget, path).map_or("N/A".to_owned(), plain).into()
}
