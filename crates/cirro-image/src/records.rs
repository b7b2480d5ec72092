//! What the library notes in the host's records, one table per noun.

use cirro_types::{Digest, ImageConfig, ImageReference};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::blobs::Blob;
use crate::error::{ImageError, invalid};
use crate::tables::{Changes, Tables, parse};
use crate::unpack::Unpacked;

const IMAGES: &str = "image-images";
const CONFIGS: &str = "image-configs";
const MANIFESTS: &str = "image-manifests";
const TAGS: &str = "image-tags";
const LAYERS: &str = "image-layers";
const BLOBS: &str = "image-blobs";
const ROOTS: &str = "image-roots";
const CACHE: &str = "image-build-cache";

/// An image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) created_seconds: i64,
}

/// An unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Bytes of its files.
    pub(crate) size: u64,
    /// Bytes of its tar.
    pub(crate) tar_size: u64,
    /// Whether it hides everything below it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) opaque_root: bool,
    /// The boot in which it was written, until its files are known to be on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unsynced: Option<String>,
}

impl LayerRecord {
    pub(crate) fn new(unpacked: &Unpacked, boot: &str) -> Self {
        Self {
            size: unpacked.size,
            tar_size: unpacked.tar_size,
            opaque_root: unpacked.opaque_root,
            unsynced: Some(boot.to_owned()),
        }
    }
}

/// The manifest that an image was pulled by, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestRecord {
    pub(crate) media_type: String,
    pub(crate) document: String,
}

/// A container's writable root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootRecord {
    pub(crate) image: Digest,
    /// Diff ids, the lowest first: the image itself may be gone.
    pub(crate) layers: Vec<Digest>,
}

/// The tables.
#[derive(Clone)]
pub(crate) struct Records(pub(crate) Tables);

/// Changes that are written at once.
#[derive(Default)]
pub(crate) struct Batch(Changes);

impl Batch {
    pub(crate) fn put_image(&mut self, id: &Digest, record: &ImageRecord, config: &[u8]) {
        self.0.put(IMAGES, id.hex(), record);
        self.0.set(CONFIGS, id.hex(), Some(config.to_vec()));
    }

    pub(crate) fn delete_image(&mut self, id: &Digest) {
        self.0.delete(IMAGES, id.hex());
        self.0.delete(CONFIGS, id.hex());
        self.0.delete(MANIFESTS, id.hex());
    }

    pub(crate) fn put_manifest(&mut self, id: &Digest, manifest: &ManifestRecord) {
        self.0.put(MANIFESTS, id.hex(), manifest);
    }

    pub(crate) fn put_blob(&mut self, digest: &Digest, blob: &Blob) {
        self.0.put(BLOBS, digest.hex(), blob);
    }

    pub(crate) fn delete_blob(&mut self, digest: &Digest) {
        self.0.delete(BLOBS, digest.hex());
    }

    pub(crate) fn put_tag(&mut self, tag: &ImageReference, id: &Digest) {
        self.0.put(TAGS, tag.to_string(), id);
    }

    pub(crate) fn delete_tag(&mut self, tag: &ImageReference) {
        self.0.delete(TAGS, tag.to_string());
    }

    pub(crate) fn put_layer(&mut self, diff_id: &Digest, record: &LayerRecord) {
        self.0.put(LAYERS, diff_id.hex(), record);
    }

    pub(crate) fn delete_layer(&mut self, diff_id: &Digest) {
        self.0.delete(LAYERS, diff_id.hex());
    }

    pub(crate) fn put_root(&mut self, container: &str, record: &RootRecord) {
        self.0.put(ROOTS, container.to_owned(), record);
    }

    pub(crate) fn delete_root(&mut self, container: &str) {
        self.0.delete(ROOTS, container.to_owned());
    }

    pub(crate) fn put_cached(&mut self, key: &Digest, diff_id: &Digest) {
        self.0.put(CACHE, key.hex(), diff_id);
    }

