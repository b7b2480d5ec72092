//! The containers of this host: their records, how they are found, and who may work on them.

pub(crate) mod archive;
pub(crate) mod attach;
pub(crate) mod changes;
pub(crate) mod commit;
mod connect;
pub(crate) mod create;
mod exit;
pub(crate) mod files;
mod health;
mod links;
mod logs;
mod namespaces;
pub(crate) mod network;
mod remove;
pub(crate) mod restart;
mod start;
pub(crate) mod stats;
mod stop;
mod top;
mod update;
pub(crate) mod view;
pub(crate) mod wait;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use cirro_container::Rootfs;
use cirro_seams::container::{Container, Owner, Phase};
use cirro_seams::node::NodeEvent;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

use crate::error::EngineError;
use crate::journal::CONTAINERS;
use crate::names;
use crate::{Engine, journal};
use attach::PendingAttach;
use restart::Backoff;
use wait::Waiter;

/// What is kept of a container on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub container: Container,
    pub root: Rootfs,
    /// Signal that asks it to stop.
    pub stop_signal: i32,
    /// Whether somebody stopped it, so that `unless-stopped` leaves it alone.
    pub stopped_by_hand: bool,
    /// Its anonymous volumes, which go with it when asked for.
    pub anonymous_volumes: Vec<String>,
    /// The image's shell, for health checks.
    #[serde(default)]
    pub shell: Vec<String>,
}

/// A container in memory.
pub(crate) struct Entry {
    pub record: Record,
    /// Held for the length of one operation.
    lock: Arc<tokio::sync::Mutex<()>>,
    pub waiters: Vec<Waiter>,
    /// Attachers that came before the start.
    pub pending: Vec<PendingAttach>,
    /// Whether its process has ended; followers of its log end then.
    pub ended: watch::Sender<bool>,
    /// Size of its terminal, told before the start.
    pub size: Option<(u16, u16)>,
    pub backoff: Backoff,
    /// Changes when a planned restart is no longer wanted.
    pub restart_plan: u64,
    /// Ends the watch of its health.
    pub health_watch: Option<CancellationToken>,
}

impl Entry {
    pub(crate) fn new(record: Record) -> Self {
        let running = is_active(record.container.phase);
        Self {
            record,
            lock: Arc::default(),
            waiters: Vec::new(),
            pending: Vec::new(),
            ended: watch::channel(!running).0,
            size: None,
            backoff: Backoff::default(),
            restart_plan: 0,
            health_watch: None,
        }
    }
}

impl Entry {
    /// Whether an operation is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.lock.try_lock().is_err()
    }
}

/// Whether a container in this phase has a process.
pub(crate) fn is_active(phase: Phase) -> bool {
    matches!(phase, Phase::Running | Phase::Paused)
}

/// Every container, and every name that is taken.
#[derive(Default)]
pub(crate) struct Containers {
    by_id: HashMap<String, Entry>,
    names: HashMap<String, String>,
    /// Ids in the order of their making.
    order: BTreeSet<(String, String)>,
}

