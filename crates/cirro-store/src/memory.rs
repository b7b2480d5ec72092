//! The stores of tests: the same behaviour, nothing on disk.

use std::collections::BTreeMap;
use std::future::ready;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::index::Index;
use crate::limits::{check_transaction, check_writes};
use crate::plan::Planner;
use crate::shared::Shared;
use crate::{Condition, Listing, NodeDb, ObjectStore, Operation, Pending, Record, StoreError, WatchItem};

/// An [`ObjectStore`] that forgets everything when it is dropped.
pub struct MemoryObjectStore {
    shared: Shared,
}

impl MemoryObjectStore {
    /// An empty store, at revision 1.
    pub fn new() -> Self {
        Self { shared: Shared::new(Index::new()) }
    }

    fn apply(&self, conditions: &[Condition], operations: Vec<Operation>) -> Result<u64, StoreError> {
        check_transaction(conditions, &operations)?;
        let mut index = self.shared.write();
        let plan = Planner::new(&index).plan(conditions, operations)?;
        let revision = plan.revision;
        index.apply(plan);
        Ok(revision)
    }
}

impl Default for MemoryObjectStore {
    fn default() -> Self {
        Self::new()
    }
}

impl ObjectStore for MemoryObjectStore {
    fn get(&self, key: &str) -> Pending<'_, Result<Option<Record>, StoreError>> {
        Box::pin(ready(self.shared.get(key)))
    }

    fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        revision: u64,
    ) -> Pending<'_, Result<Listing, StoreError>> {
        Box::pin(ready(self.shared.list(prefix, start_after, limit, revision)))
    }

    fn commit(
        &self,
        conditions: Vec<Condition>,
        operations: Vec<Operation>,
    ) -> Pending<'_, Result<u64, StoreError>> {
        Box::pin(async move { self.apply(&conditions, operations) })
    }

    fn watch(
        &self,
        prefix: &str,
        revision: u64,
    ) -> Pending<'_, Result<mpsc::Receiver<WatchItem>, StoreError>> {
        Box::pin(ready(self.shared.write().watch(prefix, revision)))
    }

    fn revision(&self) -> u64 {
        self.shared.read().revision()
    }

    fn compact(&self, revision: u64) -> Pending<'_, Result<(), StoreError>> {
        Box::pin(ready(self.shared.write().compact(revision)))
    }
}

/// A [`NodeDb`] that forgets everything when it is dropped.
#[derive(Default)]
pub struct MemoryNodeDb {
    records: Mutex<BTreeMap<(String, String), Vec<u8>>>,
}

impl MemoryNodeDb {
    /// An empty database.
    pub fn new() -> Self {
        Self::default()
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<(String, String), Vec<u8>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeDb for MemoryNodeDb {
    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.records().get(&(table.to_owned(), key.to_owned())).cloned())
    }

    fn scan(&self, table: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let from = (table.to_owned(), prefix.to_owned());
        Ok(self
            .records()
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(|((of, key), _)| of == table && key.starts_with(prefix))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    fn write(&self, writes: &[(&str, &str, Option<&[u8]>)]) -> Result<(), StoreError> {
        check_writes(writes)?;
        let mut records = self.records();
        for (table, key, value) in writes {
            let key = ((*table).to_owned(), (*key).to_owned());
            match value {
                Some(value) => records.insert(key, value.to_vec()),
                None => records.remove(&key),
            };
        }
        Ok(())
    }
}
