//! A copy of all objects of one kind, kept by list and watch.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use cirro_seams::api::{Api, ApiError, ObjectEvent, Resource};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::object::{controller_uid, namespaced_name, text, uid};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Called with the object as it was and as it is; `None` where it was not or is not there.
type Handler = Box<dyn Fn(Option<&Arc<Value>>, Option<&Arc<Value>>) + Send + Sync>;
type Key = (String, String);

/// Objects of one kind. Cheap to clone; every clone sees the same.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    resource: Resource,
    objects: RwLock<Objects>,
    // Also orders changes of `objects` with the calls of handlers.
    handlers: Mutex<Vec<Handler>>,
    synced: watch::Sender<bool>,
    /// Newest resource version that was taken in.
    revision: AtomicU64,
}

#[derive(Default)]
struct Objects {
    by_key: BTreeMap<Key, Arc<Value>>,
    by_uid: HashMap<String, Key>,
    /// Uid of an owner to what it owns.
    by_owner: HashMap<String, HashSet<Key>>,
}

impl Cache {
    /// Starts to follow a kind; ends when `stop` is cancelled.
    pub fn start(api: Arc<dyn Api>, resource: Resource, stop: CancellationToken) -> Self {
        let inner = Inner {
            resource,
            objects: RwLock::default(),
            handlers: Mutex::default(),
            synced: watch::Sender::new(false),
            revision: AtomicU64::new(0),
        };
        let cache = Self { inner: Arc::new(inner) };
        let follower = cache.clone();
        tokio::spawn(async move { stop.run_until_cancelled(follower.follow(api)).await });
        cache
    }

    /// Calls `handler` for every object that is there, and from now on for every change.
    ///
    /// Handlers must be quick and must not call back into this cache's `on_change`; they usually add a key to
    /// a queue.
    pub fn on_change(
        &self,
        handler: impl Fn(Option<&Arc<Value>>, Option<&Arc<Value>>) + Send + Sync + 'static,
    ) {
        let mut handlers = self.inner.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        for object in self.list() {
            handler(None, Some(&object));
        }
        handlers.push(Box::new(handler));
    }

    /// Resolves when the first list has been taken in.
    pub async fn synced(&self) {
        let mut synced = self.inner.synced.subscribe();
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Returns one object; `namespace` is empty for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.read(|objects| objects.by_key.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    /// Returns the object with this uid.
    pub fn by_uid(&self, uid: &str) -> Option<Arc<Value>> {
        self.read(|objects| objects.by_key.get(objects.by_uid.get(uid)?).cloned())
    }

    /// Returns all objects, in order of namespace and name.
    pub fn list(&self) -> Vec<Arc<Value>> {
        self.read(|objects| objects.by_key.values().cloned().collect())
    }

    /// Returns the objects of a namespace, in order of name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<Value>> {
        let from = (namespace.to_owned(), String::new());
        self.read(|objects| {
            let range = objects.by_key.range(from..);
            range.take_while(|((of, _), _)| of == namespace).map(|(_, object)| object.clone()).collect()
        })
    }

    /// Returns the objects that the object with this uid controls.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<Value>> {
        let mut owned = self.owned_by(uid);
        owned.retain(|object| controller_uid(object) == Some(uid));
        owned
    }

    /// Whether a write that gave this object has come back: what is read now is not older.
    pub fn has_seen(&self, object: &Value) -> bool {
        revision(object) <= self.inner.revision.load(Ordering::Acquire)
    }

    /// Returns the objects that have an owner with this uid.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<Value>> {
        self.read(|objects| {
            let keys = objects.by_owner.get(uid).into_iter().flatten();
            let mut found: Vec<_> = keys.filter_map(|key| Some((key, objects.by_key.get(key)?))).collect();
            found.sort_by_key(|(key, _)| *key);
            found.into_iter().map(|(_, object)| object.clone()).collect()
        })
    }

    fn read<T>(&self, look: impl FnOnce(&Objects) -> T) -> T {
        look(&self.inner.objects.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn follow(self, api: Arc<dyn Api>) {
        let mut delay = FIRST_DELAY;
        loop {
            match self.list_and_watch(api.as_ref()).await {
                Ok(()) => {
                    debug!(resource = %self.inner.resource, "watch ended, listing again");
                    delay = FIRST_DELAY;
                }
                Err(error) => {
                    warn!(resource = %self.inner.resource, %error, "cannot follow the kind");
                    delay = (delay * 2).min(LONGEST_DELAY);
                }
            }
            tokio::time::sleep(delay).await;
        }
    }

    async fn list_and_watch(&self, api: &dyn Api) -> Result<(), ApiError> {
        let list = api.list(&self.inner.resource, None).await?;
        let mut events = api.watch(&self.inner.resource, list.revision).await?;
        self.replace(list.items, list.revision);
        self.inner.synced.send_replace(true);
        while let Some(event) = events.recv().await {
            if self.take(event).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn take(&self, event: ObjectEvent) -> ControlFlow<()> {
        match event {
            ObjectEvent::Applied(object) => self.put(namespaced_name(&object), Some(object)),
            ObjectEvent::Deleted(object) => self.put(namespaced_name(&object), None),
            ObjectEvent::Expired => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn replace(&self, items: Vec<Arc<Value>>, revision: u64) {
        let new: BTreeMap<Key, Arc<Value>> =
            items.into_iter().map(|object| (namespaced_name(&object), object)).collect();
        let gone: Vec<Key> = self
            .read(|objects| objects.by_key.keys().filter(|key| !new.contains_key(*key)).cloned().collect());
        for key in gone {
            self.put(key, None);
        }
        for (key, object) in new {
            let same = self.read(|objects| {
                objects.by_key.get(&key).is_some_and(|old| revision_text(old) == revision_text(&object))
            });
            if !same {
                self.put(key, Some(object));
            }
        }
        self.inner.revision.fetch_max(revision, Ordering::AcqRel);
    }

    fn put(&self, key: Key, new: Option<Arc<Value>>) {
        let handlers = self.inner.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let old = {
            let mut objects = self.inner.objects.write().unwrap_or_else(PoisonError::into_inner);
            objects.put(key, new.clone())
        };
        if let Some(new) = &new {
            self.inner.revision.fetch_max(revision(new), Ordering::AcqRel);
        }
        for handler in handlers.iter() {
            handler(old.as_ref(), new.as_ref());
        }
    }
}

fn revision_text(object: &Value) -> &str {
    text(object, "/metadata/resourceVersion")
}

fn revision(object: &Value) -> u64 {
    revision_text(object).parse().unwrap_or(0)
}

fn owners(object: &Value) -> impl Iterator<Item = &str> {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().filter_map(|owner| owner["uid"].as_str())
}

impl Objects {
    fn put(&mut self, key: Key, new: Option<Arc<Value>>) -> Option<Arc<Value>> {
        let old = self.by_key.remove(&key);
        if let Some(old) = &old {
            self.by_uid.remove(uid(old));
        }
        for owner in old.iter().flat_map(|old| owners(old)) {
            let Some(keys) = self.by_owner.get_mut(owner) else { continue };
            keys.remove(&key);
            if keys.is_empty() {
                self.by_owner.remove(owner);
            }
        }
        if let Some(new) = new {
            for owner in owners(&new) {
                self.by_owner.entry(owner.to_owned()).or_default().insert(key.clone());
            }
            self.by_uid.insert(uid(&new).to_owned(), key.clone());
            self.by_key.insert(key, new);
        }
        old
    }
}

#[cfg(test)]
mod tests;
