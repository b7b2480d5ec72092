//! What builds fetch from elsewhere: files over HTTP.
//!
//! A file is kept below `build-sources` by its address, with the tag that the server gave it; the next build sends the
//! tag and takes the kept file when the server says that nothing changed (as BuildKit does). Each build gets a link to
//! the file in a directory of its own, so that a newer state never changes what a running build reads.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cirro_image::HttpFile;
use cirro_seams::Pending;
use cirro_seams::build::{BuildFault, BuildSources, Fetched, GitSource};
use cirro_types::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::git;
use crate::Engine;
use crate::containers::create::remove_dir;
use crate::error::{EngineError, blocking, chain, io};
use crate::names;

/// Bytes of a fetched file.
const MAX_FILE: u64 = 16 << 30;
/// Addresses whose files are kept.
const MAX_KEPT: usize = 64;

/// Fetches for builds on this host.
pub(super) struct EngineSources(pub Engine);

/// What is known of a kept file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Known {
    etag: Option<String>,
    /// Seconds since 1970.
    modified: Option<i64>,
    digest: String,
}

/// A directory of one build's, removed when it goes.
#[derive(Debug)]
pub struct OwnDirectory(pub(super) PathBuf);

impl OwnDirectory {
    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for OwnDirectory {
    fn drop(&mut self) {
        let dir = std::mem::take(&mut self.0);
        let remove = move || {
            if let Err(error) = remove_dir(&dir) {
                tracing::warn!(%error, "fetched files not removed");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl BuildSources for EngineSources {
    fn download(&self, url: String, name: String) -> Pending<'_, Result<Fetched, BuildFault>> {
        Box::pin(async move { self.0.download(&url, name).await.map_err(BuildFault::from) })
    }

    fn commit(&self, source: GitSource) -> Pending<'_, Result<String, BuildFault>> {
        Box::pin(async move { git::commit(&source).await.map_err(BuildFault::from) })
    }

    fn checkout(
        &self,
        source: GitSource,
        commit: String,
        keep_git_dir: bool,
    ) -> Pending<'_, Result<Fetched, BuildFault>> {
        Box::pin(async move {
            let own = self.0.own_directory().await?;
            git::checkout(&own.0, &source, &commit, keep_git_dir).await?;
            Ok(Fetched { root: own.0.clone(), file: None, digest: None, hold: Box::new(own) })
        })
    }
}

impl Engine {
    /// Makes a directory for what one build fetches.
    pub async fn own_directory(&self) -> Result<OwnDirectory, EngineError> {
        let dir = self.shared.options.scratch_dir().join(format!("fetch-{}", names::new_id()?));
        blocking(move || {
            std::fs::create_dir_all(&dir).map_err(io(format!("make {}", dir.display())))?;
            Ok(OwnDirectory(dir))
        })
        .await
    }

    /// Where fetched files are kept.
    pub(super) fn sources_dir(&self) -> PathBuf {
        self.shared.options.data_dir.join("build-sources")
    }

    /// Fetches a file, or takes the kept one if the server says that it is the same.
    pub(super) async fn download(&self, url: &str, name: String) -> Result<Fetched, EngineError> {
        let kept = Kept::at(self.sources_dir(), url);
        let own = self.own_directory().await?;
        let (reading, path) = (kept.clone(), own.0.join(&name));
        // The link comes first: what it leads to stays, whatever another build does to the kept file meanwhile.
        let target = path.clone();
        let known = blocking(move || Ok(reading.link_to(&target))).await?;
        let failed = |reason: String| EngineError::Failed(format!("failed to fetch {url}: {reason}"));
        let tag = known.as_ref().and_then(|known| known.etag.clone());
        let mut answer = self
            .shared
            .registry
            .http_file(url, tag.as_deref())
            .await
            .map_err(|error| failed(chain(&error)))?;
        let known = match known.filter(|_| answer.unchanged) {
            Some(known) => known,
            None => {
                let known =
                    self.receive(&mut answer, &own.0, &path).await.map_err(|error| failed(chain(&error)))?;
                let (keep, content, noted) = (kept, path.clone(), known.clone());
                // A server that gives no tag is asked for the whole file each time: nothing to keep.
                if noted.etag.is_some() {
                    blocking(move || {
                        if let Err(error) = keep.keep(&content, &noted) {
                            tracing::warn!(%error, "fetched file not kept");
                        }
                        Ok(())
                    })
                    .await?;
                }
                known
            }
        };
        let digest = known.digest.parse().ok();
        Ok(Fetched { root: own.0.clone(), file: Some(name), digest, hold: Box::new(own) })
    }

    async fn receive(&self, answer: &mut HttpFile, dir: &Path, path: &Path) -> Result<Known, EngineError> {
        let draft = dir.join(".draft");
        let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
        let mut file = opened.map_err(io(format!("make {}", draft.display())))?;
        let mut hash = Sha256::new();
        let mut length = 0;
        while let Some(piece) = answer.piece().await.map_err(|error| EngineError::Failed(chain(&error)))? {
            length += piece.len() as u64;
            if length > MAX_FILE {
                return Err(EngineError::Invalid(format!("more than {MAX_FILE} bytes")));
            }
            (file, hash) = blocking(move || {
                hash.update(&piece);
                file.write_all(&piece).map_err(io("write a fetched file"))?;
                Ok((file, hash))
            })
            .await?;
        }
        let modified = answer.last_modified.as_deref().and_then(http_time);
        let time = modified.and_then(|seconds| u64::try_from(seconds).ok());
        let time = time
            .map_or_else(SystemTime::now, |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let finish = file.set_modified(time).and_then(|()| std::fs::rename(&draft, path));
        finish.map_err(io(format!("make {}", path.display())))?;
        Ok(Known {
            etag: answer.etag.clone(),
            modified,
            digest: Digest::from_bytes(hash.finalize().into()).to_string(),
        })
    }
}

/// Reads HTTP's form of a time: `Tue, 15 Nov 1994 12:45:26 GMT`.
fn http_time(text: &str) -> Option<i64> {
    let time = jiff::fmt::rfc2822::parse(&text.replace("GMT", "+0000")).ok()?;
    Some(time.timestamp().as_second())
}

/// Where the file of an address is kept.
#[derive(Debug, Clone)]
struct Kept {
    root: PathBuf,
    dir: PathBuf,
}

impl Kept {
    fn at(root: PathBuf, url: &str) -> Self {
        let dir = root.join(Digest::of(url.as_bytes()).hex());
        Self { root, dir }
    }

    /// Links the kept file to `path`; returns what is known of it.
    fn link_to(&self, path: &Path) -> Option<Known> {
        let known: Known = serde_json::from_slice(&std::fs::read(self.dir.join("known.json")).ok()?).ok()?;
        // By its digest, so that what is known and the file are of one state.
        std::fs::hard_link(self.dir.join(known.digest.trim_start_matches("sha256:")), path).ok()?;
        Some(known)
    }

    fn keep(&self, content: &Path, known: &Known) -> std::io::Result<()> {
        if !self.dir.exists() {
            self.make_room()?;
        }
        std::fs::create_dir_all(&self.dir)?;
        std::fs::set_permissions(&self.root, PermissionsExt::from_mode(0o700))?;
        let name = known.digest.trim_start_matches("sha256:");
        for entry in std::fs::read_dir(&self.dir)?.flatten().filter(|entry| entry.file_name() != name) {
            let _ = std::fs::remove_file(entry.path());
        }
        match std::fs::hard_link(content, self.dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        std::fs::write(self.dir.join("known.json"), serde_json::to_vec(known)?)
    }

    fn make_room(&self) -> std::io::Result<()> {
        let mut kept = Vec::new();
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            kept.push((entry.metadata()?.modified()?, entry.path()));
        }
        kept.sort();
        let surplus = (kept.len() + 1).saturating_sub(MAX_KEPT);
        kept[..surplus].iter().try_for_each(|(_, path)| std::fs::remove_dir_all(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_file_is_found_with_what_is_known_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let kept = Kept::at(at("kept"), "http://x/y");
        assert!(kept.link_to(&at("a")).is_none());
        let known = |text: &str| Known {
            etag: Some(text.into()),
            modified: None,
            digest: Digest::of(text.as_bytes()).to_string(),
        };
        for text in ["one", "two"] {
            std::fs::write(at(text), text).unwrap();
            kept.keep(&at(text), &known(text)).unwrap();
        }
        assert_eq!(kept.link_to(&at("b")).unwrap().etag.as_deref(), Some("two"));
        assert_eq!(std::fs::read_to_string(at("b")).unwrap(), "two");
        for number in 0..MAX_KEPT + 3 {
            Kept::at(at("kept"), &number.to_string()).keep(&at("one"), &known("one")).unwrap();
        }
        assert_eq!(std::fs::read_dir(at("kept")).unwrap().count(), MAX_KEPT);
    }

    #[test]
    fn times_of_http_are_read() {
        assert_eq!(http_time("Tue, 15 Nov 1994 12:45:26 GMT"), Some(784_903_526));
        assert_eq!(http_time("yesterday"), None);
    }
}
