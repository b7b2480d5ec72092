//! Keeps as many pods of a replica set as it asks for.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cirro_client::{
    EventRecorder, Next, Severity, WorkQueue, key_of, labels, matches_labels, name, namespace,
    namespaced_name, uid,
};
use cirro_seams::api::{ApiError, DeleteOptions, Resource};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Context;
use crate::ownership::{Owner, owners_of};
use crate::pods::{available_at, expendable_first, is_active, is_ready};

/// At most so many pods are made in one step; upstream's burst is 500.
const BURST: usize = 500;

type Key = (String, String);

struct Controller {
    context: Arc<Context>,
    events: EventRecorder,
    /// By replica set's uid.
    expected: Mutex<HashMap<String, Expected>>,
}

/// What this controller did and its cache may not show yet.
#[derive(Default)]
struct Expected {
    /// The newest pod that was made.
    created: Option<Arc<Value>>,
    /// Uids of pods that were deleted.
    deleted: HashSet<String>,
}

/// Runs the controller until the context's stop.
pub(crate) async fn run(context: Arc<Context>) {
    let queue: Arc<WorkQueue<Key>> = WorkQueue::new();
    let controller = Arc::new(Controller {
        events: context.events("replicaset-controller"),
        expected: Mutex::default(),
        context,
    });
    controller.listen(&queue);
    let stop = controller.context.stop.clone();
    cirro_client::run("replicaset", queue, 4, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    })
    .await;
}

impl Controller {
    fn listen(&self, queue: &Arc<WorkQueue<Key>>) {
        let sets = queue.clone();
        self.context.replica_sets.on_change(move |old, new| {
            if let Some(set) = new.or(old) {
                sets.add(namespaced_name(set));
            }
        });
        let (pods, replica_sets) = (queue.clone(), self.context.replica_sets.clone());
        self.context.pods.on_change(move |old, new| {
            for pod in [old, new].into_iter().flatten() {
                for set in owners_of(&replica_sets, pod.head()) {
                    pods.add(namespaced_name(&set));
                }
            }
        });
    }

    async fn reconcile(&self, (of, name): Key) -> Result<Next, ApiError> {
        let Some(set) = self.context.replica_sets.get(&of, &name) else {
            return Ok(Next::Wait);
        };
        let resource = Resource::new("", "pods");
        let owner = Owner {
            object: &set,
            api_version: "apps/v1",
            kind: "ReplicaSet",
            resource: Resource::new("apps", "replicasets"),
        };
        let claimed = owner.claim(self.context.api.as_ref(), &resource, &self.context.pods).await?;
        let Some(pods) = self.as_expected(&set, claimed) else {
            // The pod that was made will come by and wake this key.
            return Ok(Next::After(Duration::from_secs(1)));
        };
        let wanted = usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
        let outcome = if set.pointer("/metadata/deletionTimestamp").is_some() {
            Ok(())
        } else if pods.len() < wanted {
            self.create(&set, &owner, (wanted - pods.len()).min(BURST)).await
        } else {
            self.delete(&set, pods.clone(), wanted).await
        };
        let again = self.write_status(&set, &pods, outcome.as_ref().err()).await?;
        outcome.map(|()| again)
    }

    /// Returns the active pods without those deleted here; `None` while a made pod has not been seen.
    fn as_expected(&self, set: &Value, mut pods: Vec<Arc<Value>>) -> Option<Vec<Arc<Value>>> {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(expected) = expected.get_mut(uid(set)) {
            if expected.created.as_ref().is_some_and(|pod| !self.context.pods.has_seen(pod)) {
                return None;
            }
            expected.created = None;
            expected.deleted.retain(|deleted| pods.iter().any(|pod| uid(pod) == deleted && is_active(pod)));
            pods.retain(|pod| !expected.deleted.contains(uid(pod)));
        }
        pods.retain(|pod| is_active(pod));
        Some(pods)
    }

