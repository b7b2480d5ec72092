//! A copy of all objects of one kind, kept by list and watch.
//!
//! Objects are kept as the API hands them out, compact; each is decoded when it is asked for. Many are found by what
//! their heads say ([`Cache::select`], [`Cache::places_owned_by`]) without decoding those that do not fit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use cirro_seams::api::{Api, ApiError, Head, ObjectEvent, Packed, Resource};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::object::text;
use crate::seen::Object;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// Objects of a list after which others get their turn.
const TURN: usize = 1000;

/// Called with the object as it was and as it is; `None` where it was not or is not there.
type Handler = Box<dyn Fn(Option<&Object>, Option<&Object>) + Send + Sync>;
/// Which objects are kept.
type Filter = Box<dyn Fn(&Packed) -> bool + Send + Sync>;
/// Namespace and name.
type Place = (String, String);

/// Objects of one kind. Cheap to clone; every clone sees the same.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    resource: Resource,
    keep: Filter,
    objects: RwLock<Objects>,
    // Also orders changes of `objects` with the calls of handlers.
    handlers: Mutex<Vec<Handler>>,
    synced: watch::Sender<bool>,
    /// Newest resource version that was taken in.
    revision: AtomicU64,
}

#[derive(Default)]
struct Objects {
    by_namespace: BTreeMap<Box<str>, BTreeMap<Box<str>, Packed>>,
    by_uid: HashMap<Box<str>, Packed>,
    /// Uid of an owner to what it owns.
    by_owner: HashMap<Box<str>, BTreeSet<Place>>,
}

impl Cache {
    /// Starts to follow a kind; ends when `stop` is cancelled.
    pub fn start(api: Arc<dyn Api>, resource: Resource, stop: CancellationToken) -> Self {
        Self::start_where(api, resource, stop, |_| true)
    }

    /// Starts to follow those objects of a kind that `keep` lets through; the others are as if they were not there.
    pub fn start_where(
        api: Arc<dyn Api>,
        resource: Resource,
        stop: CancellationToken,
        keep: impl Fn(&Packed) -> bool + Send + Sync + 'static,
    ) -> Self {
        let inner = Inner {
            resource,
            keep: Box::new(keep),
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
    pub fn on_change(&self, handler: impl Fn(Option<&Object>, Option<&Object>) + Send + Sync + 'static) {
        let mut handlers = self.inner.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let present: Vec<Packed> = self.read(|objects| objects.all().cloned().collect());
        for object in present {
            handler(None, Some(&Object::new(object)));
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
        self.read(|objects| objects.get(namespace, name).cloned()).map(|object| object.decode())
    }

    /// Returns the object with this uid.
    pub fn by_uid(&self, uid: &str) -> Option<Arc<Value>> {
        self.read(|objects| objects.by_uid.get(uid).cloned()).map(|object| object.decode())
    }

    /// Whether there is an object with this uid.
    pub fn contains_uid(&self, uid: &str) -> bool {
        self.read(|objects| objects.by_uid.contains_key(uid))
    }

    /// Returns all objects, in order of namespace and name.
    pub fn list(&self) -> Vec<Arc<Value>> {
        decoded(self.read(|objects| objects.all().cloned().collect()))
    }

    /// Returns the objects of a namespace, in order of name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<Value>> {
        self.select(namespace, |_| true)
    }

    /// Returns the objects of a namespace whose heads fit, in order of name.
    pub fn select(&self, namespace: &str, fits: impl Fn(&Head) -> bool) -> Vec<Arc<Value>> {
        decoded(self.read(|objects| {
            let named = objects.by_namespace.get(namespace).into_iter().flatten();
            named.map(|(_, object)| object).filter(|object| fits(object.head())).cloned().collect()
        }))
    }

    /// Returns the objects that the object with this uid controls.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<Value>> {
        let mut owned = self.read(|objects| objects.owned_by(uid));
        owned.retain(|object| object.head().controller() == Some(uid));
        decoded(owned)
    }

    /// Whether a write that gave this object has come back: what is read now is not older.
    pub fn has_seen(&self, object: &Value) -> bool {
        let revision = text(object, "/metadata/resourceVersion").parse().unwrap_or(0);
        revision <= self.inner.revision.load(Ordering::Acquire)
    }

    /// Returns the objects that have an owner with this uid.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<Value>> {
        decoded(self.read(|objects| objects.owned_by(uid)))
    }

    /// Returns namespace and name of the objects that have an owner with this uid.
    pub fn places_owned_by(&self, uid: &str) -> Vec<(String, String)> {
        self.read(|objects| objects.by_owner.get(uid).into_iter().flatten().cloned().collect())
    }

