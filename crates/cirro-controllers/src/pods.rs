//! What controllers ask about pods.

use cirro_client::text;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Whether a pod counts: it has neither ended nor is it being deleted.
pub(crate) fn is_active(pod: &Value) -> bool {
    !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") && !is_deleting(pod)
}

/// Whether a pod is being deleted.
pub(crate) fn is_deleting(pod: &Value) -> bool {
    pod.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

/// Whether a pod is ready to serve.
pub(crate) fn is_ready(pod: &Value) -> bool {
    ready_condition(pod).is_some_and(|condition| condition["status"] == "True")
}

/// Since when a pod has been ready.
pub(crate) fn ready_since(pod: &Value) -> Option<Timestamp> {
    let condition = ready_condition(pod).filter(|condition| condition["status"] == "True")?;
    text(condition, "/lastTransitionTime").parse().ok()
}

/// When a pod will have been ready for `min_ready_seconds`; `None` when it is not ready.
pub(crate) fn available_at(pod: &Value, min_ready_seconds: i64) -> Option<Timestamp> {
    if min_ready_seconds == 0 && is_ready(pod) {
        return Some(Timestamp::UNIX_EPOCH);
    }
    ready_since(pod)?.checked_add(SignedDuration::from_secs(min_ready_seconds)).ok()
}

/// When an object was created.
pub(crate) fn created(object: &Value) -> Timestamp {
    text(object, "/metadata/creationTimestamp").parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Orders pods so that those that are missed least come first: not placed, not running, not ready, ready for a
/// shorter time, younger. As upstream's `ActivePodsWithRanks`, without ranks.
pub(crate) fn expendable_first(pods: &mut [std::sync::Arc<Value>]) {
    pods.sort_by_key(|pod| {
        let phase = match text(pod, "/status/phase") {
            "Running" => 2,
            "Pending" => 0,
            _ => 1,
        };
        (
            !text(pod, "/spec/nodeName").is_empty(),
            phase,
            is_ready(pod),
            ready_since(pod).map(std::cmp::Reverse),
            std::cmp::Reverse(created(pod)),
        )
    });
}

fn ready_condition(pod: &Value) -> Option<&Value> {
    let conditions = pod.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| condition["type"] == "Ready")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, phase: &str, ready: bool) -> Arc<Value> {
        let status = if ready { "True" } else { "False" };
        Arc::new(json!({"metadata": {"name": name}, "spec": {"nodeName": node}, "status": {"phase": phase,
            "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
    }

    #[test]
    fn the_pods_that_serve_are_given_up_last() {
        let mut pods = vec![
            pod("ready", "n", "Running", true),
            pod("unplaced", "", "Pending", false),
            pod("running", "n", "Running", false),
            pod("starting", "n", "Pending", false),
        ];
        expendable_first(&mut pods);
        let names: Vec<&str> = pods.iter().map(|pod| cirro_client::name(pod)).collect();
        assert_eq!(names, ["unplaced", "starting", "running", "ready"]);
    }

    #[test]
    fn a_pod_is_available_after_its_time_of_grace() {
        let pod = pod("a", "n", "Running", true);
        let at: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        assert_eq!(available_at(&pod, 10), Some(at));
        assert!(available_at(&super::tests::pod("b", "n", "Running", false), 0).is_none());
    }
}
