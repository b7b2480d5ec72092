//! Takes away what nobody needs, while pushes go on.
//!
//! A blob goes when no manifest of its repository names it and nobody asked for it within the grace; its file, when no
//! repository has it any more. References are looked up, not computed: there is no list of what is in use that could be
//! out of date when it is acted upon. The gate is closed for a few blobs at a time, so that no push waits long.

use std::fs;
use std::time::Duration;

use super::digest::BlobDigest;
use super::error::{DistributionError, io};
use super::name::RepositoryName;
use super::records::{Batch, Link};
use super::rules::{Dated, Retention, expired};
use super::store::{Distribution, now};

/// Blobs that are looked at while the gate is closed.
const STEP: usize = 32;

/// What a collection took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Tags that a retention rule removed.
    pub tags: usize,
    /// Manifests that a retention rule removed.
    pub manifests: usize,
    /// Blobs of repositories.
    pub blobs: usize,
    /// Bytes of files.
    pub bytes: u64,
}

impl Distribution {
    /// Removes what retention rules say, then what is not needed any more. Blobs that somebody asked for within `grace`
    /// stay: their manifest may be on its way.
    pub fn collect(&self, grace: Duration) -> Result<Collected, DistributionError> {
        let mut collected = Collected::default();
        for repository in self.inner.records.repositories()? {
            for rule in self.inner.rules.retention_of(&repository) {
                self.retain(&repository, rule, &mut collected)?;
            }
            self.sweep(&repository, grace, &mut collected)?;
            self.forget_if_empty(&repository)?;
        }
        self.sweep_files(&mut collected)?;
        self.drop_stale_uploads()?;
        Ok(collected)
    }

    fn retain(
        &self,
        repository: &RepositoryName,
        rule: &Retention,
        collected: &mut Collected,
    ) -> Result<(), DistributionError> {
        let store = &*self.inner;
        let _tagging = store.tagging();
        let mut tags = store.records.tags(repository)?;
        let dated: Vec<Dated> =
            tags.iter().map(|(tag, record)| (tag.clone(), record.pushed_seconds)).collect();
        let mut gone = expired(rule, &dated, now());
        gone.retain(|tag| !store.rules.is_immutable(repository, tag));
        let mut batch = Batch::default();
        gone.iter().for_each(|tag| batch.delete_tag(repository, tag));
        collected.tags += gone.len();
        tags.retain(|(tag, _)| !gone.contains(tag));
        if let Some(age) = rule.untagged_after {
            for (digest, record) in store.records.manifests(repository)? {
                let is_tagged = tags.iter().any(|(_, named)| named.digest == digest);
                let is_young = now() - record.pushed_seconds <= age.as_secs() as i64;
                let is_about_something = match &record.manifest.subject {
                    Some(subject) => store.records.manifest(repository, subject)?.is_some(),
                    None => false,
                };
                if is_tagged
                    || is_young
                    || is_about_something
                    || store.records.is_referenced(repository, &digest)?
                {
                    continue;
                }
                batch.delete_manifest(repository, &digest, &record.manifest);
                collected.manifests += 1;
            }
        }
        if batch.is_empty() { Ok(()) } else { store.records.write(&batch) }
    }

    fn sweep(
        &self,
        repository: &RepositoryName,
        grace: Duration,
        collected: &mut Collected,
    ) -> Result<(), DistributionError> {
        let store = &*self.inner;
        let links = store.records.links(repository)?;
        for step in links.chunks(STEP) {
            let _alone = store.close();
            let mut gone: Vec<(BlobDigest, Link)> = Vec::new();
            for (digest, _) in step {
                // As it is now: it may have been asked for since.
                let Some(link) = store.records.link(repository, digest)? else { continue };
                let is_young = now() - link.touched_seconds < grace.as_secs() as i64;
                if !is_young && !store.records.is_referenced(repository, digest)? {
                    gone.push((digest.clone(), link));
                }
            }
            if !gone.is_empty() {
                collected.blobs += gone.len();
                collected.bytes += store.unlink(repository, &gone)?;
            }
        }
        Ok(())
    }

    fn forget_if_empty(&self, repository: &RepositoryName) -> Result<(), DistributionError> {
        let store = &*self.inner;
        let _tagging = store.tagging();
        let _alone = store.close();
        let records = &store.records;
        let is_empty = records.links(repository)?.is_empty()
            && records.manifests(repository)?.is_empty()
            && records.tags(repository)?.is_empty();
        if is_empty {
            let mut batch = Batch::default();
            batch.delete_repository(repository);
            records.write(&batch)?;
        }
        Ok(())
    }

    /// Removes files that a crash left without a record.
    fn sweep_files(&self, collected: &mut Collected) -> Result<(), DistributionError> {
        let store = &*self.inner;
        for algorithm in ["sha256", "sha512"] {
            let dir = store.dir.join("blobs").join(algorithm);
            for entry in fs::read_dir(&dir).map_err(io("list blobs"))? {
                let entry = entry.map_err(io("list blobs"))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let Ok(digest) = format!("{algorithm}:{name}").parse::<BlobDigest>() else { continue };
                if !store.records.holders(&digest)?.is_empty() {
                    continue;
                }
                let _alone = store.close();
                let size = entry.metadata().map_or(0, |metadata| metadata.len());
                if store.records.holders(&digest)?.is_empty() && store.remove_file(&digest)? {
                    collected.bytes += size;
                }
            }
        }
        Ok(())
    }
}
