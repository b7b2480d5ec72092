//! Rolls a deployment's pods from one template to the next through replica sets.
//!
//! ```text
//! template ─▶ hash ─▶ replica set of that hash (made, or found again after an undo)
//! plan::scale(): how many replicas each set is to have now ─▶ update sets ─▶ status
//! ```

mod history;
mod plan;
mod status;
mod template;

use std::sync::Arc;

use cirro_client::{
    EventRecorder, Next, Severity, WorkQueue, controller_uid, labels, name, namespace, namespaced_name, text,
    uid,
};
use cirro_seams::api::{ApiError, DeleteOptions, Resource};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Context;
use crate::ownership::{Owner, owners_of};
use crate::pods::created;
use plan::{Scale, Set};
use template::HASH_LABEL;

type Key = (String, String);

const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

struct Controller {
    context: Arc<Context>,
    events: EventRecorder,
}

/// Runs the controller until the context's stop.
pub(crate) async fn run(context: Arc<Context>) {
    let queue: Arc<WorkQueue<Key>> = WorkQueue::new();
    let controller = Arc::new(Controller { events: context.events("deployment-controller"), context });
    controller.listen(&queue);
    let stop = controller.context.stop.clone();
    cirro_client::run("deployment", queue, 4, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    })
    .await;
}

impl Controller {
    fn listen(&self, queue: &Arc<WorkQueue<Key>>) {
        let own = queue.clone();
        self.context.deployments.on_change(move |old, new| {
            if let Some(deployment) = new.or(old) {
                own.add(namespaced_name(deployment));
            }
        });
        let (sets, deployments) = (queue.clone(), self.context.deployments.clone());
        self.context.replica_sets.on_change(move |old, new| {
            for set in [old, new].into_iter().flatten() {
                for deployment in owners_of(&deployments, set.head()) {
                    sets.add(namespaced_name(&deployment));
                }
            }
        });
        // `Recreate` waits for the old pods' end.
        let (pods, sets, deployments) =
            (queue.clone(), self.context.replica_sets.clone(), self.context.deployments.clone());
        self.context.pods.on_change(move |old, new| {
            let (Some(pod), None) = (old, new) else { return };
            let set = pod.head().controller().and_then(|owner| sets.by_uid(owner));
            let deployment =
                set.as_deref().and_then(controller_uid).and_then(|owner| deployments.by_uid(owner));
            if let Some(deployment) = deployment.filter(|found| namespace(found) == &*pod.head().namespace) {
                pods.add(namespaced_name(&deployment));
            }
        });
    }

    async fn reconcile(&self, (of, name): Key) -> Result<Next, ApiError> {
        let Some(deployment) = self.context.deployments.get(&of, &name) else {
            return Ok(Next::Wait);
        };
        let resource = Resource::new("apps", "replicasets");
        let owner = Owner {
            object: &deployment,
            api_version: "apps/v1",
            kind: "Deployment",
            resource: Resource::new("apps", "deployments"),
        };
        let api = self.context.api.as_ref();
        let mut sets = owner.claim(api, &resource, &self.context.replica_sets).await?;
        sets.sort_by(|a, b| (created(a), self::name(a)).cmp(&(created(b), self::name(b))));
        let mut current = sets.iter().position(|set| template::is_of(&deployment, set));
        if deployment.pointer("/metadata/deletionTimestamp").is_none() {
            if current.is_none() && !is_paused(&deployment) && self.may_create(&deployment, &sets) {
                sets.push(self.create_set(&deployment, &owner, &sets).await?);
                current = Some(sets.len() - 1);
            }
            if let Some(current) = current {
                sets[current] = self.write_revision(&deployment, &sets, current).await?;
            }
            self.scale(&deployment, &mut sets, current).await?;
            self.clean_up(&deployment, &sets, current).await?;
        }
        self.write_status(&deployment, &sets, current).await
    }

