//! Manifests, tags and referrers of repositories.

use std::collections::BTreeSet;

use super::digest::{Algorithm, BlobDigest};
use super::error::DistributionError;
use super::manifest::Manifest;
use super::name::{RepositoryName, TagName};
use super::records::{Batch, ManifestRecord, TagRecord};
use super::store::{Distribution, Store, now};
use super::view::{Dialect, StoredManifest};

/// Largest manifest: what other registries take.
pub const MAX_MANIFEST: usize = 4 << 20;

/// How a client names a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// By tag.
    Tag(TagName),
    /// By digest.
    Digest(BlobDigest),
}

impl std::str::FromStr for Reference {
    type Err = super::name::InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(digest) => Ok(Self::Digest(digest)),
            Err(_) => text.parse().map(Self::Tag),
        }
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// What came of a push.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Digest of the manifest.
    pub digest: BlobDigest,
    /// What the manifest is about.
    pub subject: Option<BlobDigest>,
}

/// A manifest that refers to another, as lists of referrers show it.
#[derive(Debug, Clone)]
pub struct Referrer {
    /// Its digest.
    pub digest: BlobDigest,
    /// Its size.
    pub size: u64,
    /// What it says.
    pub manifest: Manifest,
}

impl Distribution {
    /// Finds a manifest: the store's, or one derived from an image of the library.
    pub fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        dialect: Dialect,
    ) -> Result<StoredManifest, DistributionError> {
        let records = &self.inner.records;
        let unknown = || match self.has_repository(repository) {
            Ok(false) => DistributionError::NameUnknown(repository.to_string()),
            Ok(true) => DistributionError::ManifestUnknown(reference.to_string()),
            Err(error) => error,
        };
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => match records.tag(repository, tag)? {
                Some(record) => record.digest,
                None => return self.derived_by_tag(repository, tag, dialect)?.ok_or_else(unknown),
            },
        };
        if let Some(manifest) = self.inner.stored(repository, &digest)? {
            return Ok(manifest);
        }
        self.derived_by_digest(repository, &digest)?.ok_or_else(unknown)
    }

    /// Stores a manifest whose blobs the repository has, and points a tag to it.
    pub fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        bytes: &[u8],
        content_type: Option<&str>,
    ) -> Result<Pushed, DistributionError> {
        if bytes.len() > MAX_MANIFEST {
            let message = format!("manifest of {} bytes, at most {MAX_MANIFEST} are allowed", bytes.len());
            return Err(DistributionError::SizeInvalid(message));
        }
        let digest = digest_of(reference, bytes)?;
        let manifest = Manifest::parse(bytes, content_type)?;
        let store = &*self.inner;
        let _tagging = store.tagging();
        let _shared = store.share();
        if let Reference::Tag(tag) = reference {
            store.check_mutable(repository, tag, Some(&digest))?;
        }
        self.check_blobs(repository, &manifest)?;
        let pushed = Pushed { digest: digest.clone(), subject: manifest.subject.clone() };
        let mut batch = Batch::default();
        batch.put_repository(repository);
        if store.records.manifest(repository, &digest)?.is_none_or(|known| known.manifest != manifest) {
            let record = ManifestRecord { manifest, size: bytes.len() as u64, pushed_seconds: now() };
            batch.put_manifest(repository, &digest, &record, bytes);
        }
        if let Reference::Tag(tag) = reference {
            let record = TagRecord { digest, pushed_seconds: now(), checked_seconds: None };
            batch.put_tag(repository, tag, &record);
        }
        store.records.write(&batch)?;
        Ok(pushed)
    }

    /// Removes a tag, or a manifest with every tag that names it.
    pub fn delete_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<(), DistributionError> {
        let store = &*self.inner;
        let _tagging = store.tagging();
        let mut batch = Batch::default();
        let found = match reference {
            Reference::Tag(tag) => {
                store.check_mutable(repository, tag, None)?;
                batch.delete_tag(repository, tag);
                store.records.tag(repository, tag)?.is_some()
            }
            Reference::Digest(digest) => store.plan_delete(repository, digest, &mut batch)?,
        };
        if found {
            return store.records.write(&batch);
        }
        match self.manifest(repository, reference, Dialect::Oci) {
            Ok(_) => Err(DistributionError::OfTheLibrary(format!("{repository}: {reference}"))),
            Err(error) => Err(error),
        }
    }

    /// Lists a repository's tags in order.
    pub fn tags(&self, repository: &RepositoryName) -> Result<Vec<TagName>, DistributionError> {
        if !self.has_repository(repository)? {
            return Err(DistributionError::NameUnknown(repository.to_string()));
        }
        let mut tags = self.library_tags(repository);
        tags.extend(self.inner.records.tags(repository)?.into_iter().map(|(tag, _)| tag));
        Ok(tags.into_iter().collect())
    }

    /// Lists every repository in order, those that the library's images make included.
    pub fn repositories(&self) -> Result<Vec<RepositoryName>, DistributionError> {
        let mut all: BTreeSet<_> = self.library_repositories();
        all.extend(self.inner.records.repositories()?);
        Ok(all.into_iter().collect())
    }

    /// Lists the manifests that are about another one, which itself need not be there.
    pub fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &BlobDigest,
    ) -> Result<Vec<Referrer>, DistributionError> {
        let records = &self.inner.records;
        let mut referrers = Vec::new();
        for digest in records.referrers(repository, subject)? {
            if let Some(record) = records.manifest(repository, &digest)? {
                referrers.push(Referrer { digest, size: record.size, manifest: record.manifest });
            }
        }
        Ok(referrers)
    }

    /// Whether there is such a repository.
    pub fn has_repository(&self, repository: &RepositoryName) -> Result<bool, DistributionError> {
        Ok(self.inner.records.has_repository(repository)? || !self.library_tags(repository).is_empty())
    }

    /// When a tag was last seen at a mirror's upstream, seconds since 1970.
    pub fn tag_checked(
        &self,
        repository: &RepositoryName,
        tag: &TagName,
    ) -> Result<Option<i64>, DistributionError> {
        Ok(self.inner.records.tag(repository, tag)?.and_then(|record| record.checked_seconds))
    }

    /// Notes that a tag was seen at a mirror's upstream just now.
    pub fn set_tag_checked(
        &self,
        repository: &RepositoryName,
        tag: &TagName,
    ) -> Result<(), DistributionError> {
        let _tagging = self.inner.tagging();
        let Some(mut record) = self.inner.records.tag(repository, tag)? else { return Ok(()) };
        record.checked_seconds = Some(now());
        let mut batch = Batch::default();
        batch.put_tag(repository, tag, &record);
        self.inner.records.write(&batch)
    }

    /// Every blob that the manifest names must be there, in the size that it says. An index may be sparse.
    fn check_blobs(&self, repository: &RepositoryName, manifest: &Manifest) -> Result<(), DistributionError> {
        let mut missing = Vec::new();
        for named in &manifest.blobs {
            let size = match self.inner.records.link(repository, &named.digest)? {
                Some(link) => link.size,
                None => {
                    // What was seen in the library may be named too: from now on it is a blob of the repository.
                    let mounted = self.adopt_library_blob(repository, &named.digest)?;
                    match mounted {
                        Some(size) => size,
                        None => {
                            missing.push(named.digest.clone());
                            continue;
                        }
                    }
                }
            };
            if size != named.size {
                return Err(DistributionError::ManifestInvalid(format!(
                    "blob {} has {size} bytes, its descriptor says {}",
                    named.digest, named.size
                )));
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(DistributionError::ManifestBlobUnknown(missing)) }
    }

    /// Links a blob that the library's images give the repository; the caller holds the gate.
    fn adopt_library_blob(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
    ) -> Result<Option<u64>, DistributionError> {
        use super::store::BlobSource;
        let Some(source) = self.library_blob(repository, digest)? else { return Ok(None) };
        let size = source.size();
        if let BlobSource::Bytes(bytes) = &source {
            self.inner.write_file(digest, bytes)?;
        }
        self.inner.link(repository, digest, size, matches!(source, BlobSource::Layer(_)))?;
        Ok(Some(size))
    }
}

