//! Unpacked layers: each once, whoever brings it and however many do at the same time.

use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use cirro_sys::fail_point::fail_point;
use cirro_types::Digest;

use crate::confine::Tree;
use crate::error::{Context, ImageError, invalid};
use crate::library::{Inner, KnownLayer, Library, State, Temporary};
use crate::recipe;
use crate::records::LayerRecord;
use crate::unpack::Unpacked;

/// Keeps layers from collection while work that needs them goes on.
pub(crate) struct Pins {
    inner: Arc<Inner>,
    diff_ids: Vec<Digest>,
}

impl Pins {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self { inner: Arc::clone(inner), diff_ids: Vec::new() }
    }

    /// Pins one more, under the lock that showed that it is there.
    pub(crate) fn add(&mut self, state: &mut State, diff_id: Digest) {
        *state.pins.entry(diff_id).or_insert(0) += 1;
        self.diff_ids.push(diff_id);
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        for diff_id in &self.diff_ids {
            if let Some(count) = state.pins.get_mut(diff_id) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(diff_id);
                }
            }
        }
    }
}

impl Library {
    /// Returns the unpacked directories of layers given as diff ids (lowest first), the top one first.
    pub fn layer_dirs(&self, diff_ids: &[Digest]) -> Result<Vec<PathBuf>, ImageError> {
        self.inner.lower(&self.inner.state(), diff_ids)
    }

    /// Returns the size in bytes of each layer, in the order given.
    pub fn layer_sizes(&self, diff_ids: &[Digest]) -> Result<Vec<u64>, ImageError> {
        let state = self.inner.state();
        diff_ids.iter().map(|diff_id| Ok(known(&state, diff_id)?.record.size)).collect()
    }

    /// Keeps layers that are here until the pins are dropped.
    pub(crate) fn pin(&self, diff_ids: &[Digest]) -> Result<Pins, ImageError> {
        let mut pins = Pins::new(&self.inner);
        let mut state = self.inner.state();
        for diff_id in diff_ids {
            known(&state, diff_id)?;
            pins.add(&mut state, *diff_id);
        }
        drop(state);
        Ok(pins)
    }

    /// Has a layer unpacked by `unpack` unless it is here or someone else is at it; then waits for that one.
    ///
    /// Nobody waits while others wait for it, so two archives with the same layers in another order
    /// cannot lock each other up (CVE-2021-20291).
    pub(crate) fn ensure_layer(
        &self,
        diff_id: &Digest,
        unpack: &dyn Fn(&Path) -> Result<Unpacked, ImageError>,
    ) -> Result<Pins, ImageError> {
        let mut pins = Pins::new(&self.inner);
        let mut state = self.inner.state();
        loop {
            if state.layers.contains_key(diff_id) {
                pins.add(&mut state, *diff_id);
                return Ok(pins);
            }
            if state.arriving.insert(*diff_id) {
                break;
            }
            state = self.inner.arrival.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let arriving = Arriving { inner: &self.inner, diff_id };
        let temporary = self.inner.temporary()?;
        let unpacked = unpack(temporary.path())?;
        if unpacked.diff_id != *diff_id {
            return invalid(format!(
                "invalid diff ID for layer: expected \"{diff_id}\", got \"{}\"",
                unpacked.diff_id
            ));
        }
        let pins = self.adopt(temporary, &unpacked)?;
        drop(arriving);
        Ok(pins)
    }

    /// Takes an unpacked layer in; when it is here already the new one is dropped.
    pub(crate) fn adopt(&self, temporary: Temporary, unpacked: &Unpacked) -> Result<Pins, ImageError> {
        let mut pins = Pins::new(&self.inner);
        let mut state = self.inner.state();
        let diff_id = unpacked.diff_id;
        if let Entry::Vacant(vacant) = state.layers.entry(diff_id) {
            self.inner.place(temporary.path(), &diff_id)?;
            let record = LayerRecord::new(unpacked, &self.inner.boot);
            vacant.insert(KnownLayer { record, recorded: false });
        }
        pins.add(&mut state, diff_id);
        drop(state);
        Ok(pins)
    }
}

/// Ends a layer's arrival, however it ends.
struct Arriving<'a> {
    inner: &'a Inner,
    diff_id: &'a Digest,
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.inner.state().arriving.remove(self.diff_id);
        self.inner.arrival.notify_all();
    }
}

impl Inner {
    /// Moves a layer to its place.
    fn place(&self, from: &Path, diff_id: &Digest) -> Result<(), ImageError> {
        let at = || format!("take layer {diff_id} in");
        let to = self.layer_dir(diff_id);
        fail_point("image.layer.place").context(at)?;
        let placed = match fs::rename(from, &to) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                // An earlier removal did not get it out of the way.
                self.trash.discard(&to);
                fs::rename(from, &to).context(at)
            }
            other => other.context(at),
        };
        fail_point("image.layer.placed").context(at)?;
        placed
    }

    /// Lists the directories of layers, the top one first, down to one that hides all below it.
    pub(crate) fn lower(&self, state: &State, diff_ids: &[Digest]) -> Result<Vec<PathBuf>, ImageError> {
        let mut dirs: Vec<PathBuf> = Vec::with_capacity(diff_ids.len());
        let mut hidden = false;
        for diff_id in diff_ids.iter().rev() {
            let layer = known(state, diff_id)?;
            let dir = self.layer_dir(diff_id).join("diff");
            // Overlayfs refuses a directory that it was given already; the upper one has its effect.
            if !hidden && !dirs.contains(&dir) {
                dirs.push(dir);
            }
            hidden |= layer.record.opaque_root;
        }
        Ok(dirs)
    }

    /// As [`Self::lower`], but with an empty directory when there is none: overlayfs wants one.
    pub(crate) fn lower_or_empty(
        &self,
        state: &State,
        diff_ids: &[Digest],
    ) -> Result<Vec<PathBuf>, ImageError> {
        let mut dirs = self.lower(state, diff_ids)?;
        if dirs.is_empty() {
            dirs.push(self.dir.join("empty"));
        }
        Ok(dirs)
    }
}

/// Finds a layer.
pub(crate) fn known<'a>(state: &'a State, diff_id: &Digest) -> Result<&'a KnownLayer, ImageError> {
    match state.layers.get(diff_id) {
        Some(layer) => Ok(layer),
        None => invalid(format!("layer {diff_id} is not in the library")),
    }
}

/// Writes a layer's tar as it came; its digest is checked as it goes out.
pub(crate) fn write_tar(dir: &Path, diff_id: &Digest, out: &mut dyn io::Write) -> Result<(), ImageError> {
    let at = || format!("open layer {diff_id}");
    let tree = Tree::open(&dir.join("diff")).context(at)?;
    let displaced = Tree::open(&dir.join("displaced")).ok();
    let recipe = File::open(dir.join("recipe")).context(at)?;
    let (digest, _) = recipe::replay(recipe, &tree, displaced.as_ref(), out)?;
    if digest != *diff_id {
        return invalid(format!("layer {diff_id} is damaged: its contents give {digest}"));
    }
    Ok(())
}

/// Tells whether a layer's directory still gives its tar.
pub(crate) fn verify(dir: &Path, diff_id: &Digest) -> bool {
    write_tar(dir, diff_id, &mut io::sink()).is_ok()
}
