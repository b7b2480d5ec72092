//! Brings images in: docker archives, OCI layouts, root filesystem tars.
//!
//! ## Theory of operation
//! ```text
//! archive ─▶ spool (members as files, any order) ─▶ plan: documents read and checked
//!         ─▶ layers unpacked, two at a time, those that are here left alone ─▶ one record of everything
//! ```
//! Nothing but files in a temporary directory is written before every document of the archive was found
//! sound, and nothing can be seen of the images before all of their layers are in.

mod docker;
mod oci;
mod spool;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cirro_types::{Digest, HistoryEntry, ImageConfig, ImageReference};

use crate::error::{Context, ImageError, invalid, reading};
use crate::hash::Hasher;
use crate::images::{Moved, NewImage};
use crate::layers::Pins;
use crate::library::Library;
use crate::unpack::{Unpacked, unpack};
use cirro_compression::decompress;
use spool::Spool;

/// Layers that are unpacked at the same time.
const WORKERS: usize = 2;

/// What an archive brought.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image.
    pub id: Digest,
    /// Its names, if the archive had some.
    pub tags: Vec<ImageReference>,
}

/// An image of an archive whose documents were found sound.
struct Planned {
    image: NewImage,
    /// One for each diff id, the lowest first.
    layers: Vec<PlannedLayer>,
}

/// Where a layer's bytes are, maybe compressed.
#[derive(Clone)]
struct PlannedLayer {
    member: Vec<u8>,
    /// What the manifest says of the bytes as they are in the archive.
    blob: Option<Digest>,
}

