//! Images and their names.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use cirro_sys::fail_point::fail_point;
use cirro_types::{Digest, ImageConfig, ImageReference};

use crate::blobs::KnownBlob;
use crate::error::{Context, ImageError, invalid};
use crate::layers::known;
use crate::library::{Inner, KnownImage, Library, State};
use crate::records::{Batch, ImageRecord, ManifestRecord};

/// An image with its names.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration document.
    pub id: Digest,
    /// The configuration.
    pub config: Arc<ImageConfig>,
    /// Names.
    pub tags: Vec<ImageReference>,
    /// Bytes of its layers, unpacked.
    pub size: u64,
    /// When it came into this library, seconds since 1970.
    pub created_seconds: i64,
}

/// An image that is to be recorded.
pub(crate) struct NewImage {
    pub(crate) id: Digest,
    /// The document's exact bytes.
    pub(crate) bytes: Vec<u8>,
    pub(crate) config: Arc<ImageConfig>,
    /// Names; a pinned one says by which digest the image was pulled.
    pub(crate) tags: Vec<ImageReference>,
    /// The manifest that it was pulled by.
    pub(crate) manifest: Option<ManifestRecord>,
}

/// A name that moved from one image to another.
pub(crate) struct Moved {
    pub(crate) tag: ImageReference,
    pub(crate) from: Digest,
}

impl Library {
    /// Finds an image by name, id or unique id prefix.
    pub fn find(&self, name: &str) -> Result<Image, ImageError> {
        let state = self.inner.state();
        let id = find_id(&state, name)?;
        Ok(image(&state, &id, &state.images[&id]))
    }

    /// Lists every image, the newest first.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let state = self.inner.state();
        let mut images: Vec<_> = state.images.iter().map(|(id, known)| image(&state, id, known)).collect();
        images.sort_by(|a, b| b.created_seconds.cmp(&a.created_seconds).then(a.id.cmp(&b.id)));
        Ok(images)
    }

    /// Gives an image a name; another image loses it.
    pub fn tag(&self, id: &Digest, tag: &ImageReference) -> Result<(), ImageError> {
        check_tag(tag)?;
        let mut state = self.inner.state();
        if !state.images.contains_key(id) {
            return Err(ImageError::NotFound(id.to_string()));
        }
        let mut batch = Batch::default();
        batch.put_tag(tag, id);
        self.inner.records.write(&batch)?;
        state.tags.insert(tag.clone(), *id);
        Ok(())
    }

    /// Returns the exact bytes of an image's configuration.
    pub fn config_document(&self, id: &Digest) -> Result<Vec<u8>, ImageError> {
        self.inner.records.config(id)
    }

    /// Notes under which digest and by which manifest an image was pushed.
    pub(crate) fn note_pushed(
        &self,
        id: &Digest,
        pinned: &ImageReference,
        media_type: String,
        document: String,
    ) -> Result<(), ImageError> {
        let mut state = self.inner.state();
        if !state.images.contains_key(id) {
            // It was removed meanwhile.
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put_tag(pinned, id);
        batch.put_manifest(id, &ManifestRecord { media_type, document });
        self.inner.records.write(&batch)?;
        state.tags.insert(pinned.clone(), *id);
        Ok(())
    }

    /// Stores an image whose layers are in the library; returns its id.
    pub fn put_image(&self, config: &ImageConfig, tags: &[ImageReference]) -> Result<Digest, ImageError> {
        tags.iter().try_for_each(check_tag)?;
        let bytes = serde_json::to_vec(config)
            .map_err(|error| ImageError::Invalid(format!("image configuration: {error}")))?;
        let pins = self.pin(&config.rootfs.diff_ids)?;
        let (id, config) = (Digest::of(&bytes), Arc::new(config.clone()));
        self.record(vec![NewImage { id, bytes, config, tags: tags.to_vec(), manifest: None }])?;
        drop(pins);
        Ok(id)
    }

    /// Records images with their names and layers, all or none, when their files are on the disk.
    ///
    /// The caller pins the layers.
    pub(crate) fn record(&self, images: Vec<NewImage>) -> Result<Vec<Moved>, ImageError> {
        for image in &images {
            self.check_image(image)?;
        }
        fail_point("image.record.sync").context(|| "record image".into())?;
        self.sync_layers(&images)?;
        fail_point("image.record.write").context(|| "record image".into())?;
        let mut state = self.inner.state();
        let mut batch = Batch::default();
        for diff_id in images.iter().flat_map(|image| &image.config.rootfs.diff_ids) {
            let layer = known(&state, diff_id)?;
            if !layer.recorded || layer.record.unsynced.is_some() {
                let mut record = layer.record.clone();
                record.unsynced = None;
                batch.put_layer(diff_id, &record);
            }
        }
        let created_seconds = jiff::Timestamp::now().as_second();
        for image in &images {
            let created_seconds = match state.images.get(&image.id) {
                Some(known) => known.created_seconds,
                None => created_seconds,
            };
            batch.put_image(&image.id, &ImageRecord { created_seconds }, &image.bytes);
            image.tags.iter().for_each(|tag| batch.put_tag(tag, &image.id));
            if let Some(manifest) = &image.manifest {
                batch.put_manifest(&image.id, manifest);
            }
        }
        let layers: HashSet<_> = images.iter().flat_map(|image| &image.config.rootfs.diff_ids).collect();
        let new_blobs = |known: &KnownBlob| !known.recorded && layers.contains(&known.blob.diff_id);
        for (digest, known) in state.blobs.iter().filter(|(_, known)| new_blobs(known)) {
            batch.put_blob(digest, &known.blob);
        }
        self.inner.records.write(&batch)?;
        fail_point("image.record.written").context(|| "record image".into())?;
        state.blobs.values_mut().filter(|known| new_blobs(known)).for_each(|known| known.recorded = true);
        drop(layers);
        Ok(images.into_iter().flat_map(|image| remember(&mut state, image, created_seconds)).collect())
    }

    fn check_image(&self, image: &NewImage) -> Result<(), ImageError> {
        let (layers, limit) = (image.config.rootfs.diff_ids.len(), self.inner.limits.layers);
        if layers > limit {
            return invalid(format!("max depth exceeded: {layers} layers, at most {limit} can be mounted"));
        }
        if image.bytes.len() as u64 > self.inner.limits.document_bytes {
            return invalid(format!("image configuration of {} bytes is too large", image.bytes.len()));
        }
        Ok(())
    }

    /// Waits until layers that were written since are on the disk; one call for all of them.
    fn sync_layers(&self, images: &[NewImage]) -> Result<(), ImageError> {
        let unsynced = {
            let state = self.inner.state();
            images
                .iter()
                .flat_map(|image| &image.config.rootfs.diff_ids)
                .any(|diff_id| state.layers.get(diff_id).is_some_and(|layer| layer.record.unsynced.is_some()))
        };
        if unsynced {
            self.inner.sync()?;
        }
        Ok(())
    }
}

