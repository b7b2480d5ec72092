//! The library's state: what is in memory, what is on the disk, and how both are brought together at start.
//!
//! ```text
//! <dir>/layers/<hex>/{diff,recipe,displaced}   unpacked layers, by diff id
//! <dir>/blobs/<hex>                            pulled layers, still compressed, by digest
//! <dir>/roots/<container>/{upper,work}         containers' writable roots
//! <dir>/scratch/<key>/{upper,work}             layers being built
//! <dir>/temporary/<n>                          half-done work
//! <dir>/trash/<n>                              what is being deleted
//! <dir>/empty                                  the lowest directory of an image without layers
//! ```
//! The records are the truth. Directories are made in `temporary`, renamed into place, then recorded; they are
//! removed the other way round. So whatever a crash left has no record, and is removed at the next start.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cirro_store::NodeDb;
use cirro_types::{Digest, ImageConfig, ImageReference};

use crate::blobs::KnownBlob;
use crate::confine::remove_tree;
use crate::error::{Context, ImageError};
use crate::layers::verify;
use crate::limits::Limits;
use crate::quota::Projects;
use crate::records::{Batch, LayerRecord, Records, RootRecord};
use crate::tables::Tables;
use crate::trash::Trash;

/// The library of one host. Cheap to clone.
#[derive(Clone)]
pub struct Library {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) records: Records,
    pub(crate) limits: Limits,
    /// Identifies this boot: what was written in an earlier one and not synced may be damaged.
    pub(crate) boot: String,
    state: Mutex<State>,
    /// A layer arrived, or did not.
    pub(crate) arrival: Condvar,
    names: AtomicU64,
    pub(crate) trash: Trash,
    pub(crate) projects: Projects,
}

/// An image in memory.
pub(crate) struct KnownImage {
    pub(crate) config: Arc<ImageConfig>,
    pub(crate) created_seconds: i64,
}

/// A layer in memory.
pub(crate) struct KnownLayer {
    pub(crate) record: LayerRecord,
    /// Whether the record was written.
    pub(crate) recorded: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) images: BTreeMap<Digest, KnownImage>,
    pub(crate) tags: BTreeMap<ImageReference, Digest>,
    pub(crate) layers: HashMap<Digest, KnownLayer>,
    pub(crate) blobs: HashMap<Digest, KnownBlob>,
    pub(crate) roots: BTreeMap<String, RootRecord>,
    /// Scratch spaces: the layers below each.
    pub(crate) scratch: HashMap<String, Vec<Digest>>,
    /// Layers that someone unpacks right now.
    pub(crate) arriving: HashSet<Digest>,
    /// Layers that work in progress needs, with the number of needs.
    pub(crate) pins: HashMap<Digest, usize>,
    /// Layers that a build made or found, and that no image has yet.
    pub(crate) fresh: HashMap<Digest, Instant>,
}

impl Library {
    /// Opens the library below `dir`; finishes or undoes what a crash left.
    pub fn open(dir: &Path, db: Arc<dyn NodeDb>) -> Result<Self, ImageError> {
        Self::open_with(dir, db, Limits::default())
    }

