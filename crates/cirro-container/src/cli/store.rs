//! The containers' records, one directory each below the root: made by one call, found by the next.
//!
//! ```text
//!  ROOT/ID/lock        held by whoever changes the container
//!  ROOT/ID/state.json  the record, replaced by renaming, so that readers need no lock
//!  ROOT/ID/bundle …    what the runtime keeps (see `WorkloadDirectory`)
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::error::CliError;
use super::record::Record;
use crate::runtime::WorkloadDirectory;

/// Records are a few kilobytes; annotations may make them larger.
const MAX_RECORD: u64 = 16 << 20;

/// All containers below one root.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
}

/// A container whose lock is held.
#[derive(Debug)]
pub(super) struct Locked {
    pub(super) directory: WorkloadDirectory,
    lock: File,
}

impl Store {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the directory of a new container and locks it.
    pub(super) fn make(&self, id: &str) -> Result<Locked, CliError> {
        check_id(id)?;
        let directory = WorkloadDirectory::new(&self.root, id);
        let make = |path: &Path, recursive| DirBuilder::new().mode(0o700).recursive(recursive).create(path);
        let write = |path: &Path| {
            let path = path.to_owned();
            move |source| CliError::Write { path, source }
        };
        make(&self.root, true).map_err(write(&self.root))?;
        match make(directory.path(), false) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(CliError::Exists),
            other => other.map_err(write(directory.path()))?,
        }
        let locked = lock(directory)?;
        let places = &locked.directory;
        for path in [places.bundle(), places.bundle().join("rootfs"), places.runtime(), places.empty()] {
            make(&path, false).map_err(write(&path))?;
        }
        Ok(locked)
    }

    /// Locks a container that is there.
    pub(super) fn lock(&self, id: &str) -> Result<Locked, CliError> {
        check_id(id)?;
        let locked = lock(WorkloadDirectory::new(&self.root, id))?;
        // Whoever held the lock may have removed it.
        if locked.directory.path().exists() { Ok(locked) } else { Err(CliError::NotFound) }
    }

    /// Reads a container's record as it is now.
    pub(super) fn load(&self, id: &str) -> Result<Record, CliError> {
        check_id(id)?;
        load(&WorkloadDirectory::new(&self.root, id))
    }

    /// All containers that have a record, by name.
    pub(super) fn list(&self) -> Result<Vec<Record>, CliError> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|source| CliError::Read { path: self.root.clone(), source })?,
        };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        Ok(names.iter().filter_map(|id| self.load(id).ok()).collect())
    }
}

impl Locked {
    pub(super) fn load(&self) -> Result<Record, CliError> {
        load(&self.directory)
    }

    /// Replaces the record.
    pub(super) fn save(&self, record: &Record) -> Result<(), CliError> {
        let path = state_file(&self.directory);
        let bytes = serde_json::to_vec(record).expect("a record is plain data");
        write_atomically(&path, &bytes).map_err(|source| CliError::Write { path, source })
    }

    /// Lets others have the lock until [`regain`](Self::regain).
    pub(super) fn release(&self) -> Result<(), CliError> {
        set_lock(&self.lock, FlockOperation::Unlock)
    }

    pub(super) fn regain(&self) -> Result<(), CliError> {
        set_lock(&self.lock, FlockOperation::LockExclusive)
    }

    /// Forgets the container. Nothing to forget is fine: somebody else may have been first.
    pub(super) fn remove(self) -> Result<(), CliError> {
        let path = self.directory.path().to_owned();
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| CliError::Write { path, source }),
        }
    }
}

/// Writes a file beside the path and renames it.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let beside = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&beside)?;
    file.write_all(bytes)?;
    std::fs::rename(&beside, path)
}

/// Reads a file that may not be larger than `limit`.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(path)?, limit + 1), &mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

fn state_file(directory: &WorkloadDirectory) -> PathBuf {
    directory.path().join("state.json")
}

fn load(directory: &WorkloadDirectory) -> Result<Record, CliError> {
    let path = state_file(directory);
    match read_bounded(&path, MAX_RECORD) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(CliError::NotFound)
        }
        Err(source) => Err(CliError::Read { path, source }),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| CliError::Parse { path, source }),
    }
}

fn lock(directory: WorkloadDirectory) -> Result<Locked, CliError> {
    let path = directory.path().join("lock");
    let file = match OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(CliError::NotFound);
        }
        other => other.map_err(|source| CliError::Write { path, source })?,
    };
    set_lock(&file, FlockOperation::LockExclusive)?;
    Ok(Locked { directory, lock: file })
}

/// Locks for this process, not for the open file: what is forked from here on and waits for its start must not hold it.
fn set_lock(file: &File, operation: FlockOperation) -> Result<(), CliError> {
    loop {
        match rustix::fs::fcntl_lock(file, operation) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(|error| CliError::system("lock container")(error.into())),
        }
    }
}

/// An id becomes a file's name: letters, digits, `_`, `+`, `-`, `.`.
fn check_id(id: &str) -> Result<(), CliError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'-' | b'.');
    // A dot first is ours (`.empty`), and no caller's.
    let good = !id.is_empty() && id.len() <= 255 && !id.starts_with('.') && id.bytes().all(plain);
    if good { Ok(()) } else { Err(CliError::Usage(format!("invalid container ID format: {id:?}"))) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn record(id: &str) -> Record {
        Record {
            oci_version: "1.2.0".to_owned(),
            id: id.to_owned(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: crate::log::clock::now(),
            annotations: HashMap::new(),
            cgroup: "/x".to_owned(),
            process: None,
            started: false,
            owner: "root".to_owned(),
            own_pid_namespace: true,
            poststart: Vec::new(),
            poststop: Vec::new(),
        }
    }

    #[test]
    fn a_container_is_made_once_and_found_until_removed() {
        let root = tempfile::tempdir().expect("root");
        let store = Store::new(root.path().join("deep/root"));
        assert!(store.list().expect("list").is_empty());
        assert!(matches!(store.lock("one"), Err(CliError::NotFound)));
        let one = store.make("one").expect("make");
        assert!(matches!(store.load("one"), Err(CliError::NotFound)), "a record comes with the first save");
        one.save(&record("one")).expect("save");
        assert!(matches!(store.make("one"), Err(CliError::Exists)));
        assert_eq!(store.list().expect("list").len(), 1);
        one.remove().expect("remove");
        assert!(matches!(store.load("one"), Err(CliError::NotFound)));
        store.make("one").expect("make again");
    }

    #[test]
    fn an_id_is_no_path() {
        let store = Store::new("/nonexistent".into());
        for id in ["", ".", "..", "a/b", "../a", ".empty", "a b", "ä"] {
            assert!(matches!(store.make(id), Err(CliError::Usage(_))), "{id}");
            assert!(matches!(store.load(id), Err(CliError::Usage(_))), "{id}");
        }
    }
}
