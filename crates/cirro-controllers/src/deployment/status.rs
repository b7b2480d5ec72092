//! A deployment's status: counts and the conditions `Available` and `Progressing`.

use std::sync::Arc;
use std::time::Duration;

use cirro_client::{Next, name, seconds, text};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::plan::Scale;

/// Computes the status, and when it must be looked at again (the progress deadline).
pub(super) fn compute(
    deployment: &Value,
    sets: &[Arc<Value>],
    current: Option<usize>,
    now: Timestamp,
) -> (Value, Next) {
    let sum =
        |member: &str| -> i64 { sets.iter().map(|set| set["status"][member].as_i64().unwrap_or(0)).sum() };
    let own =
        |member: &str| current.map_or(0, |current| sets[current]["status"][member].as_i64().unwrap_or(0));
    let scale = Scale::of(deployment);
    let (total, updated, available) = (sum("replicas"), own("replicas"), sum("availableReplicas"));
    let wanted: i64 = sets.iter().map(|set| super::replicas(set)).sum();
    let mut status = json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": total,
        "updatedReplicas": updated,
        "readyReplicas": sum("readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": (wanted - available).max(0),
        "collisionCount": deployment.pointer("/status/collisionCount").cloned().unwrap_or_default(),
    });
    if let Some(members) = status.as_object_mut() {
        members.retain(|_, value| !value.is_null() && *value != json!(0));
    }
    let complete = updated == scale.desired && total == scale.desired && available == scale.desired;
    let (progressing, again) =
        progressing(deployment, &status, current.map(|current| &*sets[current]), complete, now);
    let mut conditions = vec![available_condition(available >= scale.desired - scale.max_unavailable)];
    conditions.extend(progressing);
    status["conditions"] =
        conditions.into_iter().map(|condition| dated(condition, deployment, now)).collect();
    (status, again)
}

fn available_condition(available: bool) -> Value {
    match available {
        true => json!({"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable",
            "message": "Deployment has minimum availability."}),
        false => json!({"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable",
            "message": "Deployment does not have minimum availability."}),
    }
}

fn progressing(
    deployment: &Value,
    status: &Value,
    set: Option<&Value>,
    complete: bool,
    now: Timestamp,
) -> (Option<Value>, Next) {
    let Some(deadline) = deployment["spec"]["progressDeadlineSeconds"].as_i64() else {
        return (None, Next::Wait);
    };
    let earlier = earlier(deployment, "Progressing");
    let about = set.map_or("", name);
    let condition = |status: &str, reason: &str, message: String| {
        Some(json!({"type": "Progressing", "status": status, "reason": reason, "message": message}))
    };
    if super::is_paused(deployment) {
        return (condition("Unknown", "DeploymentPaused", "Deployment is paused".into()), Next::Wait);
    }
    if complete {
        let message = format!("ReplicaSet \"{about}\" has successfully progressed.");
        return (condition("True", "NewReplicaSetAvailable", message), Next::Wait);
    }
    let counts = |status: &Value| {
        ["updatedReplicas", "readyReplicas", "availableReplicas"]
            .map(|member| status[member].as_i64().unwrap_or(0))
    };
    let moved = deployment.get("status").is_none_or(|old| counts(old) != counts(status))
        || deployment.pointer("/status/observedGeneration") != deployment.pointer("/metadata/generation");
    let last = earlier.filter(|_| !moved).and_then(|earlier| text(earlier, "/lastUpdateTime").parse().ok());
    let due = last.unwrap_or(now).checked_add(SignedDuration::from_secs(deadline)).unwrap_or(Timestamp::MAX);
    if now >= due {
        let message = format!("ReplicaSet \"{about}\" has timed out progressing.");
        return (condition("False", "ProgressDeadlineExceeded", message), Next::Wait);
    }
    let again = Next::After(Duration::try_from(due - now).unwrap_or_default());
    let mut updated =
        condition("True", "ReplicaSetUpdated", format!("ReplicaSet \"{about}\" is progressing."));
    if moved && let Some(updated) = &mut updated {
        updated["lastUpdateTime"] = seconds(now).into();
    }
    (updated, again)
}

/// Gives a condition its times: of the earlier one where nothing changed.
fn dated(mut condition: Value, deployment: &Value, now: Timestamp) -> Value {
    let earlier = earlier(deployment, text(&condition, "/type"));
    let same = |member: &str| earlier.filter(|earlier| earlier[member] == condition[member]);
    let transition = same("status").map(|earlier| earlier["lastTransitionTime"].clone());
    let update = same("status").filter(|_| same("reason").is_some() && same("message").is_some());
    let update = update.map(|earlier| earlier["lastUpdateTime"].clone());
    condition["lastTransitionTime"] = transition.unwrap_or_else(|| seconds(now).into());
    if condition.get("lastUpdateTime").is_none() {
        condition["lastUpdateTime"] = update.unwrap_or_else(|| seconds(now).into());
    }
    condition
}

fn earlier<'a>(deployment: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = deployment.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn set(replicas: i64, available: i64) -> Arc<Value> {
        Arc::new(json!({"metadata": {"name": "web-1"}, "spec": {"replicas": replicas},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available}}))
    }

    fn deployment() -> Value {
        json!({"metadata": {"generation": 2}, "spec": {"replicas": 2, "progressDeadlineSeconds": 10,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}})
    }

    #[test]
    fn a_stuck_rollout_misses_its_deadline_and_a_finished_one_does_not() {
        let mut deployment = deployment();
        let (status, again) = compute(&deployment, &[set(2, 0)], Some(0), at(0));
        assert_eq!(status["conditions"][1]["reason"], "ReplicaSetUpdated");
        assert_eq!(again, Next::After(Duration::from_secs(10)));
        deployment["status"] = status.clone();
        let (unchanged, _) = compute(&deployment, &[set(2, 0)], Some(0), at(5));
        assert_eq!(unchanged, status);
        let (late, _) = compute(&deployment, &[set(2, 0)], Some(0), at(11));
        assert_eq!(late["conditions"][1]["reason"], "ProgressDeadlineExceeded");
        let (done, again) = compute(&deployment, &[set(2, 2)], Some(0), at(12));
        assert_eq!(done["conditions"][1]["reason"], "NewReplicaSetAvailable");
        assert_eq!(done["conditions"][0]["status"], "True");
        assert_eq!((again, done["availableReplicas"].as_i64()), (Next::Wait, Some(2)));
    }
}