    /// Returns the uid of an object.
    pub fn uid_of(&self, namespace: &str, name: &str) -> Option<Box<str>> {
        self.read(|objects| objects.get(namespace, name).map(|object| object.head().uid.clone()))
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
        self.replace(list.items, list.revision).await;
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
            ObjectEvent::Applied(object) if (self.inner.keep)(&object) => self.put(object),
            ObjectEvent::Applied(object) | ObjectEvent::Deleted(object) => {
                self.remove(object.head());
                self.inner.revision.fetch_max(object.head().revision, Ordering::AcqRel);
            }
            ObjectEvent::Expired => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    async fn replace(&self, listed: Vec<Packed>, revision: u64) {
        let mut items = Vec::new();
        for (number, object) in listed.into_iter().enumerate() {
            if (self.inner.keep)(&object) {
                items.push(object);
            }
            turn(number).await;
        }
        let gone: Vec<Packed> = {
            let new: HashSet<(&str, &str)> = items.iter().map(|object| place(object.head())).collect();
            self.read(|objects| {
                let gone = objects.all().filter(|object| !new.contains(&place(object.head())));
                gone.cloned().collect()
            })
        };
        for object in gone {
            self.remove(object.head());
        }
        for (number, object) in items.into_iter().enumerate() {
            turn(number).await;
            let (namespace, name) = place(object.head());
            let same = self.read(|objects| {
                let present = objects.get(namespace, name);
                present.is_some_and(|present| present.head().revision == object.head().revision)
            });
            if !same {
                self.put(object);
            }
        }
        self.inner.revision.fetch_max(revision, Ordering::AcqRel);
    }

    fn put(&self, new: Packed) {
        let object = new.clone();
        self.change(object.head(), Some(new), object.head().revision);
    }

    fn remove(&self, head: &Head) {
        self.change(head, None, 0);
    }

    fn change(&self, head: &Head, new: Option<Packed>, revision: u64) {
        let handlers = self.inner.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let old = {
            let mut objects = self.inner.objects.write().unwrap_or_else(PoisonError::into_inner);
            let old = objects.remove(&head.namespace, &head.name);
            if let Some(new) = &new {
                objects.insert(new.clone());
            }
            old
        };
        if old.is_none() && new.is_none() {
            return;
        }
        self.inner.revision.fetch_max(revision, Ordering::AcqRel);
        let (old, new) = (old.map(Object::new), new.map(Object::new));
        for handler in handlers.iter() {
            handler(old.as_ref(), new.as_ref());
        }
    }
}

/// Lets others have their turn now and then.
async fn turn(number: usize) {
    if number % TURN == TURN - 1 {
        tokio::task::yield_now().await;
    }
}

fn decoded(objects: Vec<Packed>) -> Vec<Arc<Value>> {
    objects.iter().map(Packed::decode).collect()
}

fn place(head: &Head) -> (&str, &str) {
    (&head.namespace, &head.name)
}

impl Objects {
    fn all(&self) -> impl Iterator<Item = &Packed> {
        self.by_namespace.values().flat_map(BTreeMap::values)
    }

    fn get(&self, namespace: &str, name: &str) -> Option<&Packed> {
        self.by_namespace.get(namespace)?.get(name)
    }

    fn owned_by(&self, uid: &str) -> Vec<Packed> {
        let places = self.by_owner.get(uid).into_iter().flatten();
        places.filter_map(|(namespace, name)| self.get(namespace, name).cloned()).collect()
    }

    fn remove(&mut self, namespace: &str, name: &str) -> Option<Packed> {
        let named = self.by_namespace.get_mut(namespace)?;
        let old = named.remove(name)?;
        if named.is_empty() {
            self.by_namespace.remove(namespace);
        }
        self.by_uid.remove(&old.head().uid);
        for owner in &old.head().owners {
            let Some(places) = self.by_owner.get_mut(&owner.uid) else { continue };
            places.remove(&(namespace.to_owned(), name.to_owned()));
            if places.is_empty() {
                self.by_owner.remove(&owner.uid);
            }
        }
        Some(old)
    }

    fn insert(&mut self, new: Packed) {
        let head = new.head();
        for owner in &head.owners {
            let place = (head.namespace.to_string(), head.name.to_string());
            self.by_owner.entry(owner.uid.clone()).or_default().insert(place);
        }
        if !head.uid.is_empty() {
            self.by_uid.insert(head.uid.clone(), new.clone());
        }
        let (namespace, name) = (head.namespace.clone(), head.name.clone());
        self.by_namespace.entry(namespace).or_default().insert(name, new);
    }
}

#[cfg(test)]
mod tests;
