//! Pull-through: what is not here is fetched from another registry, once, and kept.
//!
//! A tag is asked for upstream when it was not for a while; when upstream does not answer, what is here is served. What a
//! digest names is never asked for again. Requests for the same thing wait for the first of them and then find it here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use cirro_image::distribution::{BlobDigest, Dialect, DistributionError, Reference, RepositoryName, Upload};
use cirro_seams::Pending;
use tokio::sync::mpsc;

use crate::Registry;
use crate::config::{Config, Mirror};
use crate::error::{Fault, blocking};

/// Why an upstream did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// It does not have it.
    #[error("upstream does not have it")]
    NotFound,
    /// It cannot be reached, or refuses.
    #[error("{0}")]
    Unreachable(String),
}

/// A manifest that an upstream has.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its media type.
    pub media_type: String,
}

/// Another registry, as a mirror needs it.
pub trait Upstream: Send + Sync {
    /// Fetches a manifest by tag or digest.
    fn manifest(&self, repository: &str, reference: &str) -> Pending<'_, Result<Found, UpstreamError>>;

    /// Fetches a blob; its pieces go to `pieces`. Returns when all of them are sent.
    fn blob(
        &self,
        repository: &str,
        digest: &str,
        pieces: mpsc::Sender<Bytes>,
    ) -> Pending<'_, Result<(), UpstreamError>>;
}

/// Most bytes of a blob that no manifest told the size of.
const MAX_BLOB: u64 = 64 << 30;
/// Pieces of a blob that wait to be written.
const WAITING: usize = 8;

/// Every mirror, and what is being fetched.
pub(crate) struct Mirrors {
    mirrors: Vec<Served>,
    fetching: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

struct Served {
    prefix: String,
    revalidate: Duration,
    upstream: Arc<dyn Upstream>,
}

impl Mirrors {
    pub(crate) fn new(config: &Config, upstreams: &dyn Fn(&Mirror) -> Arc<dyn Upstream>) -> Self {
        let served = |mirror: &Mirror| Served {
            prefix: mirror.prefix().to_owned(),
            revalidate: mirror.revalidate(),
            upstream: upstreams(mirror),
        };
        let mut mirrors: Vec<_> = config.mirror.iter().map(served).collect();
        // The most particular first.
        mirrors.sort_by_key(|mirror| std::cmp::Reverse(mirror.prefix.len()));
        Self { mirrors, fetching: Mutex::default() }
    }

    /// Finds the mirror of a repository, and the repository's name upstream.
    fn of<'a>(&'a self, repository: &'a RepositoryName) -> Option<(&'a Served, &'a str)> {
        self.mirrors.iter().find_map(|mirror| {
            let name = repository.as_str();
            let below = match mirror.prefix.as_str() {
                "" => name,
                prefix => name.strip_prefix(prefix)?.strip_prefix('/')?,
            };
            Some((mirror, below))
        })
    }

    /// Returns the lock of one thing that is fetched.
    fn lock_of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = fetching.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        fetching.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        fetching.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

impl Registry {
    /// Brings a mirrored manifest up to date. Only when it is not here does an upstream's failure show.
    pub(crate) async fn refresh_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<(), Fault> {
        let Some((mirror, upstream_name)) = self.shared.mirrors.of(name) else { return Ok(()) };
        if self.is_fresh(name, reference, mirror.revalidate).await? {
            return Ok(());
        }
        let lock = self.shared.mirrors.lock_of(&format!("{name} {reference}"));
        let _first = lock.lock().await;
        if self.is_fresh(name, reference, mirror.revalidate).await? {
            return Ok(());
        }
        let found = match mirror.upstream.manifest(upstream_name, &reference.to_string()).await {
            Ok(found) => found,
            // Not there is not there; what was pushed here is found after this.
            Err(UpstreamError::NotFound) => return Ok(()),
            Err(UpstreamError::Unreachable(why)) => {
                tracing::warn!(repository = %name, %reference, why, "upstream does not answer");
                return match self.has_manifest(name, reference).await? {
                    true => Ok(()),
                    false => Err(Fault::Upstream(format!("upstream does not answer: {why}"))),
                };
            }
        };
        self.keep_manifest(name, reference, found).await
    }

    /// Whether a manifest is here and need not be asked for.
    async fn is_fresh(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        revalidate: Duration,
    ) -> Result<bool, Fault> {
        let Reference::Tag(tag) = reference else { return self.has_manifest(name, reference).await };
        let (distribution, name, tag) = (self.shared.distribution.clone(), name.clone(), tag.clone());
        let checked = blocking(move || distribution.tag_checked(&name, &tag)).await?;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let age = checked.map(|checked| now.saturating_sub(u64::try_from(checked).unwrap_or(0)));
        Ok(age.is_some_and(|age| age < revalidate.as_secs()))
    }

