//! A deleted definition takes its objects with it.
//!
//! Source: apiextensions-apiserver `pkg/controller/finalizer/crd_finalizer.go`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use cirro_seams::api::{ApiError, DeleteOptions};
use cirro_store::WatchItem;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::FINALIZER;
use super::follow::definition_kind;
use super::names::set_condition;
use crate::json;
use crate::record;
use crate::registry::Kind;
use crate::storage::{ListOptions, Place, Storage, Target};

/// Between two tries after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// Deletes the objects of a definition, waits for those that have finalizers, then lets the definition go.
pub(super) async fn clean(storage: &Weak<Storage>, kind: Option<&Arc<Kind>>, name: &str) {
    while let Err(refusal) = try_clean(storage, kind, name).await {
        tracing::warn!(%refusal, name, "the objects of a definition cannot be deleted yet");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Does it once. The storage is not held while nothing happens.
async fn try_clean(storage: &Weak<Storage>, kind: Option<&Arc<Kind>>, name: &str) -> Result<(), ApiError> {
    // One that was never served has no objects.
    if let Some(kind) = kind {
        let Some(held) = storage.upgrade() else { return Ok(()) };
        let mut changes = delete_all(&held, kind).await?;
        drop(held);
        while storage.upgrade().is_some() && !is_empty(storage, kind).await? {
            if changes.recv().await.is_none() {
                return Ok(());
            }
        }
    }
    let Some(held) = storage.upgrade() else { return Ok(()) };
    match end(&held, name).await {
        Err(refusal) if !refusal.is_not_found() => Err(refusal),
        _ => Ok(()),
    }
}

/// Deletes every object of a kind, and returns what happens from then on.
async fn delete_all(storage: &Storage, kind: &Arc<Kind>) -> Result<mpsc::Receiver<WatchItem>, ApiError> {
    let all = ListOptions { as_stored: true, ..ListOptions::default() };
    let page = storage.list(kind, None, &all).await?;
    let changes = storage.watch(kind, None, page.revision).await?;
    for record in &page.records {
        let object = record::decode(&record.value, record.revision)?;
        let place = Place { kind, namespace: json::namespace(&object), name: json::name(&object) };
        match storage.delete(place, &DeleteOptions::default(), false).await {
            Err(refusal) if !refusal.is_not_found() => return Err(refusal),
            _ => {}
        }
    }
    Ok(changes)
}

async fn is_empty(storage: &Weak<Storage>, kind: &Kind) -> Result<bool, ApiError> {
    let Some(storage) = storage.upgrade() else { return Ok(true) };
    let one = ListOptions { limit: 1, as_stored: true, ..ListOptions::default() };
    Ok(storage.list(kind, None, &one).await?.records.is_empty())
}

/// Takes the finalizer out.
async fn end(storage: &Storage, name: &str) -> Result<(), ApiError> {
    let kind = definition_kind(storage);
    let change = |old: &Value| {
        let mut new = old.clone();
        let kept = json::array(old, "metadata.finalizers").iter().filter(|one| *one != FINALIZER);
        new["metadata"]["finalizers"] = kept.cloned().collect();
        if json::array(&new, "metadata.finalizers").is_empty() {
            json::remove(&mut new["metadata"], "finalizers");
        }
        let message = "removed all instances";
        set_condition(&mut new["status"], "Terminating", "False", "InstanceDeletionCompleted", message);
        Ok(new)
    };
    storage.modify(Place { kind: &kind, namespace: "", name }, Target::Whole, false, change).await.map(drop)
}

/// Marks a definition whose deletion begins.
pub(crate) fn begin(definition: &mut Value) {
    let metadata = json::object_mut(definition, "metadata");
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|one| one == FINALIZER)
    {
        finalizers.push(FINALIZER.into());
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(&mut definition["status"], "Terminating", "True", "InstanceDeletionPending", message);
}