    pub(crate) fn delete_cached(&mut self, key: &Digest) {
        self.0.delete(CACHE, key.hex());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Records {
    pub(crate) fn write(&self, batch: &Batch) -> Result<(), ImageError> {
        self.0.write(&batch.0).map_err(ImageError::Store)
    }

    /// Returns every image with its configuration. One that is damaged is left out: the others are still of use.
    pub(crate) fn images(&self) -> Result<Vec<(Digest, ImageRecord, ImageConfig)>, ImageError> {
        let mut images = Vec::new();
        for (key, record) in self.table::<ImageRecord>(IMAGES)? {
            let id = digest(&key)?;
            match self.config(&id).and_then(|bytes| parse(CONFIGS, &key, &bytes)) {
                Ok(config) => images.push((id, record, config)),
                Err(error) => tracing::error!(image = %id, %error, "image is lost"),
            }
        }
        Ok(images)
    }

    /// Returns the exact bytes of an image's configuration.
    pub(crate) fn config(&self, id: &Digest) -> Result<Vec<u8>, ImageError> {
        match self.0.get(CONFIGS, &id.hex()).map_err(ImageError::Store)? {
            Some(bytes) if Digest::of(&bytes) == *id => Ok(bytes),
            _ => invalid(format!("the configuration of image {id} is missing or damaged")),
        }
    }

    pub(crate) fn tags(&self) -> Result<Vec<(ImageReference, Digest)>, ImageError> {
        self.table(TAGS)?
            .into_iter()
            .map(|(key, id)| match key.parse() {
                Ok(tag) => Ok((tag, id)),
                Err(_) => invalid(format!("the record of tag `{key}` is damaged")),
            })
            .collect()
    }

    pub(crate) fn layers(&self) -> Result<Vec<(Digest, LayerRecord)>, ImageError> {
        self.table(LAYERS)?.into_iter().map(|(key, record)| Ok((digest(&key)?, record))).collect()
    }

    pub(crate) fn blobs(&self) -> Result<Vec<(Digest, Blob)>, ImageError> {
        self.table(BLOBS)?.into_iter().map(|(key, blob)| Ok((digest(&key)?, blob))).collect()
    }

    /// Returns the manifest that an image was pulled by, if it was pulled.
    pub(crate) fn manifest(&self, id: &Digest) -> Result<Option<ManifestRecord>, ImageError> {
        let bytes = self.0.get(MANIFESTS, &id.hex()).map_err(ImageError::Store)?;
        bytes.map(|bytes| parse(MANIFESTS, &id.hex(), &bytes)).transpose()
    }

    pub(crate) fn roots(&self) -> Result<Vec<(String, RootRecord)>, ImageError> {
        self.table(ROOTS)
    }

    pub(crate) fn cache(&self) -> Result<Vec<(Digest, Digest)>, ImageError> {
        self.table(CACHE)?.into_iter().map(|(key, diff_id)| Ok((digest(&key)?, diff_id))).collect()
    }

    pub(crate) fn cached(&self, key: &Digest) -> Result<Option<Digest>, ImageError> {
        let bytes = self.0.get(CACHE, &key.hex()).map_err(ImageError::Store)?;
        bytes.map(|bytes| parse(CACHE, &key.hex(), &bytes)).transpose()
    }

    fn table<T: DeserializeOwned>(&self, table: &str) -> Result<Vec<(String, T)>, ImageError> {
        let records = self.0.scan(table, "").map_err(ImageError::Store)?;
        records
            .into_iter()
            .map(|(key, bytes)| {
                let record = parse(table, &key, &bytes)?;
                Ok((key, record))
            })
            .collect()
    }
}

fn digest(hex: &str) -> Result<Digest, ImageError> {
    format!("sha256:{hex}")
        .parse()
        .map_err(|_| ImageError::Invalid(format!("the record `{hex}` is damaged: its key is no digest")))
}
