//! The store's state, and its blobs: files by digest, each held by the repositories that have it.
//!
//! ```text
//! <library>/distribution/blobs/<algorithm>/<hex>    blobs
//! <library>/distribution/uploads/<id>/{data,repository}
//! ```
//! Who adds something that collection could take away at the same time holds `gate` shared, from the look at what is
//! there until its record is written; collection holds it alone, for a few blobs at a time. So a blob that a push was
//! told to be there is there when its manifest is recorded, or the manifest is refused.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use cirro_types::Digest;

use super::digest::{Algorithm, BlobDigest};
use super::error::{DistributionError, io};
use super::name::RepositoryName;
use super::records::{Batch, Link, Records};
use super::rules::Rules;
use super::uploads::Session;
use super::view::LayerSource;
use crate::layers::{Pins, known};
use crate::library::{Library, make_private};

/// How long a blob that no manifest names is kept for the manifest to come.
pub const GRACE: Duration = Duration::from_secs(3600);

/// What a registry keeps beside the library's images: repositories with blobs, manifests and tags. Cheap to clone.
#[derive(Clone)]
pub struct Distribution {
    pub(crate) inner: Arc<Store>,
}

pub(crate) struct Store {
    pub(crate) library: Library,
    pub(crate) dir: PathBuf,
    pub(crate) records: Records,
    pub(crate) rules: Rules,
    gate: RwLock<()>,
    /// Held while tags are changed: an immutable one must not be written by two at once.
    tagging: Mutex<()>,
    pub(crate) sessions: Mutex<HashMap<String, Session>>,
    /// Layers of the library that repositories have as blobs.
    layers: Mutex<HashMap<Digest, Pins>>,
}

/// Where a blob's bytes come from.
pub enum BlobSource {
    /// A file with its size.
    File(File, u64),
    /// In memory.
    Bytes(Vec<u8>),
    /// A layer of the library, written out as its tar.
    Layer(LayerSource),
}

impl BlobSource {
    /// Returns the number of bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::File(_, size) => *size,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Layer(layer) => layer.size(),
        }
    }
}

impl Distribution {
    /// Opens the store beside a library; uploads that nobody went on with are removed.
    pub fn open(library: &Library, rules: Rules) -> Result<Self, DistributionError> {
        let dir = library.inner.dir.join("distribution");
        for name in ["", "blobs", "blobs/sha256", "blobs/sha512", "uploads"] {
            make_private(&dir.join(name))?;
        }
        let store = Store {
            library: library.clone(),
            dir,
            records: Records(library.inner.records.0.clone()),
            rules,
            gate: RwLock::default(),
            tagging: Mutex::default(),
            sessions: Mutex::default(),
            layers: Mutex::default(),
        };
        store.pin_layers()?;
        let distribution = Self { inner: Arc::new(store) };
        distribution.drop_stale_uploads()?;
        Ok(distribution)
    }

    /// Returns the library whose images are served beside the store's.
    pub fn library(&self) -> &Library {
        &self.inner.library
    }

    /// Opens a blob of a repository, or of an image of the library that the repository's name stands for.
    pub fn open_blob(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
    ) -> Result<BlobSource, DistributionError> {
        if let Some(link) = self.inner.records.link(repository, digest)? {
            return self.inner.open_linked(repository, digest, &link);
        }
        match self.library_blob(repository, digest)? {
            Some(source) => Ok(source),
            None => Err(DistributionError::BlobUnknown(digest.clone())),
        }
    }

    /// Returns a blob's size, and keeps the blob for a manifest that may come: clients ask this before they push.
    pub fn look_up_blob(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
    ) -> Result<u64, DistributionError> {
        let _shared = self.inner.share();
        if let Some(mut link) = self.inner.records.link(repository, digest)? {
            if now() - link.touched_seconds > GRACE.as_secs() as i64 / 4 {
                link.touched_seconds = now();
                let mut batch = Batch::default();
                batch.put_link(repository, digest, &link);
                self.inner.records.write(&batch)?;
            }
            return Ok(link.size);
        }
        match self.library_blob(repository, digest)? {
            Some(source) => Ok(source.size()),
            None => Err(DistributionError::BlobUnknown(digest.clone())),
        }
    }

