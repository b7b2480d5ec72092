//! The image library: blobs, layers, images and their names. Blocking; callers use `spawn_blocking`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cirro_types::{Digest, ImageConfig, ImageReference};

/// The library of one host. Cheap to clone.
#[derive(Clone)]
pub struct Library {}

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

/// What was taken away by a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name.
    Untagged(String),
    /// An image or layer.
    Deleted(Digest),
}

/// What an archive brought.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image.
    pub id: Digest,
    /// Its names, if the archive had some.
    pub tags: Vec<ImageReference>,
}

/// Why the library refused.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image of that name or id.
    #[error("No such image: {0}")]
    NotFound(String),
    /// The id prefix fits several.
    #[error("{0} is ambiguous")]
    Ambiguous(String),
    /// It is used: by a container, by a child image, under another name.
    #[error("{0}")]
    InUse(String),
    /// The input is malformed or hostile.
    #[error("{0}")]
    Invalid(String),
    /// The disk or database failed.
    #[error("{context}")]
    Io {
        /// What was done.
        context: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The records failed.
    #[error("image records")]
    Store(#[source] cirro_store::StoreError),
}

impl Library {
    /// Opens the library below `dir`; finishes or undoes what a crash left.
    pub fn open(dir: &Path, db: Arc<dyn cirro_store::NodeDb>) -> Result<Self, ImageError> {
        todo!()
    }
    /// Finds an image by name, id or unique id prefix.
    pub fn find(&self, name: &str) -> Result<Image, ImageError> {
        todo!()
    }
    /// Lists every image.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        todo!()
    }
    /// Gives an image a name; another image loses it.
    pub fn tag(&self, id: &Digest, tag: &ImageReference) -> Result<(), ImageError> {
        todo!()
    }
    /// Removes a name, or an image by id; layers nobody needs go too. `in_use` tells containers' images.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        in_use: &dyn Fn(&Digest) -> Option<String>,
    ) -> Result<Vec<Removed>, ImageError> {
        todo!()
    }
    /// Removes images without a name (`all`: without a user) and unreferenced layers; returns the bytes given back.
    pub fn prune(
        &self,
        all: bool,
        in_use: &dyn Fn(&Digest) -> Option<String>,
    ) -> Result<(Vec<Removed>, u64), ImageError> {
        todo!()
    }
    /// Loads a docker or OCI archive (maybe compressed). `progress` gets lines for the person who waits.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        progress: &mut dyn FnMut(String),
    ) -> Result<Vec<Loaded>, ImageError> {
        todo!()
    }
    /// Imports a root filesystem tar as an image of one layer.
    pub fn import(
        &self,
        tar: &mut dyn Read,
        config: ImageConfig,
        tag: Option<&ImageReference>,
    ) -> Result<Digest, ImageError> {
        todo!()
    }
    /// Saves images as a docker archive that is an OCI layout too (as docker 25 and later write it).
    pub fn save(&self, names: &[String], archive: &mut dyn Write) -> Result<(), ImageError> {
        todo!()
    }
    /// Stores an image whose layers are in the library; returns its id.
    pub fn put_image(&self, config: &ImageConfig, tags: &[ImageReference]) -> Result<Digest, ImageError> {
        todo!()
    }
    /// Returns the unpacked directories of layers given as diff ids (lowest first), the top one first.
    pub fn layer_dirs(&self, diff_ids: &[Digest]) -> Result<Vec<PathBuf>, ImageError> {
        todo!()
    }
    /// Returns the size in bytes of each layer, in the order given.
    pub fn layer_sizes(&self, diff_ids: &[Digest]) -> Result<Vec<u64>, ImageError> {
        todo!()
    }
    /// Makes (or finds) the writable root of a container over an image; the image's layers stay while it is there.
    pub fn create_root(&self, container: &str, image: &Digest) -> Result<ContainerRoot, ImageError> {
        todo!()
    }
    /// Removes a container's root; no error when there is none.
    pub fn remove_root(&self, container: &str) -> Result<(), ImageError> {
        todo!()
    }
    /// Opens scratch space for a new layer over layers (lowest first). Returns (key, root).
    pub fn open_layer(&self, below: &[Digest]) -> Result<(String, ContainerRoot), ImageError> {
        todo!()
    }
    /// Turns the scratch space's upper directory into a layer without copying; returns its diff id.
    pub fn commit_layer(&self, key: &str) -> Result<Digest, ImageError> {
        todo!()
    }
    /// Throws scratch space away.
    pub fn drop_layer(&self, key: &str) -> Result<(), ImageError> {
        todo!()
    }
    /// Returns the build cache's note under a key, if its layer is here.
    pub fn cached_layer(&self, key: &Digest) -> Result<Option<Digest>, ImageError> {
        todo!()
    }
    /// Notes a layer in the build cache.
    pub fn remember_layer(&self, key: &Digest, diff_id: &Digest) -> Result<(), ImageError> {
        todo!()
    }
}
