//! Pulls an image: name, manifest, configuration, layers, record.
//!
//! ```text
//! tag ─▶ index ─▶ manifest ─▶ configuration ─┬▶ layer: download ─▶ growing file ─▶ unpack ─┐
//!                (by platform)               ├▶ layer: here already                       ├▶ one record
//!                                            └▶ …                                          ┘
//! ```
//! Documents are read and checked before the first layer is asked for. A layer is unpacked while it comes; what
//! it became is kept only when digest, size and diff id were right, and nothing is seen of the image before that.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use cirro_types::{Digest, ImageConfig, ImageReference};
use tokio::sync::Semaphore;
use tokio::sync::oneshot::Sender;
use tokio::task::JoinSet;

use super::download::download;
use super::error::RegistryError;
use super::growing::{Following, growing};
use super::progress::{Meter, ProgressSink};
use super::session::{Fetched, Session};
use crate::blobs::Blob;
use crate::document::{Descriptor, Document, Manifest, Platform};
use crate::error::{Context as _, ImageError, invalid, reading};
use crate::images::NewImage;
use crate::layers::Pins;
use crate::library::Library;
use crate::load::check_config;
use crate::media;
use crate::records::ManifestRecord;
use crate::unpack::{Unpacked, unpack};
use cirro_compression::decompress;

/// Layers that are fetched at the same time.
const AT_ONCE: usize = 3;
/// Tags that `--all-tags` takes.
pub(super) const MAX_TAGS: usize = 10_000;

/// What was pulled under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub id: Digest,
    /// Digest of what the name stands for, index or manifest.
    pub digest: Digest,
    /// The name.
    pub reference: ImageReference,
    /// Whether the name did not stand for this image before.
    pub newer: bool,
}

/// One pull on its way.
pub(super) struct Pull<'a> {
    pub(super) library: &'a Library,
    pub(super) session: Arc<Session>,
    pub(super) platform: Option<Platform>,
    pub(super) progress: &'a ProgressSink,
}

/// A manifest with the configuration that it names.
struct Chosen {
    fetched: Fetched,
    manifest: Manifest,
    config_bytes: Vec<u8>,
    config: Arc<ImageConfig>,
}

