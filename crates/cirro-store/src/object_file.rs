//! The objects on disk: the newest record of every key, and the revision.
//!
//! History is not kept: after a restart clients list again. So the file's size follows what is
//! stored, not how often it was written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use redb::{
    AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, StorageError,
    TableDefinition, TableError,
};
use tracing::{error, warn};

use crate::index::Index;
use crate::record::{seal, seal_object, unseal, unseal_object, was_under};
use crate::redb_file::{Fault, RedbFile};
use crate::{Record, StoreError};

/// Keys are bytes here: a damaged one need not be text.
const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const STATE: &str = "state";

/// The file is read once, at the start.
const CACHE_BYTES: usize = 8 * 1024 * 1024;
/// Values that are read together share allocations of this size. One by one they would cost the allocator a call to
/// the kernel for each page; a chunk is given back when the last value in it is replaced.
const CHUNK_BYTES: usize = 256 * 1024;
/// A file this large, of which not even a quarter is in use, is made smaller at the start.
const SHRINK_FROM_BYTES: u64 = 8 * 1024 * 1024;

/// The revision, and the number of records that belong to it, so that lost ones are missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    revision: u64,
    count: u64,
}

impl State {
    const NEW: Self = Self { revision: 1, count: 0 };

    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.revision.to_le_bytes());
        bytes[8..].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let ([revision, count], []) = bytes.as_chunks::<8>() else { return None };
        Some(Self { revision: u64::from_le_bytes(*revision), count: u64::from_le_bytes(*count) })
    }
}

/// The redb file under an embedded store.
#[derive(Debug)]
pub(crate) struct ObjectFile(RedbFile);

impl ObjectFile {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::over(RedbFile::at(path, CACHE_BYTES)?))
    }

    pub(crate) fn over(file: RedbFile) -> Self {
        Self(file)
    }

    /// Reads everything. Damaged records are reported and set apart.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it cannot be told which records are missing or damaged.
    pub(crate) fn load(&self) -> Result<Index, StoreError> {
        let (state, loaded) = self.0.read(|transaction| {
            let state = load_state(transaction)?;
            Ok((state, load_objects(transaction)?))
        })?;
        for key in &loaded.damaged {
            error!(%key, "a stored object is damaged");
        }
        let count = (loaded.records.len() + loaded.damaged.len()) as u64;
        let newest = loaded.records.iter().map(|record| record.revision).max().unwrap_or(1);
        if loaded.misplaced || count != state.count || newest > state.revision {
            error!(
                found = count,
                expected = state.count,
                newest,
                revision = state.revision,
                "objects are lost"
            );
            return Err(self.0.damaged());
        }
        if state == State::NEW {
            return Ok(Index::new());
        }
        let records: BTreeMap<_, _> =
            loaded.records.into_iter().map(|record| (record.key.clone(), record)).collect();
        Ok(Index::load(state.revision, records, loaded.damaged))
    }

    /// The revision of the last durable write.
    pub(crate) fn revision(&self) -> Result<u64, StoreError> {
        self.0.read(|transaction| Ok(load_state(transaction)?.revision))
    }

    /// Writes what is now under some keys, and the state that it makes, in one durable transaction.
    pub(crate) fn write(
        &self,
        revision: u64,
        count: u64,
        written: &HashMap<Arc<str>, Option<Record>>,
    ) -> Result<(), StoreError> {
        self.0.write(|transaction| {
            let mut objects = transaction.open_table(OBJECTS)?;
            // In order: neighbours are in one page.
            let mut written: Vec<_> = written.iter().collect();
            written.sort_unstable_by_key(|(key, _)| *key);
            for (key, record) in written {
                match record {
                    Some(record) => objects.insert(key.as_bytes(), &*seal_object(record))?,
                    None => objects.remove(key.as_bytes())?,
                };
            }
            let state = seal(STATE, &State { revision, count }.to_bytes());
            transaction.open_table(META)?.insert(STATE, &*state)?;
            Ok(())
        })
    }

    /// Gives space back to the file system when most of the file is unused.
    pub(crate) fn shrink_if_sparse(&self, path: &Path, index: &Index) {
        let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        if size >= SHRINK_FROM_BYTES
            && index.stored_bytes() < size / 4
            && let Err(error) = self.0.shrink()
        {
            warn!(%error, "cannot shrink the object store");
        }
    }
}

