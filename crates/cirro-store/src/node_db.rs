//! One host's records in one redb file, read from disk.
//!
//! ## Group commit
//! A thread that writes puts its writes into the queue. If no one leads, it leads: it takes all that
//! is queued into one durable transaction, answers everybody in it, and hands the lead to
//! one of those who came meanwhile. So a lone writer waits for one fsync, and many share it.

use std::collections::HashMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use redb::{ReadOnlyTable, ReadTransaction, TableDefinition, TableError};

use crate::limits::check_writes;
use crate::record::{seal, unseal};
use crate::redb_file::{Fault, RedbFile};
use crate::{NodeDb, StoreError};

/// Table and key to the sealed value. One redb table for all of ours: a table that nobody has
/// written to is then simply empty.
const RECORDS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("records");

const CACHE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes after which a batch takes no more callers.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// A [`NodeDb`] in one redb file.
#[derive(Debug)]
pub struct RedbNodeDb {
    file: RedbFile,
    queue: Mutex<Queue>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Request>,
    is_led: bool,
    next_ticket: u64,
    answers: HashMap<u64, Result<(), StoreError>>,
}

/// What one caller wants written.
#[derive(Debug)]
struct Request {
    ticket: u64,
    bytes: usize,
    writes: Vec<Write>,
}

#[derive(Debug)]
struct Write {
    table: String,
    key: String,
    frame: Option<Vec<u8>>,
}

impl RedbNodeDb {
    /// Opens the database at `path`, or makes an empty one; the directory must exist.
    ///
    /// Blocks, after a crash as long as it takes to read the file once.
    ///
    /// # Errors
    /// [`StoreError::Io`] also when another process has it open.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Ok(Self::over(RedbFile::at(path.as_ref(), CACHE_BYTES)?))
    }

    pub(crate) fn over(file: RedbFile) -> Self {
        Self { file, queue: Mutex::default(), answered: Condvar::new() }
    }

    /// Leads one batch: writes it and puts the answers down.
    fn lead<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        queue.is_led = true;
        let batch = queue.take_batch();
        drop(queue);
        let result = self.commit(&batch);
        let mut queue = self.lock_queue();
        queue.is_led = false;
        for request in batch {
            queue.answers.insert(request.ticket, result.clone());
        }
        self.answered.notify_all();
        queue
    }

    fn commit(&self, batch: &[Request]) -> Result<(), StoreError> {
        self.file.write(|transaction| {
            let mut records = transaction.open_table(RECORDS)?;
            for write in batch.iter().flat_map(|request| &request.writes) {
                let key = (&*write.table, &*write.key);
                match &write.frame {
                    Some(frame) => records.insert(key, &**frame)?,
                    None => records.remove(key)?,
                };
            }
            Ok(())
        })
    }

    fn lock_queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn push(&mut self, writes: Vec<Write>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let bytes = writes.iter().map(Write::bytes).sum();
        self.waiting.push(Request { ticket, bytes, writes });
        ticket
    }

    /// Takes callers in their order, at least one.
    fn take_batch(&mut self) -> Vec<Request> {
        let mut bytes = 0;
        let within = self.waiting.iter().take_while(|request| {
            let is_within = bytes < BATCH_BYTES;
            bytes += request.bytes;
            is_within
        });
        let count = within.count();
        self.waiting.drain(..count).collect()
    }
}

impl Write {
    fn bytes(&self) -> usize {
        self.table.len() + self.key.len() + self.frame.as_ref().map_or(0, Vec::len)
    }
}

impl NodeDb for RedbNodeDb {
    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.file.read(|transaction| {
            let Some(records) = open_records(transaction)? else { return Ok(None) };
            let Some(frame) = records.get((table, key))? else { return Ok(None) };
            Ok(Some(open_frame(table, key, frame.value())?))
        })
    }

    fn scan(&self, table: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.file.read(|transaction| {
            let Some(records) = open_records(transaction)? else { return Ok(Vec::new()) };
            let mut found = Vec::new();
            for entry in records.range((Bound::Included((table, prefix)), Bound::Unbounded))? {
                let (key, frame) = entry?;
                let (of, key) = key.value();
                if of != table || !key.starts_with(prefix) {
                    break;
                }
                found.push((key.to_owned(), open_frame(table, key, frame.value())?));
            }
            Ok(found)
        })
    }

    fn write(&self, writes: &[(&str, &str, Option<&[u8]>)]) -> Result<(), StoreError> {
        check_writes(writes)?;
        if writes.is_empty() {
            return Ok(());
        }
        let writes = writes.iter().map(|write| seal_write(*write)).collect();
        let mut queue = self.lock_queue();
        let ticket = queue.push(writes);
        loop {
            if let Some(answer) = queue.answers.remove(&ticket) {
                return answer;
            }
            queue = match queue.is_led {
                true => self.answered.wait(queue).unwrap_or_else(PoisonError::into_inner),
                false => self.lead(queue),
            };
        }
    }
}

type Records = ReadOnlyTable<(&'static str, &'static str), &'static [u8]>;

fn open_records(transaction: &ReadTransaction) -> Result<Option<Records>, Fault> {
    match transaction.open_table(RECORDS) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn seal_write((table, key, value): (&str, &str, Option<&[u8]>)) -> Write {
    let frame = value.map(|value| seal(&full_key(table, key), value));
    Write { table: table.to_owned(), key: key.to_owned(), frame }
}

fn open_frame(table: &str, key: &str, frame: &[u8]) -> Result<Vec<u8>, StoreError> {
    Ok(unseal(&full_key(table, key), frame)?.to_vec())
}

/// The key that goes into a record's checksum, and into the error when it is wrong.
fn full_key(table: &str, key: &str) -> String {
    format!("{table}/{key}")
}