impl Pull<'_> {
    /// Pulls one name.
    pub(super) async fn one(&self, reference: &ImageReference) -> Result<Pulled, RegistryError> {
        let name = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".into()),
        };
        let limit = self.library.limits().document_bytes;
        let fetched = self.session.manifest(&name, limit).await?;
        self.progress.status(Some(&name), format!("Pulling from {}", reference.path));
        let digest = fetched.digest;
        let chosen = self.choose(fetched).await?;
        let id = chosen.manifest.config.digest;
        let pins = self.layers(&chosen).await?;
        let newer = !self.library.find(&reference.to_string()).is_ok_and(|image| image.id == id);
        let document = String::from_utf8(chosen.fetched.bytes.to_vec())
            .map_err(|_| RegistryError::Protocol("manifest: it is not UTF-8".into()))?;
        let media_type = chosen.fetched.media_type.clone().unwrap_or_else(|| media::OCI_MANIFEST.into());
        let pinned = ImageReference { tag: None, digest: Some(digest), ..reference.clone() };
        let tags = match &reference.digest {
            Some(_) => vec![pinned],
            None => vec![reference.clone(), pinned],
        };
        let image = NewImage {
            id,
            bytes: chosen.config_bytes,
            config: chosen.config,
            tags,
            manifest: Some(ManifestRecord { media_type, document }),
        };
        let library = self.library.clone();
        blocking(move || {
            library.record(vec![image])?;
            drop(pins);
            Ok(())
        })
        .await?;
        self.progress.status(None, format!("Digest: {digest}"));
        Ok(Pulled { id, digest, reference: reference.clone(), newer })
    }

    /// Goes from what a name stands for to one image's manifest and configuration.
    async fn choose(&self, mut fetched: Fetched) -> Result<Chosen, RegistryError> {
        let (limit, depth) = (self.library.limits().document_bytes, self.library.limits().index_depth);
        let wanted = self.platform.clone().unwrap_or_else(Platform::host);
        for _ in 0..=depth {
            match Document::parse(&fetched.bytes, fetched.media_type.as_deref())? {
                Document::Manifest(manifest) => return self.configuration(fetched, *manifest).await,
                Document::Index(list) => {
                    let next = pick(&list, &wanted)?;
                    fetched = self.session.manifest(&next.digest.to_string(), limit).await?;
                    let (stated, length) = (Some(next.media_type.clone()), fetched.bytes.len() as u64);
                    if length != next.size {
                        return Err(wrong_size(next, length));
                    }
                    if fetched.media_type.is_some() && fetched.media_type != stated {
                        return Err(RegistryError::Protocol(format!(
                            "manifest {}: it came as another type than its index says",
                            next.digest
                        )));
                    }
                    fetched.media_type = stated;
                }
            }
        }
        Err(ImageError::Invalid("index: indexes are nested too deep".into()).into())
    }

    async fn configuration(&self, fetched: Fetched, manifest: Manifest) -> Result<Chosen, RegistryError> {
        let limits = self.library.limits();
        if !media::is_config(&manifest.config.media_type) {
            let kind = crate::error::shown(manifest.config.media_type.as_bytes());
            return Err(RegistryError::Protocol(format!(
                "invalid reference: `{kind}` is no image configuration (an artifact that is not an image?)"
            )));
        }
        if manifest.layers.len() > limits.layers {
            let (count, limit) = (manifest.layers.len(), limits.layers);
            return Err(
                ImageError::Invalid(format!("max depth exceeded: {count} layers, at most {limit}")).into()
            );
        }
        for layer in &manifest.layers {
            if !media::is_layer(&layer.media_type) {
                let kind = crate::error::shown(layer.media_type.as_bytes());
                return Err(ImageError::Invalid(format!(
                    "manifest: layers of type `{kind}` are not supported"
                ))
                .into());
            }
            if layer.size > limits.layer_bytes {
                return Err(ImageError::Invalid(format!(
                    "layer {}: {} bytes are too many",
                    layer.digest, layer.size
                ))
                .into());
            }
        }
        let descriptor = &manifest.config;
        let bytes = self.session.document(&descriptor.digest, descriptor.size, limits.document_bytes).await?;
        let config = check_config(&bytes, manifest.layers.len())?;
        Ok(Chosen { fetched, manifest, config_bytes: bytes.to_vec(), config: Arc::new(config) })
    }

    /// Brings every layer in that is not here; returns what keeps them.
    async fn layers(&self, chosen: &Chosen) -> Result<Vec<Pins>, RegistryError> {
        if self.library.find(&chosen.manifest.config.digest.to_string()).is_ok()
            && let Ok(pins) = self.library.pin(&chosen.config.rootfs.diff_ids)
        {
            return Ok(vec![pins]);
        }
        let mut seen = HashSet::new();
        let layers = chosen.manifest.layers.iter().zip(&chosen.config.rootfs.diff_ids);
        // The same layer twice is one layer; which of its blobs comes does not matter.
        let layers: Vec<_> = layers.filter(|(_, diff_id)| seen.insert(**diff_id)).collect();
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut work = JoinSet::new();
        for (layer, _) in &layers {
            self.progress.layer(&layer.digest.short(), "Pulling fs layer");
        }
        for (layer, diff_id) in layers {
            let one = Layer {
                library: self.library.clone(),
                session: Arc::clone(&self.session),
                progress: self.progress.clone(),
                blob: layer.clone(),
                diff_id: *diff_id,
            };
            let permits = Arc::clone(&permits);
            work.spawn(async move {
                let _permit = permits.acquire_owned().await.map_err(|_| RegistryError::Cancelled)?;
                one.bring().await
            });
        }
        let mut pins = Vec::new();
        while let Some(done) = work.join_next().await {
            // The first failure ends the others: their tasks are dropped with `work`.
            pins.push(done.map_err(|_| RegistryError::Cancelled)??);
        }
        Ok(pins)
    }
}

/// One layer of a pull.
struct Layer {
    library: Library,
    session: Arc<Session>,
    progress: ProgressSink,
    blob: Descriptor,
    diff_id: Digest,
}