impl Containers {
    /// Finds an id by name (with or without a slash), id or unique id prefix.
    pub(crate) fn find(&self, given: &str) -> Result<&str, EngineError> {
        let name = given.strip_prefix('/').unwrap_or(given);
        if let Some((id, _)) = self.by_id.get_key_value(name) {
            return Ok(id);
        }
        if let Some(id) = self.names.get(name) {
            return Ok(id);
        }
        let mut fitting = self.by_id.keys().filter(|id| !name.is_empty() && id.starts_with(name));
        match (fitting.next(), fitting.next()) {
            (Some(id), None) => Ok(id),
            (Some(_), Some(_)) => {
                Err(EngineError::Invalid(format!("multiple IDs found with provided prefix: {given}")))
            }
            (None, _) => Err(EngineError::no_container(given)),
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Entry> {
        self.by_id.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut Entry> {
        self.by_id.get_mut(id)
    }

    /// Returns every container, the newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Entry> {
        self.order.iter().rev().filter_map(|(_, id)| self.by_id.get(id))
    }

    /// Takes a name for a container.
    pub(crate) fn reserve(&mut self, name: &str, id: &str) -> Result<(), EngineError> {
        if let Some(holder) = self.names.get(name) {
            return Err(EngineError::Conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". \
                 You have to remove (or rename) that container to be able to reuse that name."
            )));
        }
        self.names.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    /// Whether a container of this id is there or being made.
    pub(crate) fn is_known(&self, id: &str) -> bool {
        self.by_id.contains_key(id) || self.names.values().any(|holder| holder == id)
    }

    pub(crate) fn is_taken(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Gives a name back.
    pub(crate) fn release(&mut self, name: &str) {
        self.names.remove(name);
    }

    /// Adds a container, whose name has been reserved (or is taken now).
    pub(crate) fn insert(&mut self, entry: Entry) {
        let container = &entry.record.container;
        let id = container.id.clone();
        self.names.insert(container.name.clone(), id.clone());
        self.order.insert((container.created_at.clone(), id.clone()));
        self.by_id.insert(id, entry);
    }

    /// Takes a container out with its name.
    pub(crate) fn remove(&mut self, id: &str) -> Option<Entry> {
        let entry = self.by_id.remove(id)?;
        let container = &entry.record.container;
        self.order.remove(&(container.created_at.clone(), id.to_owned()));
        if self.names.get(&container.name).is_some_and(|holder| holder == id) {
            self.names.remove(&container.name);
        }
        Some(entry)
    }
}

/// Locks by a key, for operations on things that may not exist yet.
#[derive(Default)]
pub(crate) struct KeyedLocks {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl KeyedLocks {
    /// Waits for the lock of a key.
    pub(crate) async fn lock(&self, key: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().expect("no panic while it is held");
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(key.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

impl Engine {
    pub(crate) fn table(&self) -> MutexGuard<'_, Containers> {
        self.shared.containers.lock().expect("no panic while it is held")
    }

    /// Finds a container by name, id or unique id prefix.
    pub fn container(&self, name: &str) -> Result<Container, EngineError> {
        self.record(name).map(|record| record.container)
    }

    /// Looks at the container of that name or id where it is, for what needs no copy of it.
    pub(crate) fn look_at<T>(
        &self,
        name: &str,
        look: impl FnOnce(&Container) -> T,
    ) -> Result<T, EngineError> {
        let table = self.table();
        let entry = table.find(name).map(|id| table.get(id))?;
        entry.map(|entry| look(&entry.record.container)).ok_or_else(|| EngineError::no_container(name))
    }

    /// Lists every container, the newest first; pods' containers too.
    pub fn containers(&self) -> Vec<Container> {
        self.containers_where(|_| true)
    }

    /// The containers that are wanted, the newest first; only those are copied.
    pub(crate) fn containers_where(&self, wanted: impl Fn(&Container) -> bool) -> Vec<Container> {
        let table = self.table();
        let all = table.newest_first().map(|entry| &entry.record.container);
        all.filter(|container| wanted(container)).cloned().collect()
    }

    pub(crate) fn record(&self, name: &str) -> Result<Record, EngineError> {
        let table = self.table();
        let id = table.find(name)?;
        Ok(table.get(id).ok_or_else(|| EngineError::no_container(name))?.record.clone())
    }

    pub(crate) fn find_id(&self, name: &str) -> Result<String, EngineError> {
        self.table().find(name).map(str::to_owned)
    }

    /// Finds a container for a docker client that wants to change it: a pod's belongs to its pod.
    pub(crate) fn find_own(&self, name: &str) -> Result<String, EngineError> {
        let container = self.container(name)?;
        match &container.spec.owner {
            Owner::Pod { namespace, name: pod, .. } => Err(EngineError::Conflict(format!(
                "container {} belongs to the pod {namespace}/{pod}: delete the pod instead",
                container.name
            ))),
            Owner::Docker | Owner::Build => Ok(container.id),
        }
    }

    /// Waits for a container's lock; fails when it is gone by then.
    pub(crate) async fn lock_container(&self, id: &str) -> Result<OwnedMutexGuard<()>, EngineError> {
        let lock = self.table().get(id).ok_or_else(|| EngineError::no_container(id))?.lock.clone();
        let guard = lock.lock_owned().await;
        if self.table().get(id).is_none() {
            return Err(EngineError::no_container(id));
        }
        Ok(guard)
    }

    /// Changes a container in memory and notes the change; returns what it is now.
    pub(crate) fn change<T>(
        &self,
        id: &str,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Result<(Record, T), EngineError> {
        let mut table = self.table();
        let entry = table.get_mut(id).ok_or_else(|| EngineError::no_container(id))?;
        let result = change(entry);
        self.shared.journal.put(CONTAINERS, id, &entry.record);
        Ok((entry.record.clone(), result))
    }

    /// Says what happened to a container, to docker's clients and to the kubelet.
    pub(crate) fn emit_container(&self, action: &str, container: &Container, more: &[(&str, String)]) {
        self.shared.events.emit_container(action, container, more);
        if let Owner::Pod { uid, .. } = &container.spec.owner
            && matches!(action, "start" | "die" | "destroy")
        {
            self.tell_node(NodeEvent::Pod(uid.clone()));
        }
    }

    /// Tells docker's clients of something that a face did with a container; one that is gone tells nothing.
    pub fn tell(&self, id: &str, action: &str, more: &[(&str, String)]) {
        if let Ok(container) = self.container(id) {
            self.emit_container(action, &container, more);
        }
    }

    /// Tells docker's clients of something that was done to many things at once.
    pub fn tell_all(&self, kind: &str, action: &str, attributes: &[(&str, &str)]) {
        self.shared.events.emit(kind, action, "", attributes);
    }

    /// Tells docker's clients of something that happened to the daemon itself.
    pub fn tell_daemon(&self, id: &str, action: &str, attributes: &[(&str, &str)]) {
        self.shared.events.emit("daemon", action, id, attributes);
    }

    /// Gives a container another name.
    pub async fn rename_container(&self, name: &str, new_name: &str) -> Result<(), EngineError> {
        let id = self.find_own(name)?;
        let new_name = new_name.strip_prefix('/').unwrap_or(new_name);
        create::check_name(new_name)?;
        let _guard = self.lock_container(&id).await?;
        let (container, old) = {
            let mut table = self.table();
            table.reserve(new_name, &id)?;
            let entry = table.get_mut(&id).ok_or_else(|| EngineError::no_container(name))?;
            let old = std::mem::replace(&mut entry.record.container.name, new_name.to_owned());
            self.shared.journal.put(journal::CONTAINERS, &id, &entry.record);
            let container = entry.record.container.clone();
            table.release(&old);
            (container, old)
        };
        self.shared.journal.flush().await?;
        self.renew_names(&container).await?;
        self.emit_container("rename", &container, &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    /// Makes up a name that no container has.
    pub(crate) fn free_name(&self) -> Result<String, EngineError> {
        let table = self.table();
        names::new_name(|name| table.is_taken(name))
    }
}

#[cfg(test)]
mod tests;