impl Inner {
    /// Waits until everything written so far is on the disk.
    fn sync(&self) -> Result<(), ImageError> {
        let at = || "write layers to the disk".to_owned();
        let dir = File::open(&self.dir).context(at)?;
        rustix::fs::syncfs(dir.as_fd()).context(at)
    }
}

/// Brings the memory to what was just written.
fn remember(state: &mut State, image: NewImage, created_seconds: i64) -> Vec<Moved> {
    for diff_id in &image.config.rootfs.diff_ids {
        if let Some(layer) = state.layers.get_mut(diff_id) {
            layer.recorded = true;
            layer.record.unsynced = None;
        }
        state.fresh.remove(diff_id);
    }
    let config = image.config;
    state.images.entry(image.id).or_insert(KnownImage { config, created_seconds });
    let mut moved = Vec::new();
    for tag in image.tags {
        if let Some(from) = state.tags.insert(tag.clone(), image.id)
            && from != image.id
        {
            moved.push(Moved { tag, from });
        }
    }
    moved
}

/// Finds an image's id as docker does: a full id, a name, then the beginning of an id.
pub(crate) fn find_id(state: &State, name: &str) -> Result<Digest, ImageError> {
    let bare = name.strip_prefix("sha256:").unwrap_or(name);
    if let Ok(id) = format!("sha256:{bare}").parse::<Digest>() {
        return match state.images.contains_key(&id) {
            true => Ok(id),
            false => Err(ImageError::NotFound(id.to_string())),
        };
    }
    let reference = name.parse::<ImageReference>();
    if let Some(id) = reference.as_ref().ok().and_then(|reference| state.tags.get(reference)) {
        return Ok(*id);
    }
    let digits = !bare.is_empty() && bare.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut fitting = state.images.keys().filter(|id| digits && id.hex().starts_with(bare));
    match (fitting.next(), fitting.next()) {
        (Some(id), None) => Ok(*id),
        (Some(_), Some(_)) => Err(ImageError::Ambiguous(name.to_owned())),
        _ => {
            let shown = reference.map_or_else(|_| name.to_owned(), |reference| reference.familiar());
            Err(ImageError::NotFound(shown))
        }
    }
}

/// Returns an image's names in order.
pub(crate) fn tags_of(state: &State, id: &Digest) -> Vec<ImageReference> {
    state.tags.iter().filter(|(_, named)| *named == id).map(|(tag, _)| tag.clone()).collect()
}

pub(crate) fn image(state: &State, id: &Digest, known: &KnownImage) -> Image {
    let sizes = known.config.rootfs.diff_ids.iter();
    Image {
        id: *id,
        config: Arc::clone(&known.config),
        tags: tags_of(state, id),
        size: sizes.filter_map(|diff_id| state.layers.get(diff_id)).map(|layer| layer.record.size).sum(),
        created_seconds: known.created_seconds,
    }
}

fn check_tag(tag: &ImageReference) -> Result<(), ImageError> {
    match (&tag.tag, &tag.digest) {
        (Some(_), None) => Ok(()),
        _ => invalid("refusing to create a tag with a digest reference"),
    }
}