#[derive(Default)]
struct Loaded {
    records: Vec<Record>,
    damaged: BTreeSet<Arc<str>>,
    /// Whether a record is damaged in such a way that its key is not known.
    misplaced: bool,
}

fn load_state(transaction: &ReadTransaction) -> Result<State, Fault> {
    let damaged = || StoreError::Damaged(STATE.to_owned());
    match existing(transaction.open_table(META))? {
        None => Ok(State::NEW),
        Some(meta) => {
            let frame = meta.get(STATE)?.ok_or_else(damaged)?;
            let state = State::from_bytes(unseal(STATE, frame.value())?);
            Ok(state.ok_or_else(damaged)?)
        }
    }
}

/// Reads all objects, in order of their keys: two threads begin at the ends and stop where they meet.
fn load_objects(transaction: &ReadTransaction) -> Result<Loaded, Fault> {
    let Some(objects) = existing(transaction.open_table(OBJECTS))? else { return Ok(Loaded::default()) };
    let left = AtomicU64::new(objects.len()?);
    let (front, back) = std::thread::scope(|scope| {
        let back = scope.spawn(|| match existing(transaction.open_table(OBJECTS))? {
            Some(objects) => load_some(objects.iter()?.rev(), &left),
            None => Ok(Loaded::default()),
        });
        let front = objects.iter().map_err(Fault::from).and_then(|entries| load_some(entries, &left));
        // What redb panics on is damage, wherever it is found.
        (front, back.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let (mut loaded, back) = (front?, back?);
    let ends = loaded.records.last().zip(back.records.last());
    // They met too late: the number of objects is not what it says.
    loaded.misplaced |= back.misplaced || ends.is_some_and(|(front, back)| front.key >= back.key);
    loaded.records.extend(back.records.into_iter().rev());
    loaded.damaged.extend(back.damaged);
    Ok(loaded)
}

type Entry<'a> = (AccessGuard<'a, &'static [u8]>, AccessGuard<'a, &'static [u8]>);

/// Reads objects as long as some are `left` that nobody else reads.
fn load_some<'a>(
    mut entries: impl Iterator<Item = Result<Entry<'a>, StorageError>>,
    left: &AtomicU64,
) -> Result<Loaded, Fault> {
    let (mut loaded, mut chunk) = (Loaded::default(), Chunk::default());
    let claim =
        || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    while claim()
        && let Some(entry) = entries.next()
    {
        let (key, frame) = entry?;
        let Ok(key) = std::str::from_utf8(key.value()) else {
            loaded.misplaced = true;
            continue;
        };
        match unseal_object(key, frame.value(), |value| chunk.copy(value)) {
            Ok(record) => loaded.records.push(record),
            Err(_) if was_under(key, frame.value()) => {
                loaded.damaged.insert(key.into());
            }
            Err(_) => loaded.misplaced = true,
        }
    }
    Ok(loaded)
}

/// Where the next values go.
#[derive(Default)]
struct Chunk(BytesMut);

impl Chunk {
    fn copy(&mut self, value: &[u8]) -> Bytes {
        if value.len() > CHUNK_BYTES / 4 {
            return Bytes::copy_from_slice(value);
        }
        if self.0.capacity() < value.len() {
            self.0 = BytesMut::with_capacity(CHUNK_BYTES);
        }
        self.0.extend_from_slice(value);
        self.0.split().freeze()
    }
}

fn existing<K: redb::Key, V: redb::Value>(
    table: Result<ReadOnlyTable<K, V>, TableError>,
) -> Result<Option<ReadOnlyTable<K, V>>, Fault> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