    /// Gives a repository a blob that another one has; tells whether there was such a blob.
    ///
    /// Without `from` any repository will do that `may_read` allows.
    pub fn mount_blob(
        &self,
        to: &RepositoryName,
        digest: &BlobDigest,
        from: Option<&RepositoryName>,
        may_read: &dyn Fn(&RepositoryName) -> bool,
    ) -> Result<bool, DistributionError> {
        let _shared = self.inner.share();
        let holders = match from {
            Some(from) => vec![from.clone()],
            None => self.inner.records.holders(digest)?,
        };
        for holder in holders.iter().filter(|holder| may_read(holder)) {
            let linked = self.inner.records.link(holder, digest)?;
            let (size, is_layer) = match (linked, self.library_blob(holder, digest)?) {
                (Some(link), _) => (link.size, link.is_layer),
                (None, Some(BlobSource::Layer(layer))) => (layer.size(), true),
                (None, Some(BlobSource::Bytes(bytes))) => {
                    self.inner.write_file(digest, &bytes)?;
                    (bytes.len() as u64, false)
                }
                (None, _) => continue,
            };
            self.inner.link(to, digest, size, is_layer)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Takes a blob from a repository; manifests that name it keep naming it.
    pub fn delete_blob(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
    ) -> Result<(), DistributionError> {
        let _alone = self.inner.close();
        let Some(link) = self.inner.records.link(repository, digest)? else {
            return match self.library_blob(repository, digest)? {
                Some(_) => Err(DistributionError::OfTheLibrary(format!("blob {digest}"))),
                None => Err(DistributionError::BlobUnknown(digest.clone())),
            };
        };
        self.inner.unlink(repository, &[(digest.clone(), link)])?;
        Ok(())
    }

    /// Stores a small blob at once.
    pub fn put_blob(
        &self,
        repository: &RepositoryName,
        bytes: &[u8],
    ) -> Result<BlobDigest, DistributionError> {
        let digest = BlobDigest::of(Algorithm::Sha256, bytes);
        let _shared = self.inner.share();
        self.inner.check_quota(repository, &digest, bytes.len() as u64)?;
        self.inner.write_file(&digest, bytes)?;
        self.inner.link(repository, &digest, bytes.len() as u64, false)?;
        Ok(digest)
    }
}

impl Store {
    /// Keeps collection away while something is added.
    pub(crate) fn share(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps everybody away who adds something.
    pub(crate) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps others from changing tags.
    pub(crate) fn tagging(&self) -> MutexGuard<'_, ()> {
        self.tagging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn blob_path(&self, digest: &BlobDigest) -> PathBuf {
        self.dir.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    fn open_linked(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
        link: &Link,
    ) -> Result<BlobSource, DistributionError> {
        if link.is_layer {
            let diff_id = digest.as_sha256().ok_or_else(|| DistributionError::BlobUnknown(digest.clone()))?;
            return Ok(BlobSource::Layer(LayerSource::open(&self.library, &diff_id)?));
        }
        match File::open(self.blob_path(digest)) {
            Ok(file) => {
                let size = file.metadata().map_err(io(format!("look at blob {digest}")))?.len();
                Ok(BlobSource::File(file, size))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(%repository, %digest, "the blob's file is lost");
                Err(DistributionError::BlobUnknown(digest.clone()))
            }
            Err(error) => Err(io(format!("open blob {digest}"))(error)),
        }
    }

    /// Notes that a repository has a blob; the caller holds the gate.
    pub(crate) fn link(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
        size: u64,
        is_layer: bool,
    ) -> Result<(), DistributionError> {
        if is_layer && let Some(diff_id) = digest.as_sha256() {
            self.pin_layer(&diff_id)?;
        }
        let mut batch = Batch::default();
        batch.put_repository(repository);
        batch.put_link(repository, digest, &Link { size, touched_seconds: now(), is_layer });
        self.records.write(&batch)
    }

    /// Takes blobs from a repository, and their files away when nobody has them any more; returns the bytes given
    /// back. The caller has closed the gate.
    pub(crate) fn unlink(
        &self,
        repository: &RepositoryName,
        blobs: &[(BlobDigest, Link)],
    ) -> Result<u64, DistributionError> {
        let mut batch = Batch::default();
        blobs.iter().for_each(|(digest, _)| batch.delete_link(repository, digest));
        self.records.write(&batch)?;
        let mut bytes = 0;
        for (digest, link) in blobs {
            if !self.records.holders(digest)?.is_empty() {
                continue;
            }
            if link.is_layer {
                let unpinned = digest.as_sha256().and_then(|diff_id| self.pinned().remove(&diff_id));
                drop(unpinned);
            } else if self.remove_file(digest)? {
                bytes += link.size;
            }
        }
        Ok(bytes)
    }

    pub(crate) fn remove_file(&self, digest: &BlobDigest) -> Result<bool, DistributionError> {
        match fs::remove_file(self.blob_path(digest)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io(format!("remove blob {digest}"))(error)),
        }
    }

    /// Writes a small blob's file, whole or not at all.
    pub(crate) fn write_file(&self, digest: &BlobDigest, bytes: &[u8]) -> Result<(), DistributionError> {
        if self.blob_path(digest).exists() {
            return Ok(());
        }
        let at = || format!("write blob {digest}");
        let draft = self.dir.join("uploads").join(super::uploads::new_id());
        fs::write(&draft, bytes).map_err(io(at()))?;
        let file = File::open(&draft).map_err(io(at()))?;
        self.place(&file, &draft, digest)
    }

    /// Moves a complete file to its place; it is on the disk when this returns.
    pub(crate) fn place(
        &self,
        file: &File,
        from: &std::path::Path,
        digest: &BlobDigest,
    ) -> Result<(), DistributionError> {
        let at = || format!("keep blob {digest}");
        let to = self.blob_path(digest);
        file.sync_data().map_err(io(at()))?;
        fs::rename(from, &to).map_err(io(at()))?;
        let dir = File::open(to.parent().expect("blobs are in a directory")).map_err(io(at()))?;
        rustix::fs::fsync(dir.as_fd()).map_err(|error| io(at())(error.into()))
    }

    /// Refuses a blob that would take a repository above its quota.
    pub(crate) fn check_quota(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
        size: u64,
    ) -> Result<(), DistributionError> {
        for quota in self.rules.quotas_of(repository) {
            let mut sizes: HashMap<BlobDigest, u64> = HashMap::new();
            for other in self.records.repositories()? {
                if quota.repositories.matches(other.as_str()) {
                    sizes.extend(
                        self.records.links(&other)?.into_iter().map(|(digest, link)| (digest, link.size)),
                    );
                }
            }
            sizes.insert(digest.clone(), size);
            if sizes.values().sum::<u64>() > quota.bytes {
                let (pattern, limit) = (quota.repositories.to_string(), quota.bytes);
                return Err(DistributionError::Quota { pattern, limit });
            }
        }
        Ok(())
    }

    fn pinned(&self) -> MutexGuard<'_, HashMap<Digest, Pins>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a layer of the library for as long as a repository has it.
    fn pin_layer(&self, diff_id: &Digest) -> Result<(), DistributionError> {
        let mut pinned = self.pinned();
        if pinned.contains_key(diff_id) {
            return Ok(());
        }
        let mut pins = Pins::new(&self.library.inner);
        {
            let mut state = self.library.inner.state();
            known(&state, diff_id)?;
            pins.add(&mut state, *diff_id);
        }
        pinned.insert(*diff_id, pins);
        Ok(())
    }

    /// Keeps the layers that repositories had when the last process ended.
    fn pin_layers(&self) -> Result<(), DistributionError> {
        let mut wanted = HashSet::new();
        for repository in self.records.repositories()? {
            let links = self.records.links(&repository)?.into_iter();
            wanted
                .extend(links.filter(|(_, link)| link.is_layer).filter_map(|(digest, _)| digest.as_sha256()));
        }
        for diff_id in wanted {
            if let Err(error) = self.pin_layer(&diff_id) {
                tracing::warn!(layer = %diff_id, %error, "a repository's layer is lost; push it again");
            }
        }
        Ok(())
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
