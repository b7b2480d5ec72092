//! Keeps the status of PodDisruptionBudgets: how many pods there should be, how many are healthy, how many may go.
//!
//! Source: `pkg/controller/disruption/disruption.go`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cirro_client::{Cache, Next, WorkQueue, matches_labels, name, namespace, namespaced_name, text};
use cirro_seams::api::{ApiError, Head, ObjectKey, Resource};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::Context;
use crate::pods::{is_deleting, is_ready};

/// How long an eviction may take until the pod counts again.
const PATIENCE: SignedDuration = SignedDuration::from_secs(120);

type Key = (String, String);

/// Runs the controller until the context's stop.
pub(crate) async fn run(context: Arc<Context>) {
    let budgets = context.cache("policy", "poddisruptionbudgets");
    budgets.synced().await;
    let queue: Arc<WorkQueue<Key>> = WorkQueue::new();
    let own = queue.clone();
    budgets.on_change(move |_, new| {
        if let Some(budget) = new {
            own.add(namespaced_name(budget));
        }
    });
    let (pods, all) = (queue.clone(), budgets.clone());
    context.pods.on_change(move |old, new| {
        for pod in [old, new].into_iter().flatten() {
            let head = pod.head();
            for budget in all.in_namespace(&head.namespace).iter().filter(|budget| selects(budget, head)) {
                pods.add(namespaced_name(budget));
            }
        }
    });
    // What is desired follows from the workloads' scale.
    for workloads in [&context.deployments, &context.replica_sets] {
        let (queue, all) = (queue.clone(), budgets.clone());
        workloads.on_change(move |old, new| {
            let Some(workload) = new.or(old) else { return };
            let scale = |one: Option<&Value>| one.and_then(|one| one.pointer("/spec/replicas").cloned());
            if scale(old.map(|one| &**one)) != scale(new.map(|one| &**one)) {
                all.in_namespace(namespace(workload)).iter().for_each(|one| queue.add(namespaced_name(one)));
            }
        });
    }
    let stop = context.stop.clone();
    cirro_client::run("disruption", queue, 2, stop, move |(namespace, name)| {
        let (context, budgets) = (context.clone(), budgets.clone());
        async move { reconcile(&context, &budgets, &namespace, &name).await }
    })
    .await;
}

fn selects(budget: &Value, pod: &Head) -> bool {
    budget.pointer("/spec/selector").is_some_and(|selector| matches_labels(selector, &pod.labels()))
}

