//! The durable object store: everything in memory for reads and watches, every commit on disk
//! before it is answered.
//!
//! ## Theory of operation
//! ```text
//! commit ──▶ requests (bounded) ──▶ writer thread: gather ─▶ plan ─▶ one durable transaction
//!                                                        ─▶ index and watchers ─▶ answers
//! get, list, watch ──▶ index
//! ```
//! The writer takes all requests that wait while it was busy with the last batch; nothing waits for a
//! batch to fill. Each request keeps its own revision and is planned against what the ones before
//! it do. The index changes only after the fsync, so nothing that was read is ever taken back.
//!
//! When the disk fails, the batch is in doubt: it may be on disk or not. All of it answers `Io`,
//! and before anything else is written the revision on disk is read: if the batch is there, it is made
//! true in memory as well. Until that can be read, reads and watches go on and writes answer `Io`.

use std::future::ready;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use crate::limits::check_transaction;
use crate::object_file::ObjectFile;
use crate::plan::{Plan, Planner};
use crate::shared::Shared;
use crate::{Condition, Listing, ObjectStore, Operation, Pending, Record, StoreError, WatchItem};

/// Commits that wait for the writer; more wait for a place.
const WAITING_REQUESTS: usize = 1024;
/// Commits in one durable transaction.
const BATCH_REQUESTS: usize = 512;
/// Bytes of values after which a batch takes no more commits.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// An [`ObjectStore`] in one redb file, for one process.
///
/// A commit whose future is dropped may still happen. Dropping the store waits for the commits that
/// were begun.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// Taken when the store is dropped: the writer ends when there are no senders.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

struct Request {
    conditions: Vec<Condition>,
    operations: Vec<Operation>,
    answer: oneshot::Sender<Result<u64, StoreError>>,
}

impl Request {
    fn bytes(&self) -> usize {
        let size = |operation: &Operation| match operation {
            Operation::Put(_, value) => value.len(),
            Operation::Delete(_) => 0,
        };
        self.operations.iter().map(size).sum()
    }
}

impl EmbeddedStore {
    /// Opens the store at `path`, or makes an empty one; the directory must exist. Blocks while it
    /// reads the whole file.
    ///
    /// # Errors
    /// [`StoreError::Io`], also when another process has it open; [`StoreError::Damaged`] if it
    /// cannot be told which objects are damaged or lost. Objects that are known to be damaged do not
    /// hinder: see [`EmbeddedStore::damaged`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let file = ObjectFile::open(path)?;
        let store = Self::over(file, |file, index| file.shrink_if_sparse(path, index))?;
        let index = store.shared.read();
        info!(path = %path.display(), revision = index.revision(), objects = index.count(), "object store is open");
        drop(index);
        Ok(store)
    }

    /// Returns the keys of damaged objects. Reading one, or a list that it belongs to, answers
    /// [`StoreError::Damaged`] until it is deleted or replaced without a condition.
    pub fn damaged(&self) -> Vec<Arc<str>> {
        self.shared.read().damaged().cloned().collect()
    }

    pub(crate) fn over(
        file: ObjectFile,
        prepare: impl FnOnce(&ObjectFile, &crate::index::Index),
    ) -> Result<Self, StoreError> {
        let index = file.load()?;
        prepare(&file, &index);
        let shared = Arc::new(Shared::new(index));
        let (sender, requests) = mpsc::channel(WAITING_REQUESTS);
        let writer = Writer { shared: shared.clone(), file, requests, in_doubt: None };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(|| writer.run())
            .map_err(|error| StoreError::Io(format!("start the writer: {error}")))?;
        Ok(Self { shared, requests: Some(sender), writer: Some(thread) })
    }

    async fn send(&self, conditions: Vec<Condition>, operations: Vec<Operation>) -> Result<u64, StoreError> {
        check_transaction(&conditions, &operations)?;
        let (answer, answered) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(stopped)?;
        requests.send(Request { conditions, operations, answer }).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            error!("the object store's writer has panicked");
        }
    }
}

impl ObjectStore for EmbeddedStore {
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
        Box::pin(self.send(conditions, operations))
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

fn stopped() -> StoreError {
    StoreError::Io("the object store's writer has stopped".into())
}

/// The one who writes.
struct Writer {
    shared: Arc<Shared>,
    file: ObjectFile,
    requests: mpsc::Receiver<Request>,
    /// Plans of a batch of which it is not known whether it is on disk.
    in_doubt: Option<Vec<Plan>>,
}

type Answers = Vec<(oneshot::Sender<Result<u64, StoreError>>, Result<Plan, StoreError>)>;

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.requests.blocking_recv() {
            let batch = self.gather(first);
            match self.settle_doubt() {
                Ok(()) => self.commit(batch),
                Err(error) => batch.into_iter().for_each(|request| refuse(request.answer, &error)),
            }
        }
    }

    /// Takes what waits already.
    fn gather(&mut self, first: Request) -> Vec<Request> {
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        while batch.len() < BATCH_REQUESTS
            && bytes < BATCH_BYTES
            && let Ok(request) = self.requests.try_recv()
        {
            bytes += request.bytes();
            batch.push(request);
        }
        batch
    }

    fn commit(&mut self, batch: Vec<Request>) {
        let index = self.shared.read();
        let mut planner = Planner::new(&index);
        let answers: Answers = batch
            .into_iter()
            .map(|request| (request.answer, planner.plan(&request.conditions, request.operations)))
            .collect();
        let before = index.revision();
        let (revision, count, written) = planner.finish();
        drop(index);
        if revision > before
            && let Err(error) = self.file.write(revision, count, &written)
        {
            return self.fail(answers, &error);
        }
        self.succeed(answers);
    }

    fn succeed(&self, answers: Answers) {
        let mut done = Vec::with_capacity(answers.len());
        let mut index = self.shared.write();
        for (answer, plan) in answers {
            let result = plan.map(|plan| {
                let revision = plan.revision;
                index.apply(plan);
                revision
            });
            done.push((answer, result));
        }
        drop(index);
        for (answer, result) in done {
            // Who asked may have gone.
            let _ = answer.send(result);
        }
    }

    /// Nobody gets more than the error: even a conflict may be one with a write that never was.
    fn fail(&mut self, answers: Answers, error: &StoreError) {
        error!(%error, "cannot write to the object store");
        let (answers, plans): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
        self.in_doubt = Some(plans.into_iter().flatten().collect());
        if let Err(error) = self.settle_doubt() {
            error!(%error, "cannot read the object store after a failed write");
        }
        for answer in answers {
            refuse(answer, error);
        }
    }

    fn settle_doubt(&mut self) -> Result<(), StoreError> {
        if self.in_doubt.is_none() {
            return Ok(());
        }
        let on_disk = self.file.revision()?;
        let mut index = self.shared.write();
        if on_disk > index.revision() {
            for plan in self.in_doubt.take().into_iter().flatten() {
                index.apply(plan);
            }
        }
        self.in_doubt = None;
        Ok(())
    }
}

fn refuse(answer: oneshot::Sender<Result<u64, StoreError>>, error: &StoreError) {
    let _ = answer.send(Err(error.clone()));
}
