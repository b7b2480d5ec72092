//! The engine's durable records, written behind.
//!
//! Memory is the truth while the engine runs; the journal carries changes to the `NodeDb`. A durable write costs a few
//! milliseconds, so changes of one record that come while a write is under way become one, and a caller that
//! promised durability waits with [`Journal::flush`]. A record that is put lazily and deleted before anybody asked for
//! a write never reaches the disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cirro_store::NodeDb;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::error::EngineError;

/// How long a lazy change waits for company.
const LINGER: Duration = Duration::from_millis(250);

type Key = (&'static str, String);

/// Containers.
pub(crate) const CONTAINERS: &str = "engine-containers";
/// Volumes.
pub(crate) const VOLUMES: &str = "engine-volumes";
/// Sandboxes of pods.
pub(crate) const SANDBOXES: &str = "engine-sandboxes";
/// Virtual machines.
pub(crate) const INSTANCES: &str = "engine-instances";

#[derive(Default)]
struct Pending {
    changes: BTreeMap<Key, Option<Vec<u8>>>,
    /// Number of changes ever taken in.
    sequence: u64,
    urgent: bool,
    /// Keys that may be on disk, so that a delete of any other key needs no write.
    known: std::collections::BTreeSet<Key>,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    /// Every change up to this number was tried.
    sequence: u64,
    /// Why the last write failed.
    error: Option<String>,
}

/// A handle on the writer.
pub(crate) struct Journal {
    db: Arc<dyn NodeDb>,
    pending: Mutex<Pending>,
    wake: Notify,
    progress: watch::Sender<Progress>,
}

impl Journal {
    pub(crate) fn new(db: Arc<dyn NodeDb>) -> Arc<Self> {
        let progress = watch::channel(Progress::default()).0;
        Arc::new(Self { db, pending: Mutex::default(), wake: Notify::new(), progress })
    }

    /// Reads every record of a table.
    pub(crate) fn load(&self, table: &'static str) -> Result<Vec<(String, Vec<u8>)>, EngineError> {
        let records = self.db.scan(table, "")?;
        let mut pending = self.pending.lock().expect("no panic while it is held");
        pending.known.extend(records.iter().map(|(key, _)| (table, key.clone())));
        Ok(records)
    }

    /// Notes a record; it is written soon.
    pub(crate) fn put(&self, table: &'static str, key: &str, record: &impl Serialize) {
        self.change(table, key, Some(encode(record)), true);
    }

    /// Notes a record that need not be on disk before something else is.
    pub(crate) fn put_lazily(&self, table: &'static str, key: &str, record: &impl Serialize) {
        self.change(table, key, Some(encode(record)), false);
    }

    /// Forgets a record.
    pub(crate) fn delete(&self, table: &'static str, key: &str) {
        self.change(table, key, None, false);
    }

    fn change(&self, table: &'static str, key: &str, value: Option<Vec<u8>>, urgent: bool) {
        let mut pending = self.pending.lock().expect("no panic while it is held");
        let key = (table, key.to_owned());
        pending.sequence += 1;
        if value.is_none() && !pending.known.contains(&key) {
            pending.changes.remove(&key);
        } else {
            pending.changes.insert(key, value);
        }
        pending.urgent |= urgent;
        drop(pending);
        self.wake.notify_one();
    }

    /// Waits until everything noted so far is durable.
    pub(crate) async fn flush(&self) -> Result<(), EngineError> {
        let wanted = {
            let mut pending = self.pending.lock().expect("no panic while it is held");
            pending.urgent = true;
            // A number of its own: what failed before is tried again.
            pending.sequence += 1;
            pending.sequence
        };
        self.wake.notify_one();
        let mut progress = self.progress.subscribe();
        let reached = progress
            .wait_for(|progress| progress.sequence >= wanted)
            .await
            .map_err(|_| EngineError::Failed("engine records: the writer has ended".into()))?;
        match &reached.error {
            Some(error) => Err(EngineError::Failed(format!("engine records: {error}"))),
            None => Ok(()),
        }
    }

    /// Writes until it is cancelled and everything is written.
    pub(crate) async fn run(self: Arc<Self>, cancelled: CancellationToken) {
        loop {
            let last = cancelled.is_cancelled();
            if !last {
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = cancelled.cancelled() => {}
                }
                self.linger(&cancelled).await;
            }
            let journal = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || journal.write()).await {
                tracing::error!(%error, "engine records writer failed");
            }
            if last {
                // Whoever still wants something written learns that nobody writes any more.
                self.progress.send_modify(|progress| {
                    progress.sequence = u64::MAX;
                    progress.error.get_or_insert_with(|| "the writer has ended".into());
                });
                return;
            }
        }
    }

    /// Waits a little for company unless somebody is in a hurry.
    async fn linger(&self, cancelled: &CancellationToken) {
        let end = tokio::time::sleep(LINGER);
        tokio::pin!(end);
        while !self.pending.lock().expect("no panic while it is held").urgent {
            tokio::select! {
                () = self.wake.notified() => {}
                () = &mut end => return,
                () = cancelled.cancelled() => return,
            }
        }
    }

    fn write(&self) {
        let (changes, sequence) = {
            let mut pending = self.pending.lock().expect("no panic while it is held");
            pending.urgent = false;
            let changes = std::mem::take(&mut pending.changes);
            // Marked before the write: a delete that comes meanwhile must be written too.
            pending.known.extend(changes.keys().cloned());
            (changes, pending.sequence)
        };
        let writes: Vec<(&str, &str, Option<&[u8]>)> =
            changes.iter().map(|((table, key), value)| (*table, key.as_str(), value.as_deref())).collect();
        let result = if writes.is_empty() { Ok(()) } else { self.db.write(&writes) };
        let mut pending = self.pending.lock().expect("no panic while it is held");
        let error = match result {
            Ok(()) => {
                for (key, value) in changes {
                    if value.is_none() && !pending.changes.contains_key(&key) {
                        pending.known.remove(&key);
                    }
                }
                None
            }
            Err(error) => {
                tracing::error!(%error, "engine records not written");
                for (key, value) in changes {
                    pending.changes.entry(key).or_insert(value);
                }
                Some(error.to_string())
            }
        };
        drop(pending);
        self.progress.send_replace(Progress { sequence, error });
    }
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have string keys only")
}