async fn reconcile(context: &Context, budgets: &Cache, of: &str, called: &str) -> Result<Next, ApiError> {
    let Some(budget) = budgets.get(of, called).filter(|budget| !is_deleting(budget)) else {
        return Ok(Next::Wait);
    };
    let pods = context.pods.select(of, |pod| selects(&budget, pod));
    let scale = expected_scale(context, &pods).await?;
    let now = Timestamp::now();
    let (status, again) = status(&budget, &pods, scale, now);
    if status != budget["status"] {
        let mut next = (*budget).clone();
        next["status"] = status;
        match context.api.update_status(&Resource::new("policy", "poddisruptionbudgets"), next).await {
            // An eviction came between; the change brings it here again.
            Err(error) if error.is_conflict() => return Ok(Next::After(Duration::from_millis(100))),
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(again.map_or(Next::Wait, Next::After))
}

/// Returns how many pods the workloads of these pods want in all.
async fn expected_scale(context: &Context, pods: &[Arc<Value>]) -> Result<i64, ApiError> {
    let mut scales: BTreeMap<String, i64> = BTreeMap::new();
    for pod in pods {
        let Some((owner, uid)) = controller(pod, namespace(pod)) else { continue };
        if scales.contains_key(&uid) {
            continue;
        }
        let workload = match context.api.get(&owner).await {
            Ok(workload) => workload,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        // A replica set's own number changes while its deployment rolls.
        let (uid, workload) = match controller(&workload, namespace(pod)) {
            Some((above, uid)) => match context.api.get(&above).await {
                Ok(above) => (uid, above),
                Err(error) if error.is_not_found() => (uid, workload),
                Err(error) => return Err(error),
            },
            None => (uid, workload),
        };
        if let Some(replicas) = workload.pointer("/spec/replicas").and_then(Value::as_i64) {
            scales.insert(uid, replicas);
        }
    }
    Ok(scales.values().sum())
}

/// Returns the workload that controls an object, of those kinds that have a scale.
fn controller(object: &Value, namespace: &str) -> Option<(ObjectKey, String)> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    let (group, _) = text(owner, "/apiVersion").split_once('/').unwrap_or(("", ""));
    let plural = match (group, text(owner, "/kind")) {
        ("apps", "ReplicaSet") => "replicasets",
        ("apps", "Deployment") => "deployments",
        ("apps", "StatefulSet") => "statefulsets",
        ("", "ReplicationController") => "replicationcontrollers",
        _ => return None,
    };
    let resource = Resource::new(group, plural);
    let key = ObjectKey { resource, namespace: namespace.into(), name: text(owner, "/name").into() };
    Some((key, text(owner, "/uid").into()))
}

/// Returns the status of a budget, and when to look again.
fn status(budget: &Value, pods: &[Arc<Value>], scale: i64, now: Timestamp) -> (Value, Option<Duration>) {
    let (expected, desired) = desired(budget, pods.len(), scale);
    let disrupted = disrupted(budget, pods, now);
    let counts = |pod: &&Arc<Value>| !is_deleting(pod) && !disrupted.contains_key(name(pod)) && is_ready(pod);
    let healthy = i64::try_from(pods.iter().filter(counts).count()).unwrap_or(i64::MAX);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let generation = &budget["metadata"]["generation"];
    let mut status = json!({"currentHealthy": healthy, "desiredHealthy": desired, "disruptionsAllowed": allowed,
        "expectedPods": expected, "observedGeneration": generation,
        "conditions": [condition(budget, allowed > 0, now)]});
    let again = disrupted.values().map(|since| until(*since, now)).min();
    if !disrupted.is_empty() {
        let times =
            disrupted.iter().map(|(name, since)| (name.clone(), cirro_client::seconds(*since).into()));
        status["disruptedPods"] = times.collect::<serde_json::Map<_, _>>().into();
    }
    (status, again)
}

fn until(since: Timestamp, now: Timestamp) -> Duration {
    let left = (since + PATIENCE).duration_since(now);
    Duration::try_from(left).unwrap_or(Duration::ZERO) + Duration::from_secs(1)
}

/// Returns how many pods there should be, and how many of them must be healthy.
fn desired(budget: &Value, pods: usize, scale: i64) -> (i64, i64) {
    let pods = i64::try_from(pods).unwrap_or(i64::MAX);
    let share = |value: &Value, whole: i64| match value {
        Value::String(percent) => {
            let percent: i64 = percent.trim_end_matches('%').parse().unwrap_or(0);
            (percent * whole + 99) / 100
        }
        number => number.as_i64().unwrap_or(0),
    };
    let spec = &budget["spec"];
    match (spec.get("maxUnavailable"), spec.get("minAvailable")) {
        (Some(most), _) => (scale, (scale - share(most, scale)).max(0)),
        (None, Some(least @ Value::String(_))) => (scale, share(least, scale)),
        (None, Some(least)) => (pods, share(least, pods)),
        (None, None) => (pods, 0),
    }
}

/// Returns the evictions that are under way: the pod is still there, and not for too long.
fn disrupted(budget: &Value, pods: &[Arc<Value>], now: Timestamp) -> BTreeMap<String, Timestamp> {
    let noted = budget.pointer("/status/disruptedPods").and_then(Value::as_object);
    let evicted = noted.into_iter().flatten().filter_map(|(name, since)| {
        let since: Timestamp = since.as_str()?.parse().ok()?;
        let pod = pods.iter().find(|pod| cirro_client::name(pod) == name)?;
        let waits = !is_deleting(pod) && since + PATIENCE > now;
        waits.then(|| (name.clone(), since))
    });
    evicted.collect()
}

fn condition(budget: &Value, allowed: bool, now: Timestamp) -> Value {
    let (state, reason) = if allowed { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let conditions = budget.pointer("/status/conditions").and_then(Value::as_array);
    let before = conditions.into_iter().flatten().find(|one| one["type"] == "DisruptionAllowed");
    let since = match before {
        Some(before) if before["status"] == state => before["lastTransitionTime"].clone(),
        _ => cirro_client::seconds(now).into(),
    };
    json!({"type": "DisruptionAllowed", "status": state, "reason": reason, "message": "",
        "lastTransitionTime": since, "observedGeneration": budget["metadata"]["generation"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ready: bool) -> Arc<Value> {
        let state = if ready { "True" } else { "False" };
        Arc::new(
            json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": state}]}}),
        )
    }

    fn budget(spec: Value) -> Value {
        json!({"metadata": {"generation": 3}, "spec": spec, "status": {}})
    }

    fn numbers(budget: &Value, pods: &[Arc<Value>], scale: i64) -> [i64; 4] {
        let (status, _) = status(budget, pods, scale, Timestamp::UNIX_EPOCH);
        ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"]
            .map(|member| status[member].as_i64().unwrap())
    }

    #[test]
    fn budgets_count_as_upstream() {
        let pods = [pod("a", true), pod("b", true), pod("c", false)];
        assert_eq!(numbers(&budget(json!({"minAvailable": 1})), &pods, 3), [3, 1, 2, 1]);
        assert_eq!(numbers(&budget(json!({"minAvailable": "50%"})), &pods, 4), [4, 2, 2, 0]);
        assert_eq!(numbers(&budget(json!({"maxUnavailable": 1})), &pods, 3), [3, 2, 2, 0]);
        assert_eq!(numbers(&budget(json!({"maxUnavailable": "34%"})), &pods, 3), [3, 1, 2, 1]);
        assert_eq!(numbers(&budget(json!({"minAvailable": 0})), &[], 0), [0, 0, 0, 0]);
    }

    #[test]
    fn evictions_under_way_are_not_healthy_until_their_time_is_over() {
        let pods = [pod("a", true), pod("b", true)];
        let mut one = budget(json!({"minAvailable": 1}));
        one["status"]["disruptedPods"] = json!({"a": "1970-01-01T00:00:00Z", "gone": "1970-01-01T00:00:00Z"});
        assert_eq!(numbers(&one, &pods, 2), [2, 1, 1, 0]);
        let (status, again) = status(&one, &pods, 2, Timestamp::UNIX_EPOCH);
        assert_eq!(status["disruptedPods"], json!({"a": "1970-01-01T00:00:00Z"}));
        assert_eq!(again, Some(Duration::from_secs(121)));
        let later = Timestamp::from_second(121).unwrap();
        assert_eq!(super::status(&one, &pods, 2, later).0["disruptionsAllowed"], 1);
    }
}