    /// With `Recreate`, the new set waits until every old pod is gone.
    fn may_create(&self, deployment: &Value, sets: &[Arc<Value>]) -> bool {
        if strategy(deployment) != "Recreate" {
            return true;
        }
        sets.iter().all(|set| replicas(set) == 0 && !self.lingers(set))
    }

    /// Whether pods of a set are still there, ending ones too; what ended by itself does not count.
    fn lingers(&self, set: &Value) -> bool {
        let pods = self.context.pods.controlled_by(uid(set));
        pods.iter().any(|pod| !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed"))
    }

    async fn create_set(
        &self,
        deployment: &Value,
        owner: &Owner<'_>,
        sets: &[Arc<Value>],
    ) -> Result<Arc<Value>, ApiError> {
        let scale = Scale::of(deployment);
        let others: Vec<Set> = sets.iter().map(|set| Set::of(set, self.lingers(set))).collect();
        let first = plan::first_replicas(&scale, &others);
        let collisions = deployment.pointer("/status/collisionCount").and_then(Value::as_i64).unwrap_or(0);
        let set = template::replica_set(deployment, owner.reference(), first, collisions);
        let made = self.context.api.create(&Resource::new("apps", "replicasets"), set.clone()).await;
        match made {
            Ok(made) => {
                let message = format!("Scaled up replica set {} from 0 to {first}", name(&made));
                self.events.record(deployment, Severity::Normal, "ScalingReplicaSet", message);
                Ok(made)
            }
            Err(error) if error.is_already_exists() => self.resolve_collision(deployment, &set, error).await,
            Err(error) => Err(error),
        }
    }

    /// The name is taken: by our own set that the cache does not show yet, or by another of the same hash.
    async fn resolve_collision(
        &self,
        deployment: &Value,
        set: &Value,
        error: ApiError,
    ) -> Result<Arc<Value>, ApiError> {
        let key = cirro_client::key_of(&Resource::new("apps", "replicasets"), set);
        let existing = self.context.api.get(&key).await?;
        if controller_uid(&existing) == Some(uid(deployment)) && template::is_of(deployment, &existing) {
            return Ok(existing);
        }
        let collisions = deployment.pointer("/status/collisionCount").and_then(Value::as_i64).unwrap_or(0);
        let key = cirro_client::key_of(&Resource::new("apps", "deployments"), deployment);
        let patch = json!({"status": {"collisionCount": collisions + 1}});
        self.context.api.merge_patch(&key, true, patch).await?;
        Err(error)
    }

    /// Gives the current set the highest revision, and the deployment the same.
    async fn write_revision(
        &self,
        deployment: &Value,
        sets: &[Arc<Value>],
        current: usize,
    ) -> Result<Arc<Value>, ApiError> {
        let others = sets.iter().enumerate().filter(|(index, _)| *index != current);
        let highest = others.map(|(_, set)| revision(set)).max().unwrap_or(0);
        let own = revision(&sets[current]).max(highest + 1);
        let mut set = sets[current].clone();
        if revision(&set) != own {
            set = self.annotate(&set, "replicasets", history::at_revision(&set, own)).await?;
        }
        if revision(deployment) != own {
            self.annotate(deployment, "deployments", json!({REVISION: own.to_string()})).await?;
        }
        Ok(set)
    }

    async fn annotate(
        &self,
        object: &Value,
        plural: &str,
        annotations: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let patch = json!({"metadata": {"uid": uid(object), "annotations": annotations}});
        let key = cirro_client::key_of(&Resource::new("apps", plural), object);
        self.context.api.merge_patch(&key, false, patch).await
    }

    async fn scale(
        &self,
        deployment: &Value,
        sets: &mut [Arc<Value>],
        current: Option<usize>,
    ) -> Result<(), ApiError> {
        let scale = Scale::of(deployment);
        let view: Vec<Set> = sets.iter().map(|set| Set::of(set, self.lingers(set))).collect();
        for (index, target) in plan::scale(&scale, &view, current).into_iter().enumerate() {
            let (annotations, before) = (&sets[index]["metadata"]["annotations"], view[index].replicas);
            let noted =
                text(annotations, "/deployment.kubernetes.io~1desired-replicas").parse() == Ok(scale.desired);
            if target == before && (noted || target == 0) {
                continue;
            }
            let mut set = (*sets[index]).clone();
            set["spec"]["replicas"] = json!(target);
            if !set["metadata"]["annotations"].is_object() {
                set["metadata"]["annotations"] = json!({});
            }
            set["metadata"]["annotations"][DESIRED] = scale.desired.to_string().into();
            set["metadata"]["annotations"][MAX_REPLICAS] =
                (scale.desired + scale.max_surge).to_string().into();
            sets[index] = self.context.api.update(&Resource::new("apps", "replicasets"), set).await?;
            if target != before {
                let direction = if target > before { "up" } else { "down" };
                let message = format!(
                    "Scaled {direction} replica set {} from {before} to {target}",
                    name(&sets[index])
                );
                self.events.record(deployment, Severity::Normal, "ScalingReplicaSet", message);
            }
        }
        Ok(())
    }

    /// Deletes the oldest empty sets beyond the history limit.
    async fn clean_up(
        &self,
        deployment: &Value,
        sets: &[Arc<Value>],
        current: Option<usize>,
    ) -> Result<(), ApiError> {
        let limit = deployment["spec"]["revisionHistoryLimit"].as_u64().unwrap_or(10);
        let mut old: Vec<&Arc<Value>> = sets
            .iter()
            .enumerate()
            .filter(|(index, set)| Some(*index) != current && is_empty(set))
            .map(|(_, set)| set)
            .collect();
        old.sort_by_key(|set| revision(set));
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        for set in &old[..surplus] {
            let key = cirro_client::key_of(&Resource::new("apps", "replicasets"), set);
            let options = DeleteOptions { uid: Some(uid(set).to_owned()), ..DeleteOptions::default() };
            match self.context.api.delete(&key, options).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn write_status(
        &self,
        deployment: &Value,
        sets: &[Arc<Value>],
        current: Option<usize>,
    ) -> Result<Next, ApiError> {
        let (status, again) = status::compute(deployment, sets, current, Timestamp::now());
        if deployment.get("status") == Some(&status) {
            return Ok(again);
        }
        let key = cirro_client::key_of(&Resource::new("apps", "deployments"), deployment);
        let mut updated = deployment.clone();
        // The revision may have been written a moment ago: take the newest version, keep our view of the status.
        if let Ok(newest) = self.context.api.get(&key).await {
            if uid(&newest) != uid(deployment) {
                return Ok(Next::Wait);
            }
            updated = (*newest).clone();
        }
        updated["status"] = status;
        match self.context.api.update_status(&key.resource, updated).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(again),
        }
    }
}

fn strategy(deployment: &Value) -> &str {
    text(deployment, "/spec/strategy/type")
}

fn is_paused(deployment: &Value) -> bool {
    deployment["spec"]["paused"] == true
}

fn replicas(set: &Value) -> i64 {
    set["spec"]["replicas"].as_i64().unwrap_or(1)
}

/// Whether a set has no pods, wants none, and its controller has seen that.
fn is_empty(set: &Value) -> bool {
    replicas(set) == 0
        && set["status"]["replicas"].as_i64().unwrap_or(0) == 0
        && set["status"]["observedGeneration"] == set["metadata"]["generation"]
        && set.pointer("/metadata/deletionTimestamp").is_none()
        && !labels(set).get(HASH_LABEL).is_none_or(|hash| hash.is_empty())
}

fn revision(object: &Value) -> i64 {
    text(object, "/metadata/annotations/deployment.kubernetes.io~1revision").parse().unwrap_or(0)
}
