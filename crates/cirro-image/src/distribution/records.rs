//! What the registry's store notes in the host's records, one table per relation.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `registry-repositories` | repository | – |
//! | `registry-links` | repository, digest | a blob that the repository has |
//! | `registry-holders` | digest, repository | – (the links the other way round) |
//! | `registry-manifests` | repository, digest | what is known of a manifest |
//! | `registry-documents` | repository, digest | its bytes |
//! | `registry-references` | digest of a blob or manifest, repository, digest of the manifest that names it | – |
//! | `registry-referrers` | repository, digest of the subject, digest of the manifest | – |
//! | `registry-tags` | repository, tag | the manifest it names |
//!
//! The parts of a key are joined by a blank, which no name has. A manifest is written together with its references, so
//! that a look at one prefix tells whether a blob is needed.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::digest::BlobDigest;
use super::error::DistributionError;
use super::manifest::Manifest;
use super::name::{RepositoryName, TagName};
use crate::tables::{Changes, Tables, parse, part};

const REPOSITORIES: &str = "registry-repositories";
const LINKS: &str = "registry-links";
const HOLDERS: &str = "registry-holders";
const MANIFESTS: &str = "registry-manifests";
const DOCUMENTS: &str = "registry-documents";
const REFERENCES: &str = "registry-references";
const REFERRERS: &str = "registry-referrers";
const TAGS: &str = "registry-tags";

/// A blob of a repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) size: u64,
    /// When somebody last said that it is wanted, seconds since 1970.
    pub(crate) touched_seconds: i64,
    /// Its bytes are a layer of the image library, not a file of the store.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_layer: bool,
}

/// A manifest of a repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ManifestRecord {
    pub(crate) manifest: Manifest,
    pub(crate) size: u64,
    /// When it was pushed, seconds since 1970.
    pub(crate) pushed_seconds: i64,
}

/// What a tag names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TagRecord {
    pub(crate) digest: BlobDigest,
    /// When it was pushed, seconds since 1970.
    pub(crate) pushed_seconds: i64,
    /// When a mirror last saw it at its upstream, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checked_seconds: Option<i64>,
}

/// The tables.
pub(crate) struct Records(pub(crate) Tables);

type Result<T> = std::result::Result<T, DistributionError>;

/// Changes that are written at once.
#[derive(Default)]
pub(crate) struct Batch(Changes);

impl Batch {
    pub(crate) fn put_repository(&mut self, repository: &RepositoryName) {
        self.0.set(REPOSITORIES, repository.to_string(), Some(Vec::new()));
    }

    pub(crate) fn delete_repository(&mut self, repository: &RepositoryName) {
        self.0.delete(REPOSITORIES, repository.to_string());
    }

    pub(crate) fn put_link(&mut self, repository: &RepositoryName, digest: &BlobDigest, link: &Link) {
        self.0.put(LINKS, format!("{repository} {digest}"), link);
        self.0.set(HOLDERS, format!("{digest} {repository}"), Some(Vec::new()));
    }

    pub(crate) fn delete_link(&mut self, repository: &RepositoryName, digest: &BlobDigest) {
        self.0.delete(LINKS, format!("{repository} {digest}"));
        self.0.delete(HOLDERS, format!("{digest} {repository}"));
    }

    pub(crate) fn put_manifest(
        &mut self,
        repository: &RepositoryName,
        digest: &BlobDigest,
        record: &ManifestRecord,
        bytes: &[u8],
    ) {
        self.0.put(MANIFESTS, format!("{repository} {digest}"), record);
        self.0.set(DOCUMENTS, format!("{repository} {digest}"), Some(bytes.to_vec()));
        self.references(repository, digest, &record.manifest, Some(Vec::new()));
    }

    pub(crate) fn delete_manifest(
        &mut self,
        repository: &RepositoryName,
        digest: &BlobDigest,
        manifest: &Manifest,
    ) {
        self.0.delete(MANIFESTS, format!("{repository} {digest}"));
        self.0.delete(DOCUMENTS, format!("{repository} {digest}"));
        self.references(repository, digest, manifest, None);
    }

