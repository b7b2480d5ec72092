//! The API as the components in this process use it: the storage path, without HTTP.

use std::sync::Arc;

use cirro_seams::Pending;
use cirro_seams::api::{Api, ApiError, DeleteOptions, ObjectEvent, ObjectKey, ObjectList, Resource};
use cirro_store::{Change, Record, WatchItem};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::error;
use crate::json;
use crate::record::{self, DecodeCache};
use crate::registry::{Kind, Subresource};
use crate::storage::{ListOptions, Place, Storage, Target};

/// Events that wait for a reader before the store's own limit begins to count.
const WATCH_BUFFER: usize = 256;
/// Objects of a list after which others get their turn.
const TURN: usize = 1000;

/// A client in the server's own process.
pub(crate) struct LocalClient {
    pub(crate) storage: Arc<Storage>,
}

impl LocalClient {
    fn kind(&self, resource: &Resource) -> Result<Arc<Kind>, ApiError> {
        let registry = self.storage.definitions.registry();
        registry.kind(&resource.group, &resource.plural).cloned().ok_or_else(error::no_such_path)
    }

    async fn replace(
        &self,
        resource: &Resource,
        object: Value,
        target: Target,
    ) -> Result<Arc<Value>, ApiError> {
        let kind = self.kind(resource)?;
        // Lists and watches of this client tell objects as they are stored.
        let object = self.storage.converted(&kind, object).await?;
        let (namespace, name) = (json::namespace(&object), json::name(&object));
        let place = Place { kind: &kind, namespace, name };
        // A namespace that is being deleted ends when the controller that emptied it takes the
        // finalizer out of its spec.
        let target = match target {
            Target::Object if kind.has(Subresource::Finalize) && finalizes(&object) => Target::Whole,
            other => other,
        };
        self.storage.modify(place, target, false, |_| Ok(object.clone())).await
    }
}

fn finalizes(object: &Value) -> bool {
    json::at(object, "metadata.deletionTimestamp").is_some()
        && json::array(object, "spec.finalizers").is_empty()
}

