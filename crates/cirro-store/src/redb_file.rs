//! One redb file that is opened again after a failure.
//!
//! After any I/O error redb refuses all work until the database is opened again, and so it must: what
//! is on disk is not known. [`RedbFile`] does that by itself, so that a full disk costs the writes
//! of that time and nothing else. A transaction whose commit failed is then there or not there, as
//! a whole; a caller who needs to know reads it back.

use std::fs::{File, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::{fmt, io};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, WriteTransaction};
use rustix::fs::{Advice, fadvise};
use tracing::warn;

use crate::StoreError;

/// Why a transaction failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Ours; the database is fine.
    Store(StoreError),
    /// Of redb.
    Redb(redb::Error),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

macro_rules! fault_from {
    ($($error:ty),+) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::Redb(error.into())
            }
        })+
    };
}
fault_from!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::CompactionError,
    DatabaseError
);

impl Fault {
    /// Whether the database has to be opened again.
    fn is_fatal(&self) -> bool {
        use redb::Error::{DatabaseClosed, Io, LockPoisoned, PreviousIo};
        matches!(self, Self::Redb(Io(_) | PreviousIo | DatabaseClosed | LockPoisoned(_)))
    }

    /// Whether it tells of a failure before this transaction only.
    fn is_stale(&self) -> bool {
        matches!(self, Self::Redb(redb::Error::PreviousIo | redb::Error::DatabaseClosed))
    }
}

type Open = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// A redb database that is opened again after an I/O error.
pub(crate) struct RedbFile {
    /// What to call it in errors.
    name: String,
    open: Open,
    opened: RwLock<Opened>,
    /// Held from the beginning of a write transaction to its end, and while opening again.
    writer: Mutex<()>,
}

struct Opened {
    database: Option<Database>,
    /// How often it was opened.
    generation: u64,
}

impl RedbFile {
    /// Opens or creates the file at `path`, in a directory that exists.
    pub(crate) fn at(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let path = path.to_owned();
        let was_open = AtomicBool::new(false);
        let open = move || open_file(&path, cache_bytes, was_open.swap(true, Ordering::Relaxed));
        Self::with(name, Box::new(open))
    }

    /// Opens a database by `open`, which is called again after every failure.
    pub(crate) fn with(name: String, open: Open) -> Result<Self, StoreError> {
        let database = open_caught(&open);
        let file = Self {
            name,
            open,
            opened: RwLock::new(Opened { database: None, generation: 1 }),
            writer: Mutex::new(()),
        };
        let database = database.map_err(|fault| file.describe(fault))?;
        file.opened.write().unwrap_or_else(PoisonError::into_inner).database = Some(database);
        Ok(file)
    }

    /// Reads in one consistent state; once more after opening again if that is what it takes.
    pub(crate) fn read<T>(
        &self,
        work: impl Fn(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let (generation, result) = self.try_read(&work);
        match result {
            Err(fault) if fault.is_fatal() => {
                drop(self.reopen(self.lock_writer(), generation)?);
                self.try_read(&work).1
            }
            result => result,
        }
        .map_err(|fault| self.describe(fault))
    }

    /// Runs `work` in one durable transaction.
    ///
    /// # Errors
    /// After [`StoreError::Io`] all of it or nothing of it has happened. `work` may run twice.
    pub(crate) fn write<T>(
        &self,
        work: impl Fn(&WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let mut writer = self.lock_writer();
        let (generation, mut result) = self.try_write(&work);
        if result.as_ref().is_err_and(Fault::is_stale) {
            writer = self.reopen(writer, generation)?;
            result = self.try_write(&work).1;
        }
        if result.as_ref().is_err_and(Fault::is_fatal) {
            let generation = self.generation();
            if let Err(error) = self.reopen(writer, generation) {
                warn!(file = self.name, %error, "cannot open again after a failed write");
            }
        }
        result.map_err(|fault| self.describe(fault))
    }

    /// Gives unused space back to the file system; takes as long as copying what is in use.
    pub(crate) fn shrink(&self) -> Result<(), StoreError> {
        let _writer = self.lock_writer();
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        match &mut opened.database {
            Some(database) => {
                database.compact().map_err(|error| self.describe(error.into()))?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// An error about the whole file.
    pub(crate) fn damaged(&self) -> StoreError {
        StoreError::Damaged(self.name.clone())
    }

    fn try_read<T>(&self, work: impl Fn(&ReadTransaction) -> Result<T, Fault>) -> (u64, Result<T, Fault>) {
        let (generation, transaction) = self.begin(Database::begin_read);
        // redb trusts what its pages say; a damaged page may make it panic.
        let result = transaction.and_then(|transaction| {
            catch_unwind(AssertUnwindSafe(|| work(&transaction)))
                .unwrap_or_else(|_| Err(self.damaged().into()))
        });
        (generation, result)
    }

    fn try_write<T>(&self, work: impl Fn(&WriteTransaction) -> Result<T, Fault>) -> (u64, Result<T, Fault>) {
        let (generation, transaction) = self.begin(Database::begin_write);
        let result = transaction.and_then(|transaction| {
            catch_unwind(AssertUnwindSafe(|| {
                let value = work(&transaction)?;
                transaction.commit()?;
                Ok(value)
            }))
            .unwrap_or_else(|_| Err(self.damaged().into()))
        });
        (generation, result)
    }

    fn begin<T>(
        &self,
        begin: impl FnOnce(&Database) -> Result<T, redb::TransactionError>,
    ) -> (u64, Result<T, Fault>) {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let transaction = match &opened.database {
            Some(database) => begin(database).map_err(Fault::from),
            None => Err(Fault::Redb(redb::Error::DatabaseClosed)),
        };
        (opened.generation, transaction)
    }

    /// Opens again unless another thread has done it since `generation`.
    fn reopen<'a>(
        &'a self,
        writer: MutexGuard<'a, ()>,
        generation: u64,
    ) -> Result<MutexGuard<'a, ()>, StoreError> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.generation == generation || opened.database.is_none() {
            opened.database = None;
            opened.generation += 1;
            opened.database = Some(open_caught(&self.open).map_err(|fault| self.describe(fault))?);
        }
        Ok(writer)
    }

    fn generation(&self) -> u64 {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).generation
    }

    fn lock_writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self, fault: Fault) -> StoreError {
        match fault {
            Fault::Store(error) => error,
            Fault::Redb(redb::Error::Corrupted(detail)) => {
                warn!(file = self.name, detail, "the file is damaged");
                self.damaged()
            }
            Fault::Redb(error) => StoreError::Io(format!("{}: {error}", self.name)),
        }
    }
}

impl fmt::Debug for RedbFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbFile").field("name", &self.name).finish_non_exhaustive()
    }
}

fn open_caught(open: &Open) -> Result<Database, Fault> {
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(database) => Ok(database?),
        Err(_) => Err(Fault::Redb(redb::Error::Corrupted("redb panicked on it".into()))),
    }
}

fn open_file(path: &Path, cache_bytes: usize, is_again: bool) -> Result<Database, DatabaseError> {
    let is_new = !path.exists();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if is_again {
        // After a failed fsync the kernel takes pages for clean that never reached the disk
        // (https://lwn.net/Articles/752063/). Reading them back from the disk shows what is there.
        fadvise(&file, 0, None, Advice::DontNeed).map_err(io::Error::from)?;
    }
    let database = Database::builder().set_cache_size(cache_bytes).create_file(file)?;
    if is_new {
        sync_parent(path)?;
    }
    Ok(database)
}

/// Makes a new file's name durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    File::open(parent)?.sync_all()
}