#[cfg(test)]
mod tests {
    use cirro_store::StoreError;

    use super::*;

    #[derive(Default)]
    struct Counting {
        records: Mutex<BTreeMap<(String, String), Vec<u8>>>,
        writes: Mutex<usize>,
        broken: Mutex<bool>,
    }

    impl NodeDb for Counting {
        fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(self.records.lock().unwrap().get(&(table.into(), key.into())).cloned())
        }
        fn scan(&self, table: &str, _: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
            let records = self.records.lock().unwrap();
            Ok(records
                .iter()
                .filter(|((t, _), _)| t == table)
                .map(|((_, k), v)| (k.clone(), v.clone()))
                .collect())
        }
        fn write(&self, writes: &[(&str, &str, Option<&[u8]>)]) -> Result<(), StoreError> {
            if *self.broken.lock().unwrap() {
                return Err(StoreError::Io("no space".into()));
            }
            *self.writes.lock().unwrap() += 1;
            for (table, key, value) in writes {
                let key = ((*table).to_owned(), (*key).to_owned());
                match value {
                    Some(value) => self.records.lock().unwrap().insert(key, value.to_vec()),
                    None => self.records.lock().unwrap().remove(&key),
                };
            }
            Ok(())
        }
    }

    fn journal() -> (Arc<Counting>, Arc<Journal>, CancellationToken, tokio::task::JoinHandle<()>) {
        let db = Arc::new(Counting::default());
        let journal = Journal::new(db.clone());
        let cancelled = CancellationToken::new();
        let task = tokio::spawn(journal.clone().run(cancelled.clone()));
        (db, journal, cancelled, task)
    }

    #[tokio::test]
    async fn what_was_flushed_is_in_the_database() {
        let (db, journal, cancelled, task) = journal();
        journal.put(CONTAINERS, "a", &1);
        journal.flush().await.unwrap();
        assert_eq!(db.get(CONTAINERS, "a").unwrap().unwrap(), b"1");
        journal.delete(CONTAINERS, "a");
        journal.flush().await.unwrap();
        assert_eq!(db.get(CONTAINERS, "a").unwrap(), None);
        cancelled.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_record_put_lazily_and_deleted_is_never_written() {
        let (db, journal, cancelled, task) = journal();
        journal.put_lazily(CONTAINERS, "a", &1);
        journal.delete(CONTAINERS, "a");
        cancelled.cancel();
        task.await.unwrap();
        assert_eq!(*db.writes.lock().unwrap(), 0);
    }

    #[tokio::test]
    async fn what_was_not_flushed_is_written_at_the_end() {
        let (db, journal, cancelled, task) = journal();
        journal.put_lazily(VOLUMES, "v", &2);
        cancelled.cancel();
        task.await.unwrap();
        assert_eq!(db.get(VOLUMES, "v").unwrap().unwrap(), b"2");
        assert!(journal.flush().await.is_err(), "it says so instead of waiting for ever");
    }

    #[tokio::test]
    async fn a_failed_write_is_told_and_tried_again() {
        let (db, journal, cancelled, task) = journal();
        *db.broken.lock().unwrap() = true;
        journal.put(CONTAINERS, "a", &1);
        assert!(journal.flush().await.unwrap_err().to_string().contains("no space"));
        *db.broken.lock().unwrap() = false;
        journal.flush().await.unwrap();
        assert!(db.get(CONTAINERS, "a").unwrap().is_some());
        cancelled.cancel();
        task.await.unwrap();
    }
}
