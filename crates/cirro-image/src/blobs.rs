//! Layers as registries have them: compressed, kept so that what was pulled is pushed with the same digests.
//!
//! A blob lives as long as the layer that it becomes. Its file is made in `temporary` and renamed into place;
//! it is recorded with the image that brought it, when its bytes are on the disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use cirro_sys::fail_point::fail_point;
use cirro_types::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Context, ImageError, invalid};
use crate::library::{Inner, Library, State};
use crate::records::Batch;

/// Repositories that are remembered of one blob.
const MAX_SOURCES: usize = 32;

/// What is known of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Length of the compressed bytes.
    pub size: u64,
    /// What kind of layer it is.
    pub media_type: String,
    /// The layer that it becomes.
    pub diff_id: Digest,
    /// Repositories, with their registry, that are known to have it.
    #[serde(default)]
    pub sources: Vec<String>,
}

/// A blob in memory.
pub(crate) struct KnownBlob {
    pub(crate) blob: Blob,
    /// Whether the record was written.
    pub(crate) recorded: bool,
}

impl Library {
    /// Returns what is known of a blob.
    pub fn blob(&self, digest: &Digest) -> Option<Blob> {
        self.inner.state().blobs.get(digest).map(|known| known.blob.clone())
    }

    /// Lists the blobs that become a layer.
    pub fn blobs_of(&self, diff_id: &Digest) -> Vec<(Digest, Blob)> {
        let state = self.inner.state();
        let fitting = state.blobs.iter().filter(|(_, known)| known.blob.diff_id == *diff_id);
        fitting.map(|(digest, known)| (*digest, known.blob.clone())).collect()
    }

    /// Opens a blob's file; its length is that of the record.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        let Some(blob) = self.blob(digest) else {
            return invalid(format!("blob {digest} is not in the library"));
        };
        let at = || format!("open blob {digest}");
        let file = File::open(self.inner.blob_path(digest)).context(at)?;
        if file.metadata().context(at)?.len() != blob.size {
            return invalid(format!("blob {digest} is damaged: its length is not {}", blob.size));
        }
        Ok(file)
    }

    /// Returns the manifest that an image was pulled by: its media type and its exact text.
    pub fn manifest(&self, image: &Digest) -> Result<Option<(String, String)>, ImageError> {
        let record = self.inner.records.manifest(image)?;
        Ok(record.map(|record| (record.media_type, record.document)))
    }

    /// Takes the file at `from` in as a blob whose digest was checked. It is recorded with the next image that
    /// has its layer.
    pub fn adopt_blob(&self, from: &Path, digest: &Digest, blob: Blob) -> Result<(), ImageError> {
        let mut state = self.inner.state();
        if !state.layers.contains_key(&blob.diff_id) {
            return invalid(format!("layer {} is not in the library", blob.diff_id));
        }
        if !state.blobs.contains_key(digest) {
            let at = || format!("take blob {digest} in");
            fail_point("image.blob.place").context(at)?;
            fs::rename(from, self.inner.blob_path(digest)).context(at)?;
            fail_point("image.blob.placed").context(at)?;
            state.blobs.insert(*digest, KnownBlob { blob, recorded: false });
        }
        Ok(())
    }

    /// Records a blob whose bytes are on the disk.
    pub(crate) fn record_blob(&self, digest: &Digest) -> Result<(), ImageError> {
        let mut state = self.inner.state();
        let Some(known) = state.blobs.get_mut(digest) else { return Ok(()) };
        let mut batch = Batch::default();
        batch.put_blob(digest, &known.blob);
        self.inner.records.write(&batch)?;
        known.recorded = true;
        Ok(())
    }

    /// Notes that a repository (with its registry) has a blob.
    pub fn note_source(&self, digest: &Digest, source: &str) -> Result<(), ImageError> {
        let mut state = self.inner.state();
        let Some(known) = state.blobs.get_mut(digest) else { return Ok(()) };
        if known.blob.sources.iter().any(|known| known == source) {
            return Ok(());
        }
        if known.blob.sources.len() >= MAX_SOURCES {
            known.blob.sources.remove(0);
        }
        known.blob.sources.push(source.to_owned());
        if !known.recorded {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put_blob(digest, &known.blob);
        self.inner.records.write(&batch)
    }
}

impl Inner {
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.hex())
    }

    /// Forgets blobs whose file or layer is gone.
    pub(crate) fn drop_lost_blobs(&self, state: &mut State, batch: &mut Batch) {
        let layers = &state.layers;
        state.blobs.retain(|digest, known| {
            let length = fs::metadata(self.blob_path(digest)).map(|file| file.len()).ok();
            let sound = length == Some(known.blob.size) && layers.contains_key(&known.blob.diff_id);
            if !sound {
                batch.delete_blob(digest);
            }
            sound
        });
    }

    /// Takes the blobs of layers that go out of the state; returns their digests and bytes.
    pub(crate) fn drop_blobs(&self, state: &mut State, gone: impl Fn(&Digest) -> bool) -> u64 {
        let mut bytes = 0;
        state.blobs.retain(|digest, known| {
            if !gone(&known.blob.diff_id) {
                return true;
            }
            bytes += known.blob.size;
            self.trash.discard(&self.blob_path(digest));
            false
        });
        bytes
    }
}
