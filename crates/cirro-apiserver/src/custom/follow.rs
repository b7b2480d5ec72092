//! Keeps the registry like the definitions in the store.
//!
//! One task follows the definitions, whoever writes them: each change makes a new registry, then the status of what
//! changed. A write of a definition waits until the task has seen it, so that whoever made a definition can make
//! its objects with the next request.
//!
//! Source: apiextensions-apiserver `pkg/controller/{establish,status,finalizer}`.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, RwLock, Weak};
use std::time::Duration;

use cirro_seams::api::{ApiError, Resource, ResourceInfo};
use cirro_store::{Change, Record, WatchItem};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::build::{Built, build};
use super::{FINALIZER, GROUP, PLURAL, clean, names};
use crate::json;
use crate::record::name_in;
use crate::registry::{Kind, Registry};
use crate::storage::{ListOptions, Place, Storage, Target};

/// Longest that a write of a definition waits until it is served.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the task waits before it begins anew after the store failed it.
const PAUSE: Duration = Duration::from_secs(1);

/// The kinds as the definitions make them.
pub(crate) struct Definitions {
    registry: RwLock<Arc<Registry>>,
    resources: watch::Sender<Vec<ResourceInfo>>,
    /// The newest revision whose definitions are in the registry.
    handled: watch::Sender<u64>,
    stop: CancellationToken,
    /// Ends the task with the storage.
    _end: DropGuard,
}

impl Definitions {
    /// Begins with what is built in.
    pub(crate) fn new(built_in: &Registry) -> Self {
        let registry = Arc::new(built_in.with(std::iter::empty()));
        let stop = CancellationToken::new();
        Self {
            resources: watch::Sender::new(resources(&registry)),
            registry: RwLock::new(registry),
            handled: watch::Sender::new(0),
            _end: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Returns the kinds as of now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.read().expect("no panic while it is held").clone()
    }

    /// Returns the stored kinds, as they change.
    pub(crate) fn resources(&self) -> watch::Receiver<Vec<ResourceInfo>> {
        self.resources.subscribe()
    }

    /// Tells whenever the definitions changed what is served.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.handled.subscribe()
    }

    /// Waits until the definitions of a revision are served.
    pub(crate) async fn reached(&self, revision: u64) {
        let mut handled = self.handled.subscribe();
        let reached = handled.wait_for(|handled| *handled >= revision);
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            tracing::warn!(revision, "a definition is not served yet");
        }
    }

    fn set(&self, registry: Registry) {
        let resources = resources(&registry);
        *self.registry.write().expect("no panic while it is held") = Arc::new(registry);
        self.resources.send_if_modified(|present| {
            let changed = *present != resources;
            *present = resources;
            changed
        });
    }
}

fn resources(registry: &Registry) -> Vec<ResourceInfo> {
    let info = |kind: &Arc<Kind>| ResourceInfo {
        resource: Resource::new(&kind.group, &kind.plural),
        kind: kind.kind.clone(),
        namespaced: kind.namespaced,
    };
    registry.kinds().iter().filter(|kind| kind.stored).map(info).collect()
}

impl Storage {
    /// Starts the task that follows the definitions, and waits until those that there are are served.
    pub(crate) async fn follow_definitions(self: &Arc<Self>) {
        let follower = Follower {
            storage: Arc::downgrade(self),
            known: BTreeMap::new(),
            cleaning: JoinSet::new(),
            cleaned: HashSet::new(),
        };
        tokio::spawn(follower.run(self.definitions.stop.clone()));
        self.definitions.reached(1).await;
    }
}

/// The task.
struct Follower {
    storage: Weak<Storage>,
    known: BTreeMap<String, Known>,
    /// Deletions of objects of definitions that go.
    cleaning: JoinSet<String>,
    /// Uids of the definitions that they are about.
    cleaned: HashSet<String>,
}

/// A definition.
struct Known {
    object: Arc<Value>,
    created: u64,
    built: Option<Built>,
    /// What `built` was made from.
    tag: String,
    serving: Option<Serving>,
}

/// What of a definition decides over its watches: they end when one of these changes, or with the definition.
struct Serving {
    spec: Value,
    names: Value,
    replaced: CancellationToken,
    _end: DropGuard,
}

impl Serving {
    fn begin(spec: &Value, names: &Value) -> Self {
        let replaced = CancellationToken::new();
        Self { spec: spec.clone(), names: names.clone(), _end: replaced.clone().drop_guard(), replaced }
    }
}

