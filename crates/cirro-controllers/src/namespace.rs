//! Empties namespaces that are being deleted, then lets them go.

use std::sync::Arc;
use std::time::Duration;

use cirro_client::{Next, WorkQueue, key_of, name, uid};
use cirro_seams::api::{ApiError, DeleteOptions, Resource, ResourceInfo};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::Context;
use crate::pods::is_deleting;

/// Objects with finalizers or pods with a grace take their time.
const AGAIN: Duration = Duration::from_millis(500);

/// Runs the controller until the context's stop.
pub(crate) async fn run(context: Arc<Context>, kinds: watch::Receiver<Vec<ResourceInfo>>) {
    let namespaces = context.cache("", "namespaces");
    namespaces.synced().await;
    let queue: Arc<WorkQueue<String>> = WorkQueue::new();
    let own = queue.clone();
    namespaces.on_change(move |_, new| {
        if let Some(namespace) = new.filter(|namespace| is_deleting(namespace)) {
            own.add(name(namespace).to_owned());
        }
    });
    let stop = context.stop.clone();
    cirro_client::run("namespace", queue, 2, stop, move |name| {
        let (context, kinds, namespaces) = (context.clone(), kinds.clone(), namespaces.clone());
        async move {
            match namespaces.get("", &name).filter(|namespace| is_deleting(namespace)) {
                Some(namespace) => {
                    // Definitions of custom kinds come and go.
                    let kinds: Vec<_> =
                        kinds.borrow().iter().filter(|kind| kind.namespaced).cloned().collect();
                    empty(&context, &kinds, &namespace).await
                }
                None => Ok(Next::Wait),
            }
        }
    })
    .await;
}

async fn empty(context: &Context, kinds: &[ResourceInfo], namespace: &Value) -> Result<Next, ApiError> {
    let mut left = 0;
    // Events come last: the deletion of the others may make some.
    let (events, others): (Vec<_>, Vec<_>) = kinds.iter().partition(|kind| kind.resource.plural == "events");
    for kind in others.into_iter().chain(events) {
        let list = match context.api.list(&kind.resource, Some(name(namespace))).await {
            // Its definition has just gone, and its objects with it.
            Err(error) if error.is_not_found() => continue,
            list => list?,
        };
        left += list.items.len();
        for object in list.items.iter().filter(|object| !is_deleting(object)) {
            let options = DeleteOptions { uid: Some(uid(object).to_owned()), ..DeleteOptions::default() };
            match context.api.delete(&key_of(&kind.resource, object), options).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    if left > 0 {
        return Ok(Next::After(AGAIN));
    }
    let mut ended = namespace.clone();
    ended["spec"]["finalizers"] = json!([]);
    match context.api.update(&Resource::new("", "namespaces"), ended).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Next::Wait),
    }
}
