//! Empties namespaces that are being deleted, then lets them go.
//!
//! Pods go first: while they run they may need what else the namespace holds. What is left, and why, stands in the
//! namespace's conditions (`conditions`).
//!
//! Source: `pkg/controller/namespace/deletion` (OrderedNamespaceDeletion).

use std::sync::Arc;
use std::time::Duration;

use cirro_client::{Next, WorkQueue, name};
use cirro_seams::api::{ApiError, DeleteOptions, ObjectKey, Packed, Resource, ResourceInfo};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::Context;
use crate::pods::is_deleting;

mod conditions;

use conditions::Content;

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
    let mut content = Content::default();
    let is_pods = |kind: &&ResourceInfo| kind.resource == Resource::new("", "pods");
    let (pods, others): (Vec<_>, Vec<_>) = kinds.iter().partition(is_pods);
    for kind in pods {
        delete_all(context, kind, namespace, &mut content).await;
    }
    if content.is_gone() {
        // Events come last: the deletion of the others may make some.
        let (events, others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|kind| kind.resource.plural == "events");
        for kind in others.into_iter().chain(events) {
            delete_all(context, kind, namespace, &mut content).await;
        }
    }
    let status = conditions::status(&namespace["status"], &content, jiff::Timestamp::now());
    if !content.is_gone() {
        if status != namespace["status"] {
            let mut told = namespace.clone();
            told["status"] = status;
            match context.api.update_status(&Resource::new("", "namespaces"), told).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        return content.failure().map_or(Ok(Next::After(AGAIN)), Err);
    }
    let mut ended = namespace.clone();
    ended["spec"]["finalizers"] = json!([]);
    match context.api.update(&Resource::new("", "namespaces"), ended).await {
        // Its status was written meanwhile; the change brings it here again.
        Err(error) if error.is_conflict() => Ok(Next::After(AGAIN)),
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Next::Wait),
    }
}

/// Deletes the objects of a kind and notes what stays.
async fn delete_all(context: &Context, kind: &ResourceInfo, namespace: &Value, content: &mut Content) {
    if let Err(error) = try_delete_all(context, kind, namespace, content).await
        // Its definition has just gone, and its objects with it.
        && !error.is_not_found()
    {
        content.failed(error);
    }
}

async fn try_delete_all(
    context: &Context,
    kind: &ResourceInfo,
    namespace: &Value,
    content: &mut Content,
) -> Result<(), ApiError> {
    let list = context.api.list(&kind.resource, Some(name(namespace))).await?;
    let mut refusal = None;
    for object in list.items.iter().map(Packed::head).filter(|object| !object.deleting) {
        let options = DeleteOptions { uid: Some(object.uid.to_string()), ..DeleteOptions::default() };
        let key = ObjectKey {
            resource: kind.resource.clone(),
            namespace: object.namespace.to_string(),
            name: object.name.to_string(),
        };
        match context.api.delete(&key, options).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => refusal = Some(error),
            _ => {}
        }
    }
    if !list.items.is_empty() {
        let left = context.api.list(&kind.resource, Some(name(namespace))).await?;
        content.left(&kind.resource, &left.items);
    }
    refusal.map_or(Ok(()), Err)
}
