//! Columns of pods.

use serde_json::Value;

use super::Column;
use crate::json;

/// Returns the columns.
pub(crate) fn columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Ready", ready),
        Column::text("Status", |pod| status(pod).into()),
        Column::text("Restarts", restarts),
        Column::age(),
        Column::text("IP", |pod| super::or_none(json::text(pod, "status.podIP").into())).wide(),
        Column::text("Node", |pod| super::or_none(json::text(pod, "spec.nodeName").into())).wide(),
        Column::text("Nominated Node", |pod| {
            super::or_none(json::text(pod, "status.nominatedNodeName").into())
        })
        .wide(),
        Column::text("Readiness Gates", readiness_gates).wide(),
    ]
}

fn ready(pod: &Value) -> Value {
    let ready = json::array(pod, "status.containerStatuses").iter().filter(|one| one["ready"] == true);
    let restartable = json::array(pod, "spec.initContainers").iter().filter(|one| is_sidecar(one)).count();
    let ready_sidecars = json::array(pod, "status.initContainerStatuses")
        .iter()
        .filter(|one| one["ready"] == true && is_sidecar_name(pod, json::text(one, "name")));
    let total = json::array(pod, "spec.containers").len() + restartable;
    format!("{}/{total}", ready.count() + ready_sidecars.count()).into()
}

fn is_sidecar(container: &Value) -> bool {
    json::text(container, "restartPolicy") == "Always"
}

fn is_sidecar_name(pod: &Value, name: &str) -> bool {
    let containers = json::array(pod, "spec.initContainers");
    containers.iter().any(|one| is_sidecar(one) && json::text(one, "name") == name)
}

/// Returns the word that says best what a pod does.
///
/// Source: `printPod` of printers.go.
fn status(pod: &Value) -> String {
    let mut reason = json::text(pod, "status.phase");
    if !json::text(pod, "status.reason").is_empty() {
        reason = json::text(pod, "status.reason");
    }
    let mut reason = reason.to_owned();
    for condition in json::array(pod, "status.conditions") {
        let gated = json::text(condition, "type") == "PodScheduled"
            && json::text(condition, "reason") == "SchedulingGated";
        if gated {
            reason = "SchedulingGated".into();
        }
    }
    let initializing = initializing(pod);
    match &initializing {
        Some(word) => reason = word.clone(),
        None => reason = of_containers(pod, reason),
    }
    if json::at(pod, "metadata.deletionTimestamp").is_some() {
        if json::text(pod, "status.reason") == "NodeLost" {
            return "Unknown".into();
        }
        let phase = json::text(pod, "status.phase");
        if phase != "Failed" && phase != "Succeeded" {
            return "Terminating".into();
        }
    }
    reason
}

/// Returns `Init:...` while an init container is not done.
fn initializing(pod: &Value) -> Option<String> {
    let total = json::array(pod, "spec.initContainers").len();
    for (index, one) in json::array(pod, "status.initContainerStatuses").iter().enumerate() {
        let sidecar = is_sidecar_name(pod, json::text(one, "name"));
        let waiting = json::text(one, "state.waiting.reason");
        if let Some(end) = json::at(one, "state.terminated") {
            if json::number(end, "exitCode") == Some(0) {
                continue;
            }
            return Some(format!("Init:{}", termination(end)));
        }
        if sidecar && one["started"] == true {
            continue;
        }
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{index}/{total}"));
    }
    None
}

fn termination(end: &Value) -> String {
    match (json::text(end, "reason"), json::number(end, "signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", json::number(end, "exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn of_containers(pod: &Value, mut reason: String) -> String {
    let mut running = false;
    for one in json::array(pod, "status.containerStatuses").iter().rev() {
        let waiting = json::text(one, "state.waiting.reason");
        if !waiting.is_empty() {
            reason = waiting.into();
        } else if let Some(end) = json::at(one, "state.terminated") {
            reason = termination(end);
        } else if one["ready"] == true && json::at(one, "state.running").is_some() {
            running = true;
        }
    }
    if reason == "Completed" && running {
        let ready = json::array(pod, "status.conditions")
            .iter()
            .any(|one| json::text(one, "type") == "Ready" && json::text(one, "status") == "True");
        return if ready { "Running".into() } else { "NotReady".into() };
    }
    reason
}

fn restarts(pod: &Value) -> Value {
    let statuses = json::array(pod, "status.containerStatuses");
    let count: i64 = statuses.iter().filter_map(|one| json::number(one, "restartCount")).sum();
    let last = statuses.iter().map(|one| json::text(one, "lastState.terminated.finishedAt")).max();
    match last.filter(|last| !last.is_empty() && count > 0) {
        Some(last) => format!("{count} ({} ago)", super::age(last)).into(),
        None => count.to_string().into(),
    }
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = json::array(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let holds = |gate: &&Value| {
        json::array(pod, "status.conditions").iter().any(|condition| {
            condition["type"] == gate["conditionType"] && json::text(condition, "status") == "True"
        })
    };
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_says_what_matters_most() {
        for (pod, word) in [
            (json!({"status": {"phase": "Pending"}}), "Pending"),
            (
                json!({"status": {"phase": "Pending", "containerStatuses":
                    [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}),
                "ImagePullBackOff",
            ),
            (
                json!({"status": {"phase": "Running", "containerStatuses":
                    [{"state": {"terminated": {"exitCode": 3}}}]}}),
                "ExitCode:3",
            ),
            (json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running"}}), "Terminating"),
            (
                json!({"spec": {"initContainers": [{"name": "a"}, {"name": "b"}]}, "status": {"phase": "Pending",
                    "initContainerStatuses": [{"name": "a", "state": {"running": {}}}]}}),
                "Init:0/2",
            ),
        ] {
            assert_eq!(status(&pod), word);
        }
    }

    #[test]
    fn ready_counts_containers() {
        let pod =
            json!({"spec": {"containers": [{}, {}]}, "status": {"containerStatuses": [{"ready": true}]}});
        assert_eq!(ready(&pod), "1/2");
    }
}