    /// Opens the library with other limits than the usual.
    pub fn open_with(dir: &Path, db: Arc<dyn NodeDb>, limits: Limits) -> Result<Self, ImageError> {
        let dir = std::path::absolute(dir).context(|| format!("find `{}`", dir.display()))?;
        for name in ["", "layers", "blobs", "roots", "scratch", "temporary", "trash", "empty"] {
            make_private(&dir.join(name))?;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context(|| "read boot id".into())?;
        let inner = Inner {
            trash: Trash::open(dir.join("trash"))?,
            dir,
            records: Records(Tables(db)),
            limits,
            boot: boot.trim().to_owned(),
            state: Mutex::default(),
            arrival: Condvar::new(),
            names: AtomicU64::new(0),
            projects: Projects::default(),
        };
        inner.recover()?;
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Library {
    /// Returns the bounds on what comes from outside.
    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is made whole under the lock, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("layers").join(diff_id.hex())
    }

    pub(crate) fn root_dir(&self, container: &str) -> PathBuf {
        self.dir.join("roots").join(container)
    }

    pub(crate) fn scratch_dir(&self, key: &str) -> PathBuf {
        self.dir.join("scratch").join(key)
    }

    /// Returns a number that no other piece of work of this process has.
    pub(crate) fn unique(&self) -> u64 {
        self.names.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes a directory that is removed again unless it is moved away.
    pub(crate) fn temporary(&self) -> Result<Temporary, ImageError> {
        let path = self.dir.join("temporary").join(self.unique().to_string());
        make_private(&path)?;
        Ok(Temporary { path })
    }

    fn recover(&self) -> Result<(), ImageError> {
        let mut state = self.state();
        self.read_records(&mut state)?;
        self.drop_lost(&mut state)?;
        let known: HashSet<String> = state.layers.keys().map(Digest::hex).collect();
        let mut leftovers = self.strangers("layers", |name| known.contains(name))?;
        let blobs: HashSet<String> = state.blobs.keys().map(Digest::hex).collect();
        leftovers.extend(self.strangers("blobs", |name| blobs.contains(name))?);
        leftovers.extend(self.strangers("roots", |name| state.roots.contains_key(name))?);
        for name in ["scratch", "temporary"] {
            leftovers.extend(self.strangers(name, |_| false)?);
        }
        leftovers.iter().for_each(|path| self.trash.discard(path));
        Ok(())
    }

    fn read_records(&self, state: &mut State) -> Result<(), ImageError> {
        for (id, record, config) in self.records.images()? {
            let created_seconds = record.created_seconds;
            state.images.insert(id, KnownImage { config: Arc::new(config), created_seconds });
        }
        state.tags = self.records.tags()?.into_iter().collect();
        state.roots = self.records.roots()?.into_iter().collect();
        for (diff_id, record) in self.records.layers()? {
            state.layers.insert(diff_id, KnownLayer { record, recorded: true });
        }
        for (digest, blob) in self.records.blobs()? {
            state.blobs.insert(digest, KnownBlob { blob, recorded: true });
        }
        Ok(())
    }

    /// Forgets layers and roots whose directories are gone, and layers that a power cut damaged.
    fn drop_lost(&self, state: &mut State) -> Result<(), ImageError> {
        let mut batch = Batch::default();
        state.layers.retain(|diff_id, known| {
            let sound = self.is_sound(diff_id, &known.record);
            if !sound {
                tracing::warn!(layer = %diff_id, "layer is lost or damaged; load its image again");
                batch.delete_layer(diff_id);
            }
            sound
        });
        state.roots.retain(|container, _| {
            let there = self.root_dir(container).is_dir();
            if !there {
                tracing::warn!(%container, "a container's root is lost");
                batch.delete_root(container);
            }
            there
        });
        self.drop_lost_blobs(state, &mut batch);
        if batch.is_empty() { Ok(()) } else { self.records.write(&batch) }
    }

    fn is_sound(&self, diff_id: &Digest, record: &LayerRecord) -> bool {
        let dir = self.layer_dir(diff_id);
        match &record.unsynced {
            Some(boot) if *boot != self.boot => verify(&dir, diff_id),
            _ => dir.join("diff").is_dir(),
        }
    }

    /// Lists what is in a directory of ours and not known.
    fn strangers(&self, name: &str, known: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, ImageError> {
        let dir = self.dir.join(name);
        let at = || format!("list `{}`", dir.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).context(at)? {
            let entry = entry.context(at)?;
            if !entry.file_name().to_str().is_some_and(&known) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}

/// A directory that is deleted when it is dropped.
pub(crate) struct Temporary {
    path: PathBuf,
}

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove temporary directory");
        }
    }
}

/// Makes a directory that only root enters: what is below may be anything, set-user-id programs included.
pub(crate) fn make_private(path: &Path) -> Result<(), ImageError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .context(|| format!("make `{}`", path.display()))
}