impl Follower {
    async fn run(mut self, stop: CancellationToken) {
        let follow = async {
            loop {
                match self.begin().await {
                    Ok(Some(mut changes)) => while self.step(&mut changes).await {},
                    Ok(None) => return,
                    Err(refusal) => {
                        tracing::error!(%refusal, "definitions cannot be read");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = follow => {}
            () = stop.cancelled() => {}
        }
    }

    /// Reads all definitions; `None` when the storage is gone.
    async fn begin(&mut self) -> Result<Option<mpsc::Receiver<WatchItem>>, ApiError> {
        let Some(storage) = self.storage.upgrade() else { return Ok(None) };
        let kind = definition_kind(&storage);
        let page = storage.list(&kind, None, &ListOptions::default()).await?;
        let changes = storage.watch(&kind, None, page.revision).await?;
        let mut before = std::mem::take(&mut self.known);
        for record in &page.records {
            self.known.extend(before.remove_entry(name_in(&record.key)));
            self.put(&storage, record);
        }
        self.serve(&storage, page.revision.max(1)).await;
        Ok(Some(changes))
    }

    /// Takes in what happened; `false` when the watch ended.
    async fn step(&mut self, changes: &mut mpsc::Receiver<WatchItem>) -> bool {
        let item = tokio::select! {
            item = changes.recv() => item,
            Some(done) = self.cleaning.join_next() => {
                if let Ok(uid) = done {
                    self.cleaned.remove(&uid);
                }
                return true;
            }
        };
        let Some(storage) = self.storage.upgrade() else { return false };
        match item {
            None | Some(WatchItem::Lost) => return false,
            Some(WatchItem::Progress(_)) => {}
            Some(WatchItem::Changes(revision, changes)) => {
                for change in changes.iter() {
                    match change {
                        Change::Put(record, _) => self.put(&storage, record),
                        Change::Delete(_, last) => drop(self.known.remove(name_in(&last.key))),
                    }
                }
                self.serve(&storage, revision).await;
            }
        }
        true
    }

    fn put(&mut self, storage: &Storage, record: &Record) {
        let object = match storage.decoded.decode(record) {
            Ok(object) => object,
            Err(refusal) => {
                return tracing::error!(%refusal, key = %record.key, "skip an unreadable definition");
            }
        };
        let name = name_in(&record.key).to_owned();
        let before = self.known.remove(&name);
        let created = record.create_revision;
        let known = match before.filter(|before| before.created == created) {
            Some(before) => Known { object, ..before },
            None => Known { object, created, built: None, tag: String::new(), serving: None },
        };
        self.known.insert(name, known);
    }

    /// Brings registry and status up to the definitions.
    async fn serve(&mut self, storage: &Arc<Storage>, revision: u64) {
        let decisions = self.decide(storage);
        for (name, decision) in &decisions {
            let Some(known) = self.known.get_mut(name) else { continue };
            let tag = tag(&known.object, decision);
            if !decision.established {
                (known.built, known.serving) = (None, None);
            } else if known.built.is_none() || known.tag != tag {
                let spec = &known.object["spec"];
                let same = |one: &Serving| one.spec == *spec && one.names == decision.names;
                let serving = known.serving.take().filter(same);
                let serving = serving.unwrap_or_else(|| Serving::begin(spec, &decision.names));
                known.built = build(&known.object, &decision.names, &tag, &serving.replaced);
                known.serving = Some(serving);
            }
            known.tag = tag;
        }
        let kinds = self.known.values().filter_map(|known| known.built.as_ref());
        let kinds = kinds.map(|built| (built.storage.clone(), built.served.clone()));
        storage.definitions.set(storage.registry.with(kinds));
        for (name, decision) in decisions {
            self.write_status(storage, &name, &decision).await;
        }
        self.clean(storage);
        storage.definitions.handled.send_replace(revision);
    }

    fn decide(&self, storage: &Storage) -> Vec<(String, names::Decision)> {
        let mut in_order: Vec<_> = self.known.iter().collect();
        in_order.sort_by_key(|(_, known)| known.created);
        let short = |object: &Value| json!({"spec": {"group": object["spec"]["group"], "names": object["spec"]["names"]}, "status": object["status"]});
        let mut objects: Vec<Value> = in_order.iter().map(|(_, known)| short(&known.object)).collect();
        let mut decisions = Vec::new();
        for (index, (name, _)) in in_order.iter().enumerate() {
            let all: Vec<&Value> = objects.iter().collect();
            let decision = names::decide(&all, index, &storage.registry);
            // Those that come after see what this one has.
            objects[index]["status"]["acceptedNames"] = decision.names.clone();
            decisions.push(((*name).clone(), decision));
        }
        decisions
    }

    async fn write_status(&self, storage: &Storage, name: &str, decision: &names::Decision) {
        let Some(known) = self.known.get(name) else { return };
        let same = |status: &Value| status == &known.object["status"];
        if same(&names::status(&known.object, decision)) {
            return;
        }
        let kind = definition_kind(storage);
        let change = |old: &Value| {
            let mut new = old.clone();
            new["status"] = names::status(old, decision);
            Ok(new)
        };
        let place = Place { kind: &kind, namespace: "", name };
        match storage.modify(place, Target::Whole, false, change).await {
            Err(refusal) if !refusal.is_not_found() => {
                tracing::warn!(%refusal, name, "the status of a definition cannot be written");
            }
            _ => {}
        }
    }

    /// Starts what deletes the objects of definitions that go.
    fn clean(&mut self, storage: &Arc<Storage>) {
        for (name, known) in &self.known {
            let object = &known.object;
            let finalizers = json::array(object, "metadata.finalizers");
            if json::at(object, "metadata.deletionTimestamp").is_none()
                || !finalizers.iter().any(|one| one == FINALIZER)
            {
                continue;
            }
            let uid = json::text(object, "metadata.uid").to_owned();
            if self.cleaned.insert(uid.clone()) {
                let kind = known.built.as_ref().map(|built| built.storage.clone());
                let (storage, name) = (Arc::downgrade(storage), name.clone());
                self.cleaning.spawn(async move {
                    clean::clean(&storage, kind.as_ref(), &name).await;
                    uid
                });
            }
        }
    }
}

/// Returns the kind of definitions.
pub(super) fn definition_kind(storage: &Storage) -> Arc<Kind> {
    storage.registry.kind(GROUP, PLURAL).expect("definitions are built in").clone()
}

fn tag(object: &Value, decision: &names::Decision) -> String {
    let deleted = json::at(object, "metadata.deletionTimestamp").is_some();
    let (uid, generation) = (json::text(object, "metadata.uid"), json::number(object, "metadata.generation"));
    format!("{uid}/{}/{}/{deleted}", generation.unwrap_or(0), decision.names)
}