impl Store {
    pub(crate) fn stored(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
    ) -> Result<Option<StoredManifest>, DistributionError> {
        let Some(record) = self.records.manifest(repository, digest)? else { return Ok(None) };
        let Some(bytes) = self.records.document(repository, digest)? else { return Ok(None) };
        Ok(Some(StoredManifest { digest: digest.clone(), media_type: record.manifest.media_type, bytes }))
    }

    /// Refuses to move or remove a tag that the rules protect; to push the same again is no move.
    fn check_mutable(
        &self,
        repository: &RepositoryName,
        tag: &TagName,
        to: Option<&BlobDigest>,
    ) -> Result<(), DistributionError> {
        if !self.rules.is_immutable(repository, tag) {
            return Ok(());
        }
        match self.records.tag(repository, tag)? {
            Some(record) if Some(&record.digest) != to => Err(DistributionError::Immutable(tag.to_string())),
            _ => Ok(()),
        }
    }

    /// Plans the removal of a manifest and its tags; tells whether it is there. The caller holds `tagging`.
    pub(crate) fn plan_delete(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
        batch: &mut Batch,
    ) -> Result<bool, DistributionError> {
        let Some(record) = self.records.manifest(repository, digest)? else { return Ok(false) };
        for (tag, named) in self.records.tags(repository)? {
            if named.digest == *digest {
                self.check_mutable(repository, &tag, None)?;
                batch.delete_tag(repository, &tag);
            }
        }
        batch.delete_manifest(repository, digest, &record.manifest);
        Ok(true)
    }
}

fn digest_of(reference: &Reference, bytes: &[u8]) -> Result<BlobDigest, DistributionError> {
    let Reference::Digest(expected) = reference else { return Ok(BlobDigest::of(Algorithm::Sha256, bytes)) };
    let found = BlobDigest::of(expected.algorithm(), bytes);
    if found != *expected {
        return Err(DistributionError::DigestMismatch { expected: expected.clone(), found });
    }
    Ok(found)
}
