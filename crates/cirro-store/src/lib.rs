//! Storage behind two seams: [`ObjectStore`] for API objects, [`NodeDb`] for one host's records.
//!
//! | seam | durable | for tests |
//! | --- | --- | --- |
//! | [`ObjectStore`] | [`EmbeddedStore`]: all objects in memory, every commit in one redb file; [`EtcdStore`]: in an etcd cluster, for several servers | [`MemoryObjectStore`] |
//! | [`NodeDb`] | [`RedbNodeDb`]: read from disk, so that large indexes do not live in memory | [`MemoryNodeDb`] |
//!
//! What a call returned `Ok` for survives `kill -9` and a power cut; what it returned an error for
//! happened whole or not at all. Every record carries a CRC-32C, verified whenever it is read from
//! disk: a damaged record is named, never served.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

#[cfg(test)]
mod crash_tests;
mod embedded;
mod etcd;
#[cfg(test)]
mod fault;
mod index;
mod limits;
mod memory;
mod node_db;
mod object_file;
mod plan;
mod record;
mod redb_file;
mod shared;
mod watchers;

pub use embedded::EmbeddedStore;
pub use etcd::{Endpoint, EtcdClient, EtcdOptions, EtcdStore, fill};
pub use limits::{MAX_KEY_BYTES, MAX_NODE_VALUE_BYTES, MAX_OPERATIONS, MAX_VALUE_BYTES};
pub use memory::{MemoryNodeDb, MemoryObjectStore};
pub use node_db::RedbNodeDb;

/// A boxed future.
pub type Pending<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A stored object at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: Arc<str>,
    /// Its bytes.
    pub value: Bytes,
    /// Revision of the write that made this state.
    pub revision: u64,
    /// Revision of the write that created it.
    pub create_revision: u64,
    /// Number of writes since it was created, 1 at creation.
    pub version: u64,
}

/// A change, in revision order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Created or replaced; with what was there before.
    Put(Record, Option<Record>),
    /// Deleted at this revision; the last state.
    Delete(u64, Record),
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Arc<str> {
        let (Self::Put(record, _) | Self::Delete(_, record)) = self;
        &record.key
    }

    /// What was there before.
    pub fn before(&self) -> Option<&Record> {
        match self {
            Self::Put(_, before) => before.as_ref(),
            Self::Delete(_, record) => Some(record),
        }
    }
}

/// What must hold for a transaction to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key does not exist.
    Absent(String),
    /// The key's last write has this revision.
    Revision(String, u64),
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Creates or replaces.
    Put(String, Bytes),
    /// Deletes; nothing happens when the key does not exist.
    Delete(String),
}

/// Why the store refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A condition did not hold; nothing was written. Carries the key and its present revision (0: absent).
    #[error("condition on `{key}` does not hold: it is at revision {revision}")]
    Conflict {
        /// The key.
        key: String,
        /// Its present revision.
        revision: u64,
    },
    /// The revision was compacted away.
    #[error("revision {0} has been compacted")]
    Compacted(u64),
    /// The revision has not been reached.
    #[error("revision {0} is in the future")]
    Future(u64),
    /// Beyond etcd's limits.
    #[error("{0}")]
    TooLarge(String),
    /// Not a transaction: an empty key, or a key written twice.
    #[error("{0}")]
    Invalid(String),
    /// A record's checksum is wrong.
    #[error("record `{0}` is damaged")]
    Damaged(String),
    /// The disk failed or is full.
    #[error("{0}")]
    Io(String),
    /// The store cannot be reached; a write may have happened.
    #[error("{0}")]
    Unavailable(String),
}

/// A consistent read of a prefix.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Records in key order.
    pub records: Vec<Record>,
    /// Revision of the whole.
    pub revision: u64,
    /// Whether more follow after the last key.
    pub more: bool,
    /// Number of records with the prefix, those not returned included.
    pub total: usize,
}

/// What a watch delivers.
#[derive(Debug, Clone)]
pub enum WatchItem {
    /// Changes of one revision, in order.
    Changes(u64, Arc<[Change]>),
    /// Nothing of interest happened up to this revision.
    Progress(u64),
    /// The watcher was too slow or the revision was compacted: list again. Last item.
    Lost,
}

/// Objects with revisions and watches: made to etcd's limits (1.5 MiB a value, 128 operations a
/// transaction, the revision known only after commit).
pub trait ObjectStore: Send + Sync {
    /// Returns a key's record at the newest revision.
    fn get(&self, key: &str) -> Pending<'_, Result<Option<Record>, StoreError>>;
    /// Lists a prefix after `start_after`, at most `limit` records (0: all), at `revision` (0: the newest).
    fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        revision: u64,
    ) -> Pending<'_, Result<Listing, StoreError>>;
    /// Applies all operations durably at one revision if every condition holds; returns the revision.
    fn commit(
        &self,
        conditions: Vec<Condition>,
        operations: Vec<Operation>,
    ) -> Pending<'_, Result<u64, StoreError>>;
    /// Watches a prefix for changes after `revision`. The channel is bounded; a reader that does not keep up gets `Lost`.
    fn watch(
        &self,
        prefix: &str,
        revision: u64,
    ) -> Pending<'_, Result<mpsc::Receiver<WatchItem>, StoreError>>;
    /// Returns the newest revision that this server knows of.
    fn revision(&self) -> u64;
    /// Returns the newest revision of all servers on this store; it is known here then.
    fn newest_revision(&self) -> Pending<'_, Result<u64, StoreError>> {
        Box::pin(std::future::ready(Ok(self.revision())))
    }
    /// Forgets history up to `revision`.
    fn compact(&self, revision: u64) -> Pending<'_, Result<(), StoreError>>;
}

/// One host's records: tables of keys to bytes, durable when a call returns. Blocking.
pub trait NodeDb: Send + Sync {
    /// Returns a record.
    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError>;
    /// Returns the records of a table whose keys begin with `prefix`, in key order.
    fn scan(&self, table: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError>;
    /// Applies all writes at once, durably. `None` deletes.
    fn write(&self, writes: &[(&str, &str, Option<&[u8]>)]) -> Result<(), StoreError>;
}