impl Api for LocalClient {
    fn get(&self, key: &ObjectKey) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        let key = key.clone();
        Box::pin(async move {
            let kind = self.kind(&key.resource)?;
            self.storage.get(Place { kind: &kind, namespace: &key.namespace, name: &key.name }).await
        })
    }

    fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
    ) -> Pending<'_, Result<ObjectList, ApiError>> {
        let (resource, namespace) = (resource.clone(), namespace.map(str::to_owned));
        Box::pin(async move {
            let kind = self.kind(&resource)?;
            let all = ListOptions { as_stored: true, ..ListOptions::default() };
            let page = self.storage.list(&kind, namespace.as_deref(), &all).await?;
            let mut items = Vec::with_capacity(page.records.len());
            for record in page.records {
                items.push(record::pack(&self.storage.decoded, &kind, record)?);
                if items.len().is_multiple_of(TURN) {
                    tokio::task::yield_now().await;
                }
            }
            Ok(ObjectList { items, revision: page.revision })
        })
    }

    fn watch(
        &self,
        resource: &Resource,
        revision: u64,
    ) -> Pending<'_, Result<mpsc::Receiver<ObjectEvent>, ApiError>> {
        let resource = resource.clone();
        Box::pin(async move {
            let kind = self.kind(&resource)?;
            let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
            match self.storage.watch(&kind, None, revision).await {
                Ok(changes) => {
                    tokio::spawn(forward(self.storage.decoded.clone(), kind, changes, sender));
                }
                Err(refusal) if refusal.code == 410 => {
                    sender.try_send(ObjectEvent::Expired).expect("the channel is new");
                }
                Err(refusal) => return Err(refusal),
            }
            Ok(receiver)
        })
    }

    fn create(&self, resource: &Resource, object: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        let resource = resource.clone();
        Box::pin(async move {
            let kind = self.kind(&resource)?;
            let namespace = json::namespace(&object).to_owned();
            self.storage.create(&kind, &namespace, object, false).await.map(|created| created.object)
        })
    }

    fn update(&self, resource: &Resource, object: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        let resource = resource.clone();
        Box::pin(async move { self.replace(&resource, object, Target::Object).await })
    }

    fn update_status(&self, resource: &Resource, object: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        let resource = resource.clone();
        Box::pin(async move { self.replace(&resource, object, Target::Status).await })
    }

    fn merge_patch(
        &self,
        key: &ObjectKey,
        status: bool,
        patch: Value,
    ) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        let key = key.clone();
        Box::pin(async move {
            let kind = self.kind(&key.resource)?;
            let place = Place { kind: &kind, namespace: &key.namespace, name: &key.name };
            let target = if status { Target::Status } else { Target::Object };
            let change = |old: &Value| Ok(crate::patch::merged(old, &patch));
            self.storage.modify(place, target, false, change).await
        })
    }

    fn bind(&self, namespace: &str, pod: &str, uid: &str, node: &str) -> Pending<'_, Result<(), ApiError>> {
        let binding = json!({"metadata": {"name": pod, "namespace": namespace, "uid": uid},
            "target": {"kind": "Node", "name": node}});
        Box::pin(async move {
            let kind = self.kind(&Resource::new("", "pods"))?;
            let (namespace, name) = (json::namespace(&binding), json::name(&binding));
            crate::binding::bind(&self.storage, Place { kind: &kind, namespace, name }, &binding, false).await
        })
    }

    fn request_token(
        &self,
        namespace: &str,
        account: &str,
        request: Value,
    ) -> Pending<'_, Result<Value, ApiError>> {
        let (namespace, account) = (namespace.to_owned(), account.to_owned());
        Box::pin(async move {
            let place = self.storage.core_place("serviceaccounts", &namespace, &account);
            self.storage.request_token(place, request).await
        })
    }

    fn delete(&self, key: &ObjectKey, options: DeleteOptions) -> Pending<'_, Result<(), ApiError>> {
        let key = key.clone();
        Box::pin(async move {
            let kind = self.kind(&key.resource)?;
            let place = Place { kind: &kind, namespace: &key.namespace, name: &key.name };
            self.storage.delete(place, &options, false).await.map(drop)
        })
    }
}

/// Turns the store's changes into events until the reader or the store ends it.
async fn forward(
    decoded: Arc<DecodeCache>,
    kind: Arc<Kind>,
    mut changes: mpsc::Receiver<WatchItem>,
    sender: mpsc::Sender<ObjectEvent>,
) {
    loop {
        let item = tokio::select! {
            item = changes.recv() => item,
            () = sender.closed() => return,
        };
        let events = match item {
            None | Some(WatchItem::Lost) => vec![ObjectEvent::Expired],
            Some(WatchItem::Progress(_)) => continue,
            Some(WatchItem::Changes(_, changes)) => {
                changes.iter().filter_map(|change| event(&decoded, &kind, change)).collect()
            }
        };
        for event in events {
            let last = matches!(event, ObjectEvent::Expired);
            if sender.send(event).await.is_err() || last {
                return;
            }
        }
    }
}

fn event(decoded: &Arc<DecodeCache>, kind: &Kind, change: &Change) -> Option<ObjectEvent> {
    let event = match change {
        Change::Put(now, _) => record::pack(decoded, kind, now.clone()).map(ObjectEvent::Applied),
        Change::Delete(revision, last) => {
            let last = Record { revision: *revision, ..last.clone() };
            record::pack(decoded, kind, last).map(ObjectEvent::Deleted)
        }
    };
    // A record that cannot be read is skipped: the list that would repeat it fails with its name.
    event.inspect_err(|refusal| tracing::error!(%refusal, "skip an unreadable change")).ok()
}
