//! The object store in an etcd cluster, for several API servers at a time.
//!
//! ## Theory of operation
//! ```text
//! commit ──▶ one transaction of etcd ──▶ wait until the index has its revision
//! get, list ──▶ barrier (etcd's newest revision) ──▶ wait for it ──▶ index
//! watch ──▶ index ◀── follower ◀── one watch of etcd
//! ```
//! The index is the one of the other stores: everything in memory, with the history of the last revisions, so
//! lists at a revision, watches and their limits are the same. Etcd is asked for a revision per read, and many reads
//! share one question; values cross the network once per server and change.
//!
//! A read has seen every write that was answered before it, by whichever server. When etcd is away, reads and
//! writes answer [`StoreError::Unavailable`] within seconds and watches wait. A write that was interrupted may have
//! happened. When etcd has compacted what this server missed, or was restored from an older copy, all objects are read
//! again and every watcher gets [`WatchItem::Lost`].
//!
//! Etcd keeps old revisions until they are compacted: every server does that every few minutes, up to what was the
//! newest revision the time before.

use std::sync::Arc;
use std::time::Duration;

use cirro_grpc::Code;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::index::Index;
use crate::limits::check_transaction;
use crate::shared::Shared;
use crate::{Condition, Listing, ObjectStore, Operation, Pending, Record, StoreError, WatchItem};

mod barrier;
mod client;
mod connection;
mod fill;
mod follow;
mod layout;
mod messages;
mod puts;

use barrier::Barrier;
use client::Client;
pub use connection::Endpoint;
pub use fill::fill;
use follow::Follower;
use layout::{Layout, Meta};
use messages::*;
pub use puts::EtcdClient;

/// How long a read waits for what etcd has already.
const PATIENCE: Duration = Duration::from_secs(5);
const COMPACTION_INTERVAL: Duration = Duration::from_secs(300);

/// Where the etcd cluster is and how a cloud's part of it is called.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Its members; one that answers is enough.
    pub endpoints: Vec<Endpoint>,
    /// TLS, with our certificate if etcd wants one; `None` for plain TCP.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// What this cloud's keys begin with, such as `/cirro`: another cloud on the same etcd has another one.
    pub prefix: String,
    /// Revision that the store begins at when it is made; `None` for etcd's own.
    pub first_revision: Option<u64>,
}

/// An [`ObjectStore`] in an etcd cluster (3.4 or later).
pub struct EtcdStore {
    shared: Arc<Shared>,
    client: Arc<Client>,
    layout: Layout,
    barrier: Barrier,
    reached: watch::Receiver<u64>,
    tasks: Vec<AbortHandle>,
}

impl EtcdStore {
    /// Opens the store, or makes an empty one; reads all objects.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no member answers; [`StoreError::Io`] if objects are still being moved into
    /// it, or it is of another version.
    pub async fn open(options: EtcdOptions) -> Result<Self, StoreError> {
        let client = Arc::new(Client::new(options.endpoints, options.tls));
        let meta = ensure_meta(&client, &options.prefix, options.first_revision).await?;
        let layout = Layout::new(&options.prefix, meta.offset);
        let (revision, records) = follow::load(&client, &layout).await?;
        info!(prefix = options.prefix, revision, objects = records.len(), "object store in etcd is open");
        let mut index = Index::new();
        if revision > index.revision() || !records.is_empty() {
            index.replace(revision, records);
        }
        let shared = Arc::new(Shared::new(index));
        let (sender, reached) = watch::channel(revision);
        let (barrier, asking) = Barrier::new(client.clone());
        let follower = Follower {
            client: client.clone(),
            layout: layout.clone(),
            shared: shared.clone(),
            reached: sender,
        };
        let tasks = [
            tokio::spawn(follower.run()),
            tokio::spawn(asking),
            tokio::spawn(compact_regularly(client.clone(), reached.clone(), layout.clone())),
        ];
        let tasks = tasks.iter().map(tokio::task::JoinHandle::abort_handle).collect();
        Ok(Self { shared, client, layout, barrier, reached, tasks })
    }

    /// Waits until the index has what all servers have written so far.
    async fn catch_up(&self) -> Result<u64, StoreError> {
        let newest = self.layout.revision(self.barrier.newest().await?);
        if self.wait_for(newest).await {
            return Ok(newest);
        }
        Err(StoreError::Unavailable("etcd's watch does not keep up".into()))
    }

    /// Whether the index has reached a revision in time.
    async fn wait_for(&self, revision: u64) -> bool {
        let mut reached = self.reached.clone();
        let waiting = reached.wait_for(|reached| *reached >= revision);
        matches!(tokio::time::timeout(PATIENCE, waiting).await, Ok(Ok(_)))
    }

    async fn write(&self, conditions: Vec<Condition>, operations: Vec<Operation>) -> Result<u64, StoreError> {
        check_transaction(&conditions, &operations)?;
        let request = TxnRequest {
            compare: conditions.iter().map(|condition| self.compare(condition)).collect(),
            success: operations.into_iter().map(|operation| self.operation(operation)).collect(),
            failure: conditions.iter().map(|condition| self.look(condition)).collect(),
        };
        let answer: TxnResponse = self.client.call("/etcdserverpb.KV/Txn", &request).await?;
        if !answer.succeeded {
            return Err(self.conflict(&conditions, &answer));
        }
        let revision = self.layout.revision(answer.header.unwrap_or_default().revision);
        if !self.wait_for(revision).await {
            // It is durable; who reads it waits for it again.
            warn!(revision, "etcd's watch does not keep up with our own writes");
        }
        Ok(revision)
    }