impl Library {
    /// Loads a docker or OCI archive (maybe compressed). `progress` gets docker's lines, without line ends.
    ///
    /// On error nothing of the archive is kept.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        progress: &mut dyn FnMut(String),
    ) -> Result<Vec<Loaded>, ImageError> {
        let limits = &self.inner.limits;
        let spool = Spool::read(archive, self.inner.temporary()?, limits)?;
        let planned = if spool.has(docker::MANIFEST) {
            docker::plan(&spool, limits)?
        } else if spool.has(oci::INDEX) {
            oci::plan(&spool, limits)?
        } else if spool.has(b"repositories") {
            return invalid("archives of docker before 1.10 are not supported: they have no manifest.json");
        } else {
            return invalid("not an image archive: neither manifest.json nor index.json is in it");
        };
        let pins = self.unpack_layers(&spool, &planned)?;
        drop(spool);
        let images: Vec<_> = planned.into_iter().map(|planned| planned.image).collect();
        let loaded: Vec<_> =
            images.iter().map(|image| Loaded { id: image.id, tags: image.tags.clone() }).collect();
        let moved = self.record(images)?;
        drop(pins);
        report(&loaded, &moved, progress);
        Ok(loaded)
    }

    /// Imports a root filesystem tar as an image of one layer.
    pub fn import(
        &self,
        tar: &mut dyn Read,
        mut config: ImageConfig,
        tag: Option<&ImageReference>,
    ) -> Result<Digest, ImageError> {
        let temporary = self.inner.temporary()?;
        let (mut plain, gauge) = decompress(tar).map_err(|error| reading("archive", error))?;
        let unpacked = unpack(&mut plain, &gauge, &self.inner.limits, temporary.path())?;
        drop(plain);
        let pins = self.adopt(temporary, &unpacked)?;
        complete(&mut config, unpacked.diff_id);
        let id = self.put_image(&config, &tag.cloned().into_iter().collect::<Vec<_>>())?;
        drop(pins);
        Ok(id)
    }

    /// Unpacks the layers that are not here, each once.
    fn unpack_layers(&self, spool: &Spool, planned: &[Planned]) -> Result<Vec<Pins>, ImageError> {
        let mut wanted: HashMap<Digest, &PlannedLayer> = HashMap::new();
        for planned in planned {
            for (diff_id, layer) in planned.image.config.rootfs.diff_ids.iter().zip(&planned.layers) {
                wanted.entry(*diff_id).or_insert(layer);
            }
        }
        let wanted: Vec<_> = wanted.into_iter().collect();
        let next = AtomicUsize::new(0);
        let done = Mutex::new((Vec::new(), None));
        let work = || {
            while let Some((diff_id, layer)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = self.ensure_layer(diff_id, &|dir: &Path| {
                    // A plain layer's blob is its tar, whose digest is computed anyway.
                    let blob = layer.blob.filter(|blob| blob != diff_id);
                    unpack_member(spool.open(&layer.member)?, blob, &self.inner.limits, dir)
                });
                let mut done = done.lock().expect("no holder panics");
                match result {
                    Ok(pins) => done.0.push(pins),
                    Err(error) => {
                        // Others need not begin; the first error is the one that is told.
                        next.store(wanted.len(), Ordering::Relaxed);
                        done.1.get_or_insert(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..WORKERS.min(wanted.len()) {
                scope.spawn(work);
            }
            work();
        });
        let (pins, error) = done.into_inner().expect("no holder panics");
        error.map_or(Ok(pins), Err)
    }
}

/// Unpacks one blob; its own digest is checked over the same bytes.
pub(crate) fn unpack_member(
    file: File,
    blob: Option<Digest>,
    limits: &crate::Limits,
    dir: &Path,
) -> Result<Unpacked, ImageError> {
    let Some(expected) = blob else {
        let (mut plain, gauge) = decompress(file).map_err(|error| reading("layer", error))?;
        return unpack(&mut plain, &gauge, limits, dir);
    };
    let mut hashed = Hashed { inner: file, hasher: Hasher::new() };
    let unpacked = {
        let (mut plain, gauge) = decompress(&mut hashed).map_err(|error| reading("layer", error))?;
        unpack(&mut plain, &gauge, limits, dir)?
    };
    // A decoder stops at its end; what follows belongs to the blob too.
    std::io::copy(&mut hashed, &mut std::io::sink()).context(|| "read layer".into())?;
    let found = hashed.hasher.finish();
    if found != expected {
        return invalid(format!("blob {expected} has the digest {found}"));
    }
    Ok(unpacked)
}

struct Hashed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Reads an image's configuration and checks it against the layers that the archive has for it.
pub(crate) fn check_config(bytes: &[u8], layers: usize) -> Result<ImageConfig, ImageError> {
    let config: ImageConfig = serde_json::from_slice(bytes)
        .map_err(|error| ImageError::Invalid(format!("image configuration: {error}")))?;
    let expected = config.rootfs.diff_ids.len();
    if expected != layers {
        return invalid(format!(
            "invalid manifest, layers length mismatch: expected {expected}, got {layers}"
        ));
    }
    if !matches!(config.os.as_str(), "" | "linux") {
        return invalid(format!("image operating system \"{}\" cannot be used on this platform", config.os));
    }
    Ok(config)
}

/// Fills in what `docker import` does.
fn complete(config: &mut ImageConfig, diff_id: Digest) {
    let now = jiff::Timestamp::now().to_string();
    config.rootfs.diff_ids = vec![diff_id];
    if config.os.is_empty() {
        config.os = "linux".into();
    }
    if config.architecture.is_empty() {
        config.architecture = crate::ARCHITECTURE.into();
    }
    if config.history.is_empty() {
        let comment = Some("Imported from -".into());
        config.history.push(HistoryEntry { created: Some(now.clone()), comment, ..HistoryEntry::default() });
    }
    config.created.get_or_insert(now);
}

/// Tells what came, in docker's words.
fn report(loaded: &[Loaded], moved: &[Moved], progress: &mut dyn FnMut(String)) {
    for Moved { tag, from } in moved {
        progress(format!(
            "The image {} already exists, renaming the old one with ID {from} to empty string",
            tag.familiar()
        ));
    }
    for image in loaded {
        for tag in &image.tags {
            progress(format!("Loaded image: {}", tag.familiar()));
        }
        if image.tags.is_empty() {
            progress(format!("Loaded image ID: {}", image.id));
        }
    }
}