    async fn has_manifest(&self, name: &RepositoryName, reference: &Reference) -> Result<bool, Fault> {
        let (distribution, name, reference) =
            (self.shared.distribution.clone(), name.clone(), reference.clone());
        blocking(move || match distribution.manifest(&name, &reference, Dialect::Oci) {
            Ok(_) => Ok(true),
            Err(DistributionError::ManifestUnknown(_) | DistributionError::NameUnknown(_)) => Ok(false),
            Err(error) => Err(error),
        })
        .await
    }

    /// Keeps a manifest, after everything that it names: a manifest that is here is complete.
    async fn keep_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        found: Found,
    ) -> Result<(), Fault> {
        use cirro_image::distribution::Manifest;
        let manifest = Manifest::parse(&found.bytes, Some(&found.media_type))?;
        for blob in &manifest.blobs {
            let (distribution, repository, digest) =
                (self.shared.distribution.clone(), name.clone(), blob.digest.clone());
            let is_here = blocking(move || match distribution.look_up_blob(&repository, &digest) {
                Ok(_) => Ok(true),
                Err(DistributionError::BlobUnknown(_)) => Ok(false),
                Err(error) => Err(error),
            });
            if !is_here.await? {
                self.fetch_blob(name, &blob.digest, Some(blob.size)).await?;
            }
        }
        let (distribution, name, reference) =
            (self.shared.distribution.clone(), name.clone(), reference.clone());
        blocking(move || {
            distribution.put_manifest(&name, &reference, &found.bytes, Some(&found.media_type))?;
            match &reference {
                Reference::Tag(tag) => distribution.set_tag_checked(&name, tag),
                Reference::Digest(_) => Ok(()),
            }
        })
        .await
    }

    /// Fetches a blob that is not here, of a size if that is known; tells whether it is here now.
    pub(crate) async fn fetch_blob(
        &self,
        name: &RepositoryName,
        digest: &BlobDigest,
        size: Option<u64>,
    ) -> Result<bool, Fault> {
        if self.shared.mirrors.of(name).is_none() {
            return Ok(false);
        }
        // A task of its own: a client that leaves does not undo what others wait for.
        let (registry, name, digest) = (self.clone(), name.clone(), digest.clone());
        let fetching = tokio::spawn(async move { registry.fetch_first(&name, &digest, size).await });
        fetching.await.map_err(|error| Fault::Failed(format!("fetching ended early: {error}")))?
    }

    async fn fetch_first(
        &self,
        name: &RepositoryName,
        digest: &BlobDigest,
        size: Option<u64>,
    ) -> Result<bool, Fault> {
        let Some((mirror, upstream_name)) = self.shared.mirrors.of(name) else { return Ok(false) };
        let lock = self.shared.mirrors.lock_of(&format!("{name} {digest}"));
        let _first = lock.lock().await;
        let (distribution, repository, wanted) =
            (self.shared.distribution.clone(), name.clone(), digest.clone());
        let upload = blocking(move || match distribution.open_blob(&repository, &wanted) {
            Ok(_) => Ok(None),
            Err(DistributionError::BlobUnknown(_)) => {
                distribution.start_upload(&repository, wanted.algorithm()).map(Some)
            }
            Err(error) => Err(error),
        });
        let Some(upload) = upload.await? else { return Ok(true) };
        let id = upload.id().to_owned();
        let (sender, receiver) = mpsc::channel::<Bytes>(WAITING);
        let limit = size.unwrap_or(MAX_BLOB);
        let writing = tokio::task::spawn_blocking(move || write(upload, receiver, limit));
        let fetched = mirror.upstream.blob(upstream_name, &digest.to_string(), sender).await;
        let written =
            writing.await.map_err(|error| Fault::Failed(format!("writing ended early: {error}")))?;
        let failure = match (written, fetched) {
            (Ok(upload), Ok(())) => {
                let wanted = digest.clone();
                return blocking(move || upload.finish(&wanted)).await.map(|()| true);
            }
            (Ok(_), Err(UpstreamError::NotFound)) => None,
            (Ok(_), Err(UpstreamError::Unreachable(why))) => {
                Some(Fault::Upstream(format!("upstream does not answer: {why}")))
            }
            // Why the writer went is why nobody took the rest.
            (Err(fault), _) => Some(fault),
        };
        let (distribution, name) = (self.shared.distribution.clone(), name.clone());
        blocking(move || distribution.cancel_upload(&name, &id)).await?;
        failure.map_or(Ok(false), Err)
    }
}

/// Writes what comes, at most `limit` bytes.
fn write(mut upload: Upload, mut pieces: mpsc::Receiver<Bytes>, limit: u64) -> Result<Upload, Fault> {
    while let Some(piece) = pieces.blocking_recv() {
        if upload.offset() + piece.len() as u64 > limit {
            return Err(Fault::Upstream(format!("upstream sends more than {limit} bytes")));
        }
        upload.write(&piece)?;
    }
    Ok(upload)
}