    fn references(
        &mut self,
        repository: &RepositoryName,
        digest: &BlobDigest,
        manifest: &Manifest,
        value: Option<Vec<u8>>,
    ) {
        let mut named: Vec<_> =
            manifest.blobs.iter().chain(&manifest.manifests).map(|one| &one.digest).collect();
        named.sort();
        named.dedup();
        for one in named {
            self.0.set(REFERENCES, format!("{one} {repository} {digest}"), value.clone());
        }
        if let Some(subject) = &manifest.subject {
            self.0.set(REFERRERS, format!("{repository} {subject} {digest}"), value);
        }
    }

    pub(crate) fn put_tag(&mut self, repository: &RepositoryName, tag: &TagName, record: &TagRecord) {
        self.0.put(TAGS, format!("{repository} {tag}"), record);
    }

    pub(crate) fn delete_tag(&mut self, repository: &RepositoryName, tag: &TagName) {
        self.0.delete(TAGS, format!("{repository} {tag}"));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Records {
    pub(crate) fn write(&self, batch: &Batch) -> Result<()> {
        Ok(self.0.write(&batch.0)?)
    }

    pub(crate) fn repositories(&self) -> Result<Vec<RepositoryName>> {
        self.0.scan(REPOSITORIES, "")?.into_iter().map(|(key, _)| Ok(part(REPOSITORIES, &key)?)).collect()
    }

    pub(crate) fn has_repository(&self, repository: &RepositoryName) -> Result<bool> {
        Ok(self.0.get(REPOSITORIES, repository.as_str())?.is_some())
    }

    pub(crate) fn link(&self, repository: &RepositoryName, digest: &BlobDigest) -> Result<Option<Link>> {
        self.one(LINKS, &format!("{repository} {digest}"))
    }

    pub(crate) fn links(&self, repository: &RepositoryName) -> Result<Vec<(BlobDigest, Link)>> {
        self.of(LINKS, &format!("{repository} "))
    }

    /// Returns the repositories that have a blob.
    pub(crate) fn holders(&self, digest: &BlobDigest) -> Result<Vec<RepositoryName>> {
        let prefix = format!("{digest} ");
        let rows = self.0.scan(HOLDERS, &prefix)?;
        rows.into_iter().map(|(key, _)| Ok(part(HOLDERS, &key[prefix.len()..])?)).collect()
    }

    pub(crate) fn manifest(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
    ) -> Result<Option<ManifestRecord>> {
        self.one(MANIFESTS, &format!("{repository} {digest}"))
    }

    pub(crate) fn manifests(&self, repository: &RepositoryName) -> Result<Vec<(BlobDigest, ManifestRecord)>> {
        self.of(MANIFESTS, &format!("{repository} "))
    }

    pub(crate) fn document(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
    ) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(DOCUMENTS, &format!("{repository} {digest}"))?)
    }

    /// Whether a manifest of the repository names this blob or manifest.
    pub(crate) fn is_referenced(&self, repository: &RepositoryName, digest: &BlobDigest) -> Result<bool> {
        Ok(!self.0.scan(REFERENCES, &format!("{digest} {repository} "))?.is_empty())
    }

    /// Returns the digests of the manifests whose subject this is.
    pub(crate) fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &BlobDigest,
    ) -> Result<Vec<BlobDigest>> {
        let prefix = format!("{repository} {subject} ");
        let rows = self.0.scan(REFERRERS, &prefix)?;
        rows.into_iter().map(|(key, _)| Ok(part(REFERRERS, &key[prefix.len()..])?)).collect()
    }

    pub(crate) fn tag(&self, repository: &RepositoryName, tag: &TagName) -> Result<Option<TagRecord>> {
        self.one(TAGS, &format!("{repository} {tag}"))
    }

    pub(crate) fn tags(&self, repository: &RepositoryName) -> Result<Vec<(TagName, TagRecord)>> {
        self.of(TAGS, &format!("{repository} "))
    }

    fn one<T: DeserializeOwned>(&self, table: &str, key: &str) -> Result<Option<T>> {
        self.0.get(table, key)?.map(|bytes| Ok(parse(table, key, &bytes)?)).transpose()
    }

    /// Returns the rows with a prefix, their keys without it.
    fn of<K: std::str::FromStr, T: DeserializeOwned>(
        &self,
        table: &str,
        prefix: &str,
    ) -> Result<Vec<(K, T)>> {
        let rows = self.0.scan(table, prefix)?;
        rows.into_iter()
            .map(|(key, bytes)| Ok((part(table, &key[prefix.len()..])?, parse(table, &key, &bytes)?)))
            .collect()
    }
}
