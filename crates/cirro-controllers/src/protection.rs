//! Keeps claims and volumes while they are in use: the finalizers are put on what lacks them, and taken off what is
//! being deleted and not used any more.
//!
//! Source: `pkg/controller/volume/pvcprotection`, `pkg/controller/volume/pvprotection`.

use std::sync::Arc;

use cirro_client::{Cache, Next, WorkQueue, key_of, name, namespace, text};
use cirro_seams::api::{ApiError, Resource};
use serde_json::{Value, json};

use crate::Context;
use crate::pods::is_deleting;

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

type Key = (&'static str, String, String);

/// Runs the controller until the context's stop.
pub(crate) async fn run(context: Arc<Context>) {
    let claims = context.cache("", "persistentvolumeclaims");
    let volumes = context.cache("", "persistentvolumes");
    let queue: Arc<WorkQueue<Key>> = WorkQueue::new();
    for (cache, plural) in [(&claims, "persistentvolumeclaims"), (&volumes, "persistentvolumes")] {
        cache.synced().await;
        let own = queue.clone();
        cache.on_change(move |_, new| {
            if let Some(object) = new {
                let (namespace, name) = object.place();
                own.add((plural, namespace, name));
            }
        });
    }
    let (pods, all) = (queue.clone(), claims.clone());
    context.pods.on_change(move |old, new| {
        let Some(pod) = old.filter(|_| new.is_none()) else { return };
        let waiting = all.in_namespace(&pod.head().namespace).into_iter().filter(|claim| is_deleting(claim));
        waiting.filter(|claim| uses(pod, claim)).for_each(|claim| {
            pods.add(("persistentvolumeclaims", namespace(&claim).to_owned(), name(&claim).to_owned()));
        });
    });
    let stop = context.stop.clone();
    cirro_client::run("protection", queue, 1, stop, move |key| {
        let (context, claims, volumes) = (context.clone(), claims.clone(), volumes.clone());
        async move { reconcile(&context, &claims, &volumes, key).await }
    })
    .await;
}

/// Whether a pod that has a node uses a claim.
fn uses(pod: &Value, claim: &Value) -> bool {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let names = volumes.filter_map(|volume| volume.pointer("/persistentVolumeClaim/claimName"));
    !text(pod, "/spec/nodeName").is_empty() && names.into_iter().any(|used| used == name(claim))
}

async fn reconcile(context: &Context, claims: &Cache, volumes: &Cache, key: Key) -> Result<Next, ApiError> {
    let (plural, of, called) = key;
    let (cache, finalizer) = match plural {
        "persistentvolumes" => (volumes, VOLUME_FINALIZER),
        _ => (claims, CLAIM_FINALIZER),
    };
    let Some(object) = cache.get(&of, &called) else { return Ok(Next::Wait) };
    let in_use = || match plural {
        "persistentvolumes" => text(&object, "/status/phase") == "Bound",
        _ => context.pods.in_namespace(&of).iter().any(|pod| uses(pod, &object)),
    };
    let present = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let has = present.iter().any(|one| one == finalizer);
    let next: Vec<Value> = match (is_deleting(&object), has) {
        (true, true) if !in_use() => present.into_iter().filter(|one| one != finalizer).collect(),
        (false, false) => present.into_iter().chain([finalizer.into()]).collect(),
        _ => return Ok(Next::Wait),
    };
    let patch =
        json!({"metadata": {"resourceVersion": object["metadata"]["resourceVersion"], "finalizers": next}});
    match context.api.merge_patch(&key_of(&Resource::new("", plural), &object), false, patch).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Next::Wait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_used_by_pods_that_have_a_node() {
        let claim = json!({"metadata": {"name": "data"}});
        let pod = |node: &str, claim: &str| {
            json!({"spec": {"nodeName": node, "volumes": [{"name": "v", "emptyDir": {}},
                {"name": "d", "persistentVolumeClaim": {"claimName": claim}}]}})
        };
        assert!(uses(&pod("n", "data"), &claim));
        assert!(!uses(&pod("", "data"), &claim));
        assert!(!uses(&pod("n", "other"), &claim));
    }
}