    fn compare(&self, condition: &Condition) -> Compare {
        let (key, revision) = expected(condition);
        // A revision from before the store was moved here is none of etcd's.
        let etcds = if revision == 0 { 0 } else { self.layout.etcds(revision) };
        let impossible = revision != 0 && etcds == 0;
        layout::at_revision(self.layout.key(key), if impossible { i64::MAX } else { etcds })
    }

    fn operation(&self, operation: Operation) -> RequestOp {
        match operation {
            Operation::Put(key, value) => Request::Put(PutRequest { key: self.layout.key(&key), value }),
            Operation::Delete(key) => {
                Request::Delete(DeleteRangeRequest { key: self.layout.key(&key), ..Default::default() })
            }
        }
        .into()
    }

    fn look(&self, condition: &Condition) -> RequestOp {
        let key = self.layout.key(expected(condition).0);
        Request::Range(RangeRequest { key, keys_only: true, ..RangeRequest::default() }).into()
    }

    /// The first condition that does not hold, by what was found in the same transaction.
    fn conflict(&self, conditions: &[Condition], answer: &TxnResponse) -> StoreError {
        let present = answer.responses.iter().map(|one| match &one.response {
            Some(Response::Range(found)) => {
                found.kvs.first().map_or(0, |found| self.layout.revision(found.mod_revision))
            }
            _ => 0,
        });
        for (condition, revision) in conditions.iter().zip(present) {
            let (key, wanted) = expected(condition);
            if wanted != revision {
                return StoreError::Conflict { key: key.to_owned(), revision };
            }
        }
        StoreError::Io("etcd: a transaction failed though its conditions hold".into())
    }

    async fn forget(&self, revision: u64) -> Result<(), StoreError> {
        if revision > self.revision() && revision > self.catch_up().await? {
            return Err(StoreError::Future(revision));
        }
        compact(&self.client, self.layout.etcds(revision)).await?;
        self.shared.write().compact(revision)
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl ObjectStore for EtcdStore {
    fn get(&self, key: &str) -> Pending<'_, Result<Option<Record>, StoreError>> {
        let key = key.to_owned();
        Box::pin(async move {
            self.catch_up().await?;
            self.shared.get(&key)
        })
    }

    fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        revision: u64,
    ) -> Pending<'_, Result<Listing, StoreError>> {
        let (prefix, start_after) = (prefix.to_owned(), start_after.map(str::to_owned));
        Box::pin(async move {
            if revision == 0 || revision > self.revision() {
                self.catch_up().await?;
            }
            self.shared.list(&prefix, start_after.as_deref(), limit, revision)
        })
    }

    fn commit(
        &self,
        conditions: Vec<Condition>,
        operations: Vec<Operation>,
    ) -> Pending<'_, Result<u64, StoreError>> {
        Box::pin(self.write(conditions, operations))
    }

    fn watch(
        &self,
        prefix: &str,
        revision: u64,
    ) -> Pending<'_, Result<mpsc::Receiver<WatchItem>, StoreError>> {
        let prefix = prefix.to_owned();
        Box::pin(async move {
            if revision > self.revision() {
                self.catch_up().await?;
            }
            self.shared.write().watch(&prefix, revision)
        })
    }

    fn revision(&self) -> u64 {
        self.shared.read().revision()
    }

    fn newest_revision(&self) -> Pending<'_, Result<u64, StoreError>> {
        Box::pin(self.catch_up())
    }

    fn compact(&self, revision: u64) -> Pending<'_, Result<(), StoreError>> {
        Box::pin(self.forget(revision))
    }
}

/// The key that a condition is about and the revision that it wants; 0 for none.
fn expected(condition: &Condition) -> (&str, u64) {
    match condition {
        Condition::Absent(key) => (key, 0),
        Condition::Revision(key, revision) => (key, *revision),
    }
}

/// Reads how the store counts, or says so when nobody has.
async fn ensure_meta(client: &Client, prefix: &str, first_revision: Option<u64>) -> Result<Meta, StoreError> {
    loop {
        let (found, _, newest) = layout::load_meta(client, prefix).await?;
        match found {
            Some(Meta { filling: true, .. }) => {
                return Err(StoreError::Io(format!(
                    "objects are still being moved to `{prefix}` in etcd; end that first"
                )));
            }
            Some(meta) => return Ok(meta),
            None => {}
        }
        let offset = first_revision.map_or(0, |first| offset_for(first, newest));
        let meta = Meta { offset, filling: false };
        // Another server may have been quicker: then its word holds.
        if layout::write_meta(client, prefix, meta, 0).await? {
            return Ok(meta);
        }
    }
}

/// What makes the next revision of etcd, or a later one, `first` of ours.
fn offset_for(first: u64, newest: i64) -> i64 {
    i64::try_from(first).unwrap_or(i64::MAX).saturating_sub(newest.saturating_add(1))
}

async fn compact(client: &Client, revision: i64) -> Result<(), StoreError> {
    if revision == 0 {
        return Ok(());
    }
    let request = CompactionRequest { revision };
    match client.call::<Done>("/etcdserverpb.KV/Compact", &request).await {
        // Another server, or etcd by itself, has done it.
        Err(status) if status.is(Code::OutOfRange) => Ok(()),
        result => Ok(result.map(drop)?),
    }
}

async fn compact_regularly(client: Arc<Client>, reached: watch::Receiver<u64>, layout: Layout) {
    let mut last = *reached.borrow();
    loop {
        tokio::time::sleep(COMPACTION_INTERVAL).await;
        if let Err(why) = compact(&client, layout.etcds(last)).await {
            warn!(%why, "cannot compact etcd");
        }
        last = *reached.borrow();
    }
}