    /// Makes pods in batches of 1, 2, 4, ...: a template that is refused is refused few times.
    async fn create(&self, set: &Value, owner: &Owner<'_>, count: usize) -> Result<(), ApiError> {
        let pod = pod_from_template(set, owner.reference());
        let (mut made, mut batch) = (0, 1);
        while made < count {
            for _ in 0..batch.min(count - made) {
                match self.context.api.create(&Resource::new("", "pods"), pod.clone()).await {
                    Ok(pod) => {
                        let message = format!("Created pod: {}", name(&pod));
                        self.events.record(set, Severity::Normal, "SuccessfulCreate", message);
                        self.expect(set, |expected| expected.created = Some(pod));
                    }
                    Err(error) => {
                        let message = format!("Error creating: {error}");
                        self.events.record(set, Severity::Warning, "FailedCreate", message);
                        return Err(error);
                    }
                }
                made += 1;
            }
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, set: &Value, mut pods: Vec<Arc<Value>>, wanted: usize) -> Result<(), ApiError> {
        expendable_first(&mut pods);
        let surplus = pods.len() - wanted.min(pods.len());
        for pod in &pods[..surplus] {
            let options = DeleteOptions { uid: Some(uid(pod).to_owned()), ..DeleteOptions::default() };
            match self.context.api.delete(&key_of(&Resource::new("", "pods"), pod), options).await {
                Err(error) if !error.is_not_found() && error.code != 409 => return Err(error),
                _ => {}
            }
            self.expect(set, |expected| {
                expected.deleted.insert(uid(pod).to_owned());
            });
            let message = format!("Deleted pod: {}", name(pod));
            self.events.record(set, Severity::Normal, "SuccessfulDelete", message);
        }
        Ok(())
    }

    fn expect(&self, set: &Value, note: impl FnOnce(&mut Expected)) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let sets = &self.context.replica_sets;
        if expected.len() > 2 * sets.list().len() + 64 {
            let living: HashSet<String> = sets.list().iter().map(|set| uid(set).to_owned()).collect();
            expected.retain(|uid, _| living.contains(uid));
        }
        note(expected.entry(uid(set).to_owned()).or_default());
    }

    async fn write_status(
        &self,
        set: &Value,
        pods: &[Arc<Value>],
        failure: Option<&ApiError>,
    ) -> Result<Next, ApiError> {
        let (status, again) = status(set, pods, failure, Timestamp::now());
        if set.get("status") == Some(&status) {
            return Ok(again);
        }
        let mut updated = set.clone();
        updated["status"] = status;
        match self.context.api.update_status(&Resource::new("apps", "replicasets"), updated).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(again),
        }
    }
}

/// Computes the status, and when it will change by itself (a pod becomes available).
fn status(set: &Value, pods: &[Arc<Value>], failure: Option<&ApiError>, now: Timestamp) -> (Value, Next) {
    let min_ready_seconds = set["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
    let template = json!({"matchLabels": set["spec"]["template"]["metadata"]["labels"]});
    let available: Vec<Timestamp> =
        pods.iter().filter_map(|pod| available_at(pod, min_ready_seconds)).collect();
    let mut status = json!({
        "replicas": pods.len(),
        "fullyLabeledReplicas": pods.iter().filter(|pod| matches_labels(&template, &labels(pod))).count(),
        "readyReplicas": pods.iter().filter(|pod| is_ready(pod)).count(),
        "availableReplicas": available.iter().filter(|at| **at <= now).count(),
        "observedGeneration": set["metadata"]["generation"],
    });
    if let Some(failure) = failure {
        // A failure that goes on is told once, as upstream does: its text names another pod each time.
        let earlier =
            set.pointer("/status/conditions/0").filter(|one| one["reason"] == "FailedCreate").cloned();
        let condition = earlier.unwrap_or_else(|| {
            json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                "message": failure.message, "lastTransitionTime": cirro_client::seconds(now)})
        });
        status["conditions"] = json!([condition]);
    }
    // Counts that are zero are left out, as upstream's `omitempty` does.
    if let Some(members) = status.as_object_mut() {
        members.retain(|member, value| member == "replicas" || *value != json!(0));
    }
    let next = available.into_iter().filter(|at| *at > now).min();
    let again = next.map_or(Next::Wait, |at| Next::After(Duration::try_from(at - now).unwrap_or_default()));
    (status, again)
}

fn pod_from_template(set: &Value, owner: Value) -> Value {
    let template = &set["spec"]["template"];
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": format!("{}-", name(set)),
            "namespace": namespace(set),
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"],
            "finalizers": template["metadata"]["finalizers"],
            "ownerReferences": [owner],
        },
        "spec": template["spec"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ready_since: Option<&str>) -> Arc<Value> {
        let status = if ready_since.is_some() { "True" } else { "False" };
        Arc::new(json!({"metadata": {"name": "p", "labels": {"app": "x"}}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": ready_since}]}}))
    }

    #[test]
    fn status_counts_and_says_when_a_pod_becomes_available() {
        let set = json!({"metadata": {"generation": 3}, "spec": {"minReadySeconds": 10,
            "template": {"metadata": {"labels": {"app": "x"}}}}});
        let pods = [pod(Some("2026-01-01T00:00:00Z")), pod(Some("2026-01-01T00:00:25Z")), pod(None)];
        let (status, again) = status(&set, &pods, None, "2026-01-01T00:00:30Z".parse().unwrap());
        assert_eq!(
            status,
            json!({"replicas": 3, "fullyLabeledReplicas": 3, "readyReplicas": 2, "availableReplicas": 1,
                "observedGeneration": 3})
        );
        assert_eq!(again, Next::After(Duration::from_secs(5)));
    }
}
