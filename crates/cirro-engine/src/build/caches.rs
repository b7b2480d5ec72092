//! The directories of `RUN --mount=type=cache`: they outlive builds and belong to no image.
//!
//! A cache's id is hashed to a directory below `build-caches`. A private cache that is in use gives way to a second
//! one (`<hash>.1`, and so on), which stays and is used again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use cirro_seams::build::{CacheSpace, Sharing};
use cirro_types::Digest;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::containers::changes::size_of;
use crate::containers::create::remove_dir;
use crate::error::{EngineError, io};

/// Directories of one private cache that is used by many steps at once.
const MAX_TWINS: u32 = 64;

/// The caches of this host.
#[derive(Debug)]
pub(crate) struct BuildCaches {
    root: PathBuf,
    /// A lock per directory: shared use reads, private and locked use writes.
    locks: Mutex<HashMap<String, Arc<RwLock<()>>>>,
}

/// A cache in use.
struct Lease {
    path: PathBuf,
    is_new: bool,
    _held: Held,
}

enum Held {
    Shared { _guard: OwnedRwLockReadGuard<()> },
    Alone { _guard: OwnedRwLockWriteGuard<()> },
}

impl CacheSpace for Lease {
    fn path(&self) -> &Path {
        &self.path
    }

    fn is_new(&self) -> bool {
        self.is_new
    }
}

impl BuildCaches {
    /// Keeps caches in `root`.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, locks: Mutex::default() }
    }

    /// Opens the cache of an id; waits as `sharing` says.
    pub(crate) async fn open(&self, id: &str, sharing: Sharing) -> Result<Box<dyn CacheSpace>, EngineError> {
        let name = Digest::of(id.as_bytes()).hex();
        let (name, held) = match sharing {
            Sharing::Shared => {
                let guard = self.lock(&name).read_owned().await;
                (name, Held::Shared { _guard: guard })
            }
            Sharing::Locked => {
                let guard = self.lock(&name).write_owned().await;
                (name, Held::Alone { _guard: guard })
            }
            Sharing::Private => self.first_free(&name)?,
        };
        let path = self.root.join(name);
        std::fs::create_dir_all(&self.root).map_err(io(format!("make {}", self.root.display())))?;
        let is_new = match std::fs::create_dir(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(io(format!("make {}", path.display()))(error)),
        };
        Ok(Box::new(Lease { path, is_new, _held: held }))
    }

    /// Removes the caches that no step uses and whose last change `wanted` takes; returns the bytes given back.
    pub(crate) fn prune(&self, wanted: &dyn Fn(SystemTime) -> bool) -> Result<u64, EngineError> {
        let mut bytes = 0;
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(io(format!("read {}", self.root.display()))(error)),
        };
        for entry in entries {
            let entry = entry.map_err(io(format!("read {}", self.root.display())))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let changed = entry.metadata().and_then(|metadata| metadata.modified());
            let changed = changed.map_err(io(format!("look at {}", entry.path().display())))?;
            if wanted(changed)
                && let Ok(_alone) = self.lock(&name).try_write_owned()
            {
                bytes += size_of(&entry.path());
                remove_dir(&entry.path())?;
            }
        }
        Ok(bytes)
    }

    fn first_free(&self, name: &str) -> Result<(String, Held), EngineError> {
        for twin in 0..MAX_TWINS {
            let name = if twin == 0 { name.to_owned() } else { format!("{name}.{twin}") };
            if let Ok(guard) = self.lock(&name).try_write_owned() {
                return Ok((name, Held::Alone { _guard: guard }));
            }
        }
        Err(EngineError::Failed(format!("a private cache mount is in use {MAX_TWINS} times")))
    }

    fn lock(&self, name: &str) -> Arc<RwLock<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Locks that nobody holds are forgotten, so that ids of old builds do not gather.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(name.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(lease: &dyn CacheSpace) -> PathBuf {
        lease.path().to_owned()
    }

    #[tokio::test]
    async fn shared_caches_are_one_and_private_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let caches = BuildCaches::new(dir.path().join("caches"));
        let first = caches.open("/root/.npm", Sharing::Shared).await.unwrap();
        let second = caches.open("/root/.npm", Sharing::Shared).await.unwrap();
        assert!(first.is_new() && !second.is_new());
        assert_eq!(path(&*first), path(&*second));
        let other = caches.open("../../etc", Sharing::Shared).await.unwrap();
        assert_eq!(path(&*other).parent(), path(&*first).parent());
        let mine = caches.open("p", Sharing::Private).await.unwrap();
        let twin = caches.open("p", Sharing::Private).await.unwrap();
        assert_ne!(path(&*mine), path(&*twin));
        let free = path(&*mine);
        drop(mine);
        assert_eq!(path(&*caches.open("p", Sharing::Private).await.unwrap()), free);
    }

    #[tokio::test]
    async fn a_locked_cache_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let caches = BuildCaches::new(dir.path().to_owned());
        let first = caches.open("x", Sharing::Locked).await.unwrap();
        let waiting = caches.open("x", Sharing::Locked);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(first);
        assert!(!waiting.await.unwrap().is_new());
    }

    #[tokio::test]
    async fn pruning_leaves_what_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let caches = BuildCaches::new(dir.path().to_owned());
        let used = caches.open("used", Sharing::Shared).await.unwrap();
        let idle = path(&*caches.open("idle", Sharing::Shared).await.unwrap());
        assert_eq!(caches.prune(&|_| false).unwrap(), 0);
        caches.prune(&|_| true).unwrap();
        assert!(used.path().exists() && !idle.exists());
    }
}