impl Layer {
    /// Downloads and unpacks the layer, unless it is here or someone else is at it.
    async fn bring(self) -> Result<Pins, RegistryError> {
        let id = self.blob.digest.short();
        let (library, diff_id, size) = (self.library.clone(), self.diff_id, self.blob.size);
        let temporary = {
            let library = library.clone();
            blocking(move || Ok(library.inner.temporary()?)).await?
        };
        let (filling, mut following) =
            growing(temporary.path().join("blob")).context(|| "make a file for a blob".into())?;
        // The download begins when the library says that the layer is needed.
        let (begin, begun) = tokio::sync::oneshot::channel::<()>();
        let work = Unpacking {
            library,
            diff_id,
            blob: self.blob.clone(),
            source: self.session.source(),
            meter: Meter::new(&self.progress, &id, "Extracting", size),
        };
        let mut unpacking = tokio::task::spawn_blocking(move || {
            let result = work.run(&mut following, begin);
            result.map_err(|error| (error, following.is_broken()))
        });
        let downloading = async {
            if begun.await.is_err() {
                // Nobody needs it any more.
                drop(filling);
                return Ok(());
            }
            download(&self.session, &self.blob, filling, &id, &self.progress).await
        };
        tokio::pin!(downloading);
        let unpacked = tokio::select! {
            unpacked = &mut unpacking => unpacked,
            downloaded = &mut downloading => {
                let unpacked = unpacking.await;
                downloaded?;
                unpacked
            }
        };
        drop(temporary);
        let (pins, came) = match unpacked.map_err(|_| RegistryError::Cancelled)? {
            Ok(done) => done,
            // What broke off is the reason, and that unpacking missed it follows from that.
            Err((error, true)) => return Err(downloading.await.err().unwrap_or(error.into())),
            // A layer that is refused is not fetched to its end.
            Err((error, false)) => return Err(error.into()),
        };
        self.progress.layer(&id, if came { "Pull complete" } else { "Already exists" });
        Ok(pins)
    }
}

/// The side of a layer's arrival that blocks.
struct Unpacking {
    library: Library,
    diff_id: Digest,
    blob: Descriptor,
    /// Where the blob comes from.
    source: String,
    meter: Meter,
}

impl Unpacking {
    /// Has the layer unpacked and keeps its blob; tells whether it came now or was here.
    fn run(self, following: &mut Following, begin: Sender<()>) -> Result<(Pins, bool), ImageError> {
        let path = following.path().to_owned();
        let (begin, following) = (RefCell::new(Some(begin)), RefCell::new(following));
        let pins = self.library.ensure_layer(&self.diff_id, &|dir| {
            if let Some(begin) = begin.take() {
                let _ = begin.send(());
            }
            self.unpack(&mut following.borrow_mut(), dir)
        })?;
        let came = begin.take().is_none();
        if came {
            let Descriptor { media_type, digest, size, .. } = self.blob;
            let blob = Blob { size, media_type, diff_id: self.diff_id, sources: vec![self.source] };
            self.library.adopt_blob(&path, &digest, blob)?;
        } else {
            self.library.note_source(&self.blob.digest, &self.source)?;
        }
        Ok((pins, came))
    }

    fn unpack(&self, following: &mut Following, dir: &Path) -> Result<Unpacked, ImageError> {
        let metered = Metered { inner: following, done: 0, meter: &self.meter };
        let (mut plain, gauge) = decompress(metered).map_err(|error| reading("layer", error))?;
        let unpacked = unpack(&mut plain, &gauge, self.library.limits(), dir)?;
        drop(plain);
        // A decoder stops at its end; what follows belongs to the blob too.
        if !following.wait() {
            return invalid("the layer did not come whole");
        }
        self.meter.end();
        Ok(unpacked)
    }
}

/// Tells how much was read.
struct Metered<'a> {
    inner: &'a mut Following,
    done: u64,
    meter: &'a Meter,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        self.meter.at(self.done);
        Ok(count)
    }
}

fn pick<'a>(list: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, RegistryError> {
    let fits = |descriptor: &&Descriptor| match &descriptor.platform {
        Some(platform) => wanted.accepts(platform),
        None => media::is_index(&descriptor.media_type) || media::is_manifest(&descriptor.media_type),
    };
    // One that says what it is for comes before one that does not.
    let stated = list.iter().find(|descriptor| descriptor.platform.is_some() && fits(descriptor));
    stated.or_else(|| list.iter().find(fits)).ok_or_else(|| {
        RegistryError::NotFound(format!("no matching manifest for {wanted} in the manifest list entries"))
    })
}

fn wrong_size(descriptor: &Descriptor, found: u64) -> RegistryError {
    let Descriptor { digest, size, .. } = descriptor;
    RegistryError::Protocol(format!("blob {digest} has {found} bytes, its descriptor says {size}"))
}

/// Runs work on the library where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RegistryError::Cancelled)?
}
