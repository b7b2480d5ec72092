//! Deletes what lost its owners, and lets owners go whose deletion waits for their dependents.
//!
//! | deletion of the owner | what it leaves | what happens here |
//! | --- | --- | --- |
//! | Background | nothing | dependents whose owners are all gone are deleted |
//! | Foreground | the finalizer `foregroundDeletion` | dependents that block go first, then the finalizer |
//! | Orphan | the finalizer `orphan` | references to the owner are taken out, then the finalizer |

use std::sync::{Arc, PoisonError, RwLock};

use cirro_client::{Cache, Next, WorkQueue, key_of, text, uid};
use cirro_seams::api::{ApiError, DeleteOptions, ObjectKey, Resource, ResourceInfo};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Context;
use crate::ownership::owner_references;
use crate::pods::is_deleting;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

struct Controller {
    context: Arc<Context>,
    kinds: Arc<Kinds>,
}

/// What is followed; it grows and shrinks with the definitions of custom kinds.
#[derive(Default)]
struct Kinds(RwLock<Vec<Followed>>);

#[derive(Clone)]
struct Followed {
    kind: ResourceInfo,
    cache: Cache,
    /// Ends the wait for its first list.
    stop: CancellationToken,
}

impl Kinds {
    fn all(&self) -> Vec<Followed> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn cache(&self, resource: &Resource) -> Option<Cache> {
        self.all().into_iter().find(|one| one.kind.resource == *resource).map(|one| one.cache)
    }
}

/// Runs the controller over the kinds that there are until the context's stop.
pub(crate) async fn run(context: Arc<Context>, mut kinds: watch::Receiver<Vec<ResourceInfo>>) {
    let queue: Arc<WorkQueue<ObjectKey>> = WorkQueue::new();
    let controller = Arc::new(Controller { context, kinds: Arc::default() });
    let first = kinds.borrow_and_update().clone();
    let mut listening = controller.follow(first, &queue);
    while listening.join_next().await.is_some() {}
    let stop = controller.context.stop.clone();
    let follow = async {
        while kinds.changed().await.is_ok() {
            let now = kinds.borrow_and_update().clone();
            controller.follow(now, &queue).detach_all();
        }
    };
    let worker = controller.clone();
    let work = cirro_client::run("garbage", queue.clone(), 2, stop.clone(), move |key| {
        let controller = worker.clone();
        async move { controller.reconcile(&key).await }
    });
    tokio::join!(work, stop.run_until_cancelled(follow));
}

