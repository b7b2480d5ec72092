//! Writable directories over layers: containers' roots, and the scratch spaces of builds.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use cirro_sys::quota;
use cirro_types::Digest;
use rustix::fs::{CWD, Mode, OFlags};

use crate::canonical;
use crate::confine::Tree;
use crate::error::{Context, ImageError, invalid};
use crate::layers::known;
use crate::library::{Inner, KnownImage, Library, State};
use crate::quota::UNSUPPORTED;
use crate::records::{Batch, RootRecord};

/// A container's writable root.
#[derive(Debug, Clone)]
pub struct ContainerRoot {
    /// Unpacked layers, the top one first.
    pub lower: Vec<PathBuf>,
    /// Takes the writes.
    pub upper: PathBuf,
    /// Overlayfs' work directory.
    pub work: PathBuf,
}

/// A layer in the build cache.
#[derive(Debug, Clone)]
pub struct CachedLayer {
    /// Its diff id.
    pub diff_id: Digest,
    /// Bytes of its files.
    pub size: u64,
    /// Whether an image has it too.
    pub shared: bool,
    /// When it was made, where the file system keeps such times.
    pub made: Option<SystemTime>,
}

impl Library {
    /// Makes (or finds) the writable root of a container over an image; the image's layers stay while it is there.
    pub fn create_root(&self, container: &str, image: &Digest) -> Result<ContainerRoot, ImageError> {
        self.create_bounded_root(container, image, None)
    }

    /// As [`Self::create_root`]; `limit` bounds the bytes that the container may write to it.
    ///
    /// # Errors
    /// [`ImageError::NotSupported`] where the file system keeps no project quotas.
    pub fn create_bounded_root(
        &self,
        container: &str,
        image: &Digest,
        limit: Option<u64>,
    ) -> Result<ContainerRoot, ImageError> {
        check_name(container)?;
        let mut state = self.inner.state();
        let dir = self.inner.root_dir(container);
        if let Some(root) = state.roots.get(container) {
            let lower = self.inner.lower_or_empty(&state, &root.layers)?;
            return Ok(ContainerRoot { lower, upper: dir.join("upper"), work: dir.join("work") });
        }
        let Some(found) = state.images.get(image) else {
            return Err(ImageError::NotFound(image.to_string()));
        };
        let record = RootRecord { image: *image, layers: found.config.rootfs.diff_ids.clone() };
        let lower = self.inner.lower_or_empty(&state, &record.layers)?;
        self.inner.make_writable(&lower[0], &dir, limit)?;
        let mut batch = Batch::default();
        batch.put_root(container, &record);
        if let Err(error) = self.inner.records.write(&batch) {
            self.inner.trash.discard(&dir);
            return Err(error);
        }
        state.roots.insert(container.to_owned(), record);
        Ok(ContainerRoot { lower, upper: dir.join("upper"), work: dir.join("work") })
    }

    /// Lists the containers that have a root.
    pub fn roots(&self) -> Vec<String> {
        self.inner.state().roots.keys().cloned().collect()
    }

