//! Keeps the table of remote ones like the APIServices in the store, and a task beside each.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use cirro_seams::api::ApiError;
use cirro_store::{Change, Record, WatchItem};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Remote, Shared, available, local, service_kind};
use crate::json;
use crate::record::name_in;
use crate::storage::{ListOptions, Storage};

/// How long the task waits before it begins anew after the store failed it.
const PAUSE: Duration = Duration::from_secs(1);

/// The task.
pub(super) struct Follower {
    storage: Weak<Storage>,
    shared: Arc<Shared>,
    known: BTreeMap<String, Arc<Value>>,
    /// What watches over each remote one, with what it was made from.
    wardens: HashMap<String, (Value, AbortHandle)>,
    tasks: JoinSet<()>,
    /// Told when the table is there.
    reading: Option<oneshot::Sender<()>>,
}

impl Follower {
    pub(super) fn new(storage: Weak<Storage>, shared: Arc<Shared>, reading: oneshot::Sender<()>) -> Self {
        let reading = Some(reading);
        Self {
            storage,
            shared,
            known: BTreeMap::new(),
            wardens: HashMap::new(),
            tasks: JoinSet::new(),
            reading,
        }
    }

    /// Follows until `stop`; the tasks end with it.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let follow = async {
            loop {
                match self.begin().await {
                    Ok(Some((mut services, mut definitions))) => {
                        while self.step(&mut services, &mut definitions).await {}
                    }
                    Ok(None) => return,
                    Err(refusal) => {
                        tracing::error!(%refusal, "APIServices cannot be read");
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

    /// Reads all APIServices; `None` when the storage is gone.
    async fn begin(&mut self) -> Result<Option<(mpsc::Receiver<WatchItem>, watch::Receiver<u64>)>, ApiError> {
        let Some(storage) = self.storage.upgrade() else { return Ok(None) };
        let mut definitions = storage.definitions.changes();
        definitions.mark_unchanged();
        let kind = service_kind(&storage);
        let page = storage.list(kind, None, &ListOptions::default()).await?;
        let changes = storage.watch(kind, None, page.revision).await?;
        self.known.clear();
        for record in &page.records {
            self.put(&storage, record);
        }
        self.settle(&storage).await;
        if let Some(reading) = self.reading.take() {
            let _ = reading.send(());
        }
        Ok(Some((changes, definitions)))
    }

    /// Takes in what happened; `false` when a watch ended.
    async fn step(
        &mut self,
        services: &mut mpsc::Receiver<WatchItem>,
        definitions: &mut watch::Receiver<u64>,
    ) -> bool {
        let item = tokio::select! {
            item = services.recv() => item,
            changed = definitions.changed() => match changed {
                Ok(()) => Some(WatchItem::Changes(0, Arc::default())),
                Err(_) => None,
            },
            Some(_) = self.tasks.join_next() => return true,
        };
        let Some(storage) = self.storage.upgrade() else { return false };
        match item {
            None | Some(WatchItem::Lost) => return false,
            Some(WatchItem::Progress(_)) => {}
            Some(WatchItem::Changes(_, changes)) => {
                for change in changes.iter() {
                    match change {
                        Change::Put(record, _) => self.put(&storage, record),
                        Change::Delete(_, last) => drop(self.known.remove(name_in(&last.key))),
                    }
                }
                self.settle(&storage).await;
            }
        }
        true
    }

    fn put(&mut self, storage: &Storage, record: &Record) {
        match storage.decoded.decode(record) {
            Ok(object) => drop(self.known.insert(name_in(&record.key).to_owned(), object)),
            Err(refusal) => tracing::error!(%refusal, key = %record.key, "skip an unreadable APIService"),
        }
    }

    /// Brings the table, the tasks and the local ones up to the objects.
    async fn settle(&mut self, storage: &Arc<Storage>) {
        let before = self.shared.table();
        let mut table = Vec::new();
        for object in self.known.values() {
            let name = json::name(object);
            let before = before.iter().find(|one| one.name == name);
            table.extend(Remote::read(storage, &self.shared, object, before.map(|one| &**one)).map(Arc::new));
        }
        table.sort_by(|one, other| {
            let rank = |one: &Remote| (-one.group_priority, one.group.clone(), -one.version_priority);
            let names = || crate::custom::by_priority(&one.version, &other.version);
            rank(one).cmp(&rank(other)).then_with(names)
        });
        let table = Arc::new(table);
        *self.shared.table.write().expect("no panic while it is held") = table.clone();
        self.watch_over(&table);
        local::keep(storage, &self.known).await;
    }

    fn watch_over(&mut self, table: &[Arc<Remote>]) {
        self.wardens.retain(|name, (spec, task)| {
            let stays = table.iter().any(|one| one.name == *name && one.spec == *spec);
            if !stays {
                task.abort();
            }
            stays
        });
        for remote in table {
            if !self.wardens.contains_key(&remote.name) {
                let warden = available::watch_over(self.storage.clone(), self.shared.clone(), remote.clone());
                let task = self.tasks.spawn(warden);
                self.wardens.insert(remote.name.clone(), (remote.spec.clone(), task));
            }
        }
    }
}