impl Controller {
    /// Takes up kinds that are new, and lets go of those that are no more. Returns the tasks that begin to listen to
    /// the new ones: a kind that goes at once may never have a first list.
    fn follow(&self, kinds: Vec<ResourceInfo>, queue: &Arc<WorkQueue<ObjectKey>>) -> JoinSet<()> {
        let mut gone = Vec::new();
        let mut followed = self.kinds.all();
        followed.retain(|one| {
            let stays = kinds.contains(&one.kind);
            if !stays {
                gone.push(one.clone());
            }
            stays
        });
        for one in &gone {
            one.stop.cancel();
            self.context.caches.end(&one.kind.resource);
        }
        // Events own nothing and nobody owns them.
        let new = kinds
            .into_iter()
            .filter(|kind| kind.resource.plural != "events" && followed.iter().all(|one| one.kind != *kind));
        let new = new.map(|kind| {
            let stop = self.context.stop.child_token();
            let cache = self.context.caches.get(&kind.resource);
            Followed { kind, cache, stop }
        });
        let new: Vec<_> = new.collect();
        followed.extend(new.iter().cloned());
        *self.kinds.0.write().unwrap_or_else(PoisonError::into_inner) = followed;
        let mut listening = JoinSet::new();
        for one in new {
            let (kinds, queue) = (self.kinds.clone(), queue.clone());
            listening.spawn(async move {
                tokio::select! {
                    () = one.cache.synced() => listen(kinds, &one, queue),
                    () = one.stop.cancelled() => {}
                }
            });
        }
        listening
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ApiError> {
        let Some(object) =
            self.kinds.cache(&key.resource).and_then(|cache| cache.get(&key.namespace, &key.name))
        else {
            return Ok(Next::Wait);
        };
        if is_deleting(&object) {
            return self.let_go(key, &object).await;
        }
        self.collect(key, &object).await?;
        Ok(Next::Wait)
    }

    /// Deletes an object whose owners are all gone; takes out references to those that are gone.
    async fn collect(&self, key: &ObjectKey, object: &Value) -> Result<(), ApiError> {
        let owners = owner_references(object);
        let mut living = Vec::new();
        let mut waited_for = false;
        for owner in &owners {
            if let Some(found) = self.find_owner(key, owner).await? {
                let waits = is_deleting(&found) && has_finalizer(&found, FOREGROUND);
                waited_for |= waits && owner["blockOwnerDeletion"] == true;
                if !waits {
                    living.push(owner.clone());
                }
            }
        }
        if owners.is_empty() || living.len() == owners.len() {
            return Ok(());
        }
        let result = if living.is_empty() {
            let policy = if waited_for { "Foreground" } else { "Background" };
            let options = DeleteOptions {
                uid: Some(uid(object).to_owned()),
                propagation_policy: Some(policy.to_owned()),
                ..DeleteOptions::default()
            };
            self.context.api.delete(key, options).await
        } else {
            self.write_owners(key, object, living).await
        };
        match result {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Finds an owner; asks the API itself before believing that it is gone.
    async fn find_owner(&self, dependent: &ObjectKey, owner: &Value) -> Result<Option<Arc<Value>>, ApiError> {
        let group = text(owner, "/apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
        let is_meant =
            |kind: &ResourceInfo| kind.resource.group == group && kind.kind == text(owner, "/kind");
        let Some(Followed { kind, cache, .. }) = self.kinds.all().into_iter().find(|one| is_meant(&one.kind))
        else {
            // An owner of a kind that is not served cannot be seen; it is left alone.
            return Ok(Some(Arc::new(Value::Null)));
        };
        if kind.namespaced && dependent.namespace.is_empty() {
            // A name alone does not find an object in a namespace; not finding it proves nothing.
            return Ok(Some(Arc::new(Value::Null)));
        }
        let of = if kind.namespaced { dependent.namespace.as_str() } else { "" };
        let wanted = text(owner, "/uid");
        if let Some(found) = cache.get(of, text(owner, "/name")).filter(|found| uid(found) == wanted) {
            return Ok(Some(found));
        }
        let key = ObjectKey {
            resource: kind.resource.clone(),
            namespace: of.into(),
            name: text(owner, "/name").into(),
        };
        match self.context.api.get(&key).await {
            Ok(found) => Ok(Some(found).filter(|found| uid(found) == wanted)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Serves the finalizers of an object that is being deleted.
    async fn let_go(&self, key: &ObjectKey, object: &Value) -> Result<Next, ApiError> {
        if has_finalizer(object, ORPHAN) {
            for (resource, dependent) in self.dependents(uid(object)) {
                let mut owners = owner_references(&dependent);
                owners.retain(|owner| text(owner, "/uid") != uid(object));
                match self.write_owners(&key_of(&resource, &dependent), &dependent, owners).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
            self.drop_finalizer(key, object, ORPHAN).await?;
        } else if has_finalizer(object, FOREGROUND) {
            let blocks =
                |owner: &Value| text(owner, "/uid") == uid(object) && owner["blockOwnerDeletion"] == true;
            let blocked = self.dependents(uid(object)).into_iter();
            if blocked.into_iter().any(|(_, dependent)| owner_references(&dependent).iter().any(blocks)) {
                // The dependents' ends bring this key back.
                return Ok(Next::Wait);
            }
            self.drop_finalizer(key, object, FOREGROUND).await?;
        }
        Ok(Next::Wait)
    }

    fn dependents(&self, owner: &str) -> Vec<(Resource, Arc<Value>)> {
        let each = self.kinds.all().into_iter().flat_map(|one| {
            let dependents = one.cache.owned_by(owner).into_iter();
            dependents.map(move |dependent| (one.kind.resource.clone(), dependent))
        });
        each.collect()
    }

    async fn write_owners(
        &self,
        key: &ObjectKey,
        object: &Value,
        owners: Vec<Value>,
    ) -> Result<(), ApiError> {
        let patch = json!({"metadata": {"uid": uid(object), "ownerReferences": owners}});
        self.context.api.merge_patch(key, false, patch).await.map(drop)
    }

    async fn drop_finalizer(&self, key: &ObjectKey, object: &Value, finalizer: &str) -> Result<(), ApiError> {
        let kept: Vec<&str> = finalizers(object).filter(|one| *one != finalizer).collect();
        let revision = text(object, "/metadata/resourceVersion");
        let patch = json!({"metadata": {"resourceVersion": revision, "finalizers": kept}});
        match self.context.api.merge_patch(key, false, patch).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Queues what each change of a kind's objects concerns.
fn listen(kinds: Arc<Kinds>, followed: &Followed, queue: Arc<WorkQueue<ObjectKey>>) {
    let resource = followed.kind.resource.clone();
    followed.cache.on_change(move |old, new| {
        let Some(object) = new.or(old) else { return };
        let head = object.head();
        let key = |resource: &Resource, (namespace, name): (String, String)| ObjectKey {
            resource: resource.clone(),
            namespace,
            name,
        };
        if new.is_some() && (!head.owners.is_empty() || head.deleting) {
            queue.add(key(&resource, object.place()));
        }
        // The owner is gone or going: its dependents are looked at, and owners that wait for this one.
        if new.is_none() || head.deleting {
            for one in kinds.all() {
                for dependent in one.cache.places_owned_by(&head.uid) {
                    queue.add(key(&one.kind.resource, dependent));
                }
            }
        }
        if new.is_none() && !head.owners.is_empty() {
            for one in kinds.all() {
                for owner in owner_references(object) {
                    let (of, name) = (&*head.namespace, text(&owner, "/name"));
                    if one.cache.uid_of(of, name).is_some_and(|found| *found == *text(&owner, "/uid")) {
                        queue.add(key(&one.kind.resource, (of.to_owned(), name.to_owned())));
                    }
                }
            }
        }
    });
}

fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    finalizers(object).any(|one| one == finalizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finalizers_are_found_by_name() {
        let object = json!({"metadata": {"name": "x", "finalizers": ["orphan", "mine"]}});
        assert!(has_finalizer(&object, ORPHAN) && !has_finalizer(&object, FOREGROUND));
        assert!(!has_finalizer(&json!({}), ORPHAN));
    }
}