    /// Removes a container's root; no error when there is none.
    pub fn remove_root(&self, container: &str) -> Result<(), ImageError> {
        check_name(container)?;
        let mut state = self.inner.state();
        if !state.roots.contains_key(container) {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.delete_root(container);
        self.inner.records.write(&batch)?;
        state.roots.remove(container);
        self.inner.trash.discard(&self.inner.root_dir(container));
        Ok(())
    }

    /// Returns the layers below a container's root, the lowest first.
    pub fn root_layers(&self, container: &str) -> Result<Vec<Digest>, ImageError> {
        match self.inner.state().roots.get(container) {
            Some(root) => Ok(root.layers.clone()),
            None => Err(ImageError::NotFound(format!("root of {container}"))),
        }
    }

    /// Returns the bytes of the layers below a container's root; 0 when it has none.
    pub fn root_size(&self, container: &str) -> Result<u64, ImageError> {
        let state = self.inner.state();
        let Some(root) = state.roots.get(container) else { return Ok(0) };
        root.layers.iter().map(|diff_id| Ok(known(&state, diff_id)?.record.size)).sum()
    }

    /// Opens scratch space for a new layer over layers (lowest first). Returns (key, root).
    pub fn open_layer(&self, below: &[Digest]) -> Result<(String, ContainerRoot), ImageError> {
        let key = self.inner.unique().to_string();
        let dir = self.inner.scratch_dir(&key);
        let mut state = self.inner.state();
        let lower = self.inner.lower_or_empty(&state, below)?;
        self.inner.make_writable(&lower[0], &dir, None)?;
        state.scratch.insert(key.clone(), below.to_vec());
        for diff_id in below {
            // Until an image has them the next step, or another stage, needs them.
            if let Some(since) = state.fresh.get_mut(diff_id) {
                *since = Instant::now();
            }
        }
        Ok((key, ContainerRoot { lower, upper: dir.join("upper"), work: dir.join("work") }))
    }

    /// Turns the scratch space's upper directory into a layer without copying; returns its diff id.
    ///
    /// Nothing may be mounted over it or write to it any more. On error the scratch space is as it was.
    pub fn commit_layer(&self, key: &str) -> Result<Digest, ImageError> {
        let dir = self.known_scratch(key)?;
        let temporary = self.inner.temporary()?;
        let at = || format!("commit layer {key}");
        let upper = dir.join("upper");
        let tree = Tree::open(&upper).context(at)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let recipe = rustix::fs::openat(CWD, temporary.path().join("recipe"), flags, mode).context(at)?;
        let unpacked = canonical::pack(&tree, recipe)?;
        drop(tree);
        let target = temporary.path().join("diff");
        fs::rename(&upper, &target).context(at)?;
        let pins = self.adopt(temporary, &unpacked)?;
        self.inner.state().fresh.insert(unpacked.diff_id, Instant::now());
        drop(pins);
        self.drop_layer(key)?;
        Ok(unpacked.diff_id)
    }

    /// Throws scratch space away.
    pub fn drop_layer(&self, key: &str) -> Result<(), ImageError> {
        let dir = self.known_scratch(key)?;
        self.inner.trash.discard(&dir);
        self.inner.state().scratch.remove(key);
        Ok(())
    }

    /// Returns the build cache's note under a key, if its layer is here.
    pub fn cached_layer(&self, key: &Digest) -> Result<Option<Digest>, ImageError> {
        let mut state = self.inner.state();
        let Some(diff_id) = self.inner.records.cached(key)? else { return Ok(None) };
        if !state.layers.contains_key(&diff_id) {
            return Ok(None);
        }
        state.fresh.insert(diff_id, Instant::now());
        Ok(Some(diff_id))
    }

    /// Lists the layers in the build cache, in the order of their digests.
    pub fn cached_layers(&self) -> Result<Vec<CachedLayer>, ImageError> {
        self.inner.cached_layers(&self.inner.state())
    }

    /// Notes a layer in the build cache.
    pub fn remember_layer(&self, key: &Digest, diff_id: &Digest) -> Result<(), ImageError> {
        let mut state = self.inner.state();
        let layer = known(&state, diff_id)?;
        let mut batch = Batch::default();
        if !layer.recorded {
            batch.put_layer(diff_id, &layer.record);
        }
        batch.put_cached(key, diff_id);
        self.inner.records.write(&batch)?;
        if let Some(layer) = state.layers.get_mut(diff_id) {
            layer.recorded = true;
        }
        Ok(())
    }

    /// Checks a key from outside before it becomes a part of a path.
    fn known_scratch(&self, key: &str) -> Result<PathBuf, ImageError> {
        match self.inner.state().scratch.contains_key(key) {
            true => Ok(self.inner.scratch_dir(key)),
            false => invalid(format!("no scratch space `{key}`")),
        }
    }
}

impl Inner {
    /// Lists the layers in the build cache, in the order of their digests.
    pub(crate) fn cached_layers(&self, state: &State) -> Result<Vec<CachedLayer>, ImageError> {
        let cached: BTreeSet<Digest> =
            self.records.cache()?.into_iter().map(|(_, diff_id)| diff_id).collect();
        let layer = |diff_id: Digest| {
            let size = state.layers.get(&diff_id)?.record.size;
            let has = |known: &KnownImage| known.config.rootfs.diff_ids.contains(&diff_id);
            let made = self.layer_dir(&diff_id).metadata().and_then(|metadata| metadata.created()).ok();
            Some(CachedLayer { diff_id, size, shared: state.images.values().any(has), made })
        };
        Ok(cached.into_iter().filter_map(layer).collect())
    }

    /// Makes `upper` and `work` below `dir`, whole or not at all. The new root looks like the one below it.
    fn make_writable(&self, lower: &Path, dir: &Path, limit: Option<u64>) -> Result<(), ImageError> {
        let at = || format!("make `{}`", dir.display());
        let temporary = self.temporary()?;
        let (upper, work) = (temporary.path().join("upper"), temporary.path().join("work"));
        fs::create_dir(&upper).context(at)?;
        fs::create_dir(&work).context(at)?;
        let like = fs::metadata(lower).context(at)?;
        std::os::unix::fs::chown(&upper, Some(like.uid()), Some(like.gid())).context(at)?;
        let mode = if lower == self.dir.join("empty") { 0o755 } else { like.mode() & 0o7777 };
        fs::set_permissions(&upper, fs::Permissions::from_mode(mode)).context(at)?;
        if let Some(limit) = limit {
            let bounded = self.projects.bound(&self.dir.join("roots"), &[&upper, &work], limit);
            bounded.map_err(|error| match quota::is_unsupported(&error) {
                true => ImageError::NotSupported(UNSUPPORTED.into()),
                false => ImageError::Io {
                    context: format!("bound the size of `{}`", dir.display()),
                    source: error,
                },
            })?;
        }
        fs::rename(temporary.path(), dir).context(at)
    }
}

/// A container's id becomes the name of a directory.
fn check_name(container: &str) -> Result<(), ImageError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let sound = container.bytes().all(word)
        && container.bytes().next().is_some_and(|first| first != b'.')
        && container.len() <= 128;
    if sound { Ok(()) } else { invalid(format!("`{container}` cannot be the name of a container's root")) }
}
