//! Build contexts on their way into a directory of the build's own: sent by the client, or fetched from an address.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cirro_build::{BuildRequest, GitAddress};
use tokio::sync::mpsc;

use super::git;
use super::sources::OwnDirectory;
use crate::error::{EngineError, blocking, chain, io};
use crate::images::ChannelReader;
use crate::{Engine, names};

/// Name of a fetched context; nobody sees it.
const FETCHED: &str = "context";

/// Where a build's context comes from.
#[derive(Debug)]
pub enum BuildContext {
    /// A tar or a Dockerfile, as the classic endpoint gets it.
    Upload(mpsc::Receiver<Result<Bytes, String>>),
    /// The address of a git repository, of a tar or of a Dockerfile.
    Remote(String),
    /// Files that are here already.
    Directory(OwnDirectory),
}

impl Engine {
    /// Brings a context to this host; the request is told where it is. The files go with what is returned.
    pub(super) async fn open_context(
        &self,
        context: BuildContext,
        request: &mut BuildRequest,
    ) -> Result<OwnDirectory, EngineError> {
        match context {
            BuildContext::Upload(pieces) => self.unpack_upload(pieces, request).await,
            BuildContext::Directory(own) => {
                request.context.clone_from(&own.0);
                request.context_is_ours = true;
                Ok(own)
            }
            BuildContext::Remote(address) => match GitAddress::parse(&address) {
                Some(git) => self.clone_context(git, request).await,
                None if cirro_build::is_http(&address) => self.fetch_context(&address, request).await,
                None => Err(EngineError::Invalid(format!("remote url could not be parsed: {address}"))),
            },
        }
    }

    async fn unpack_upload(
        &self,
        pieces: mpsc::Receiver<Result<Bytes, String>>,
        request: &mut BuildRequest,
    ) -> Result<OwnDirectory, EngineError> {
        let dir = self.shared.options.scratch_dir().join(format!("build-{}", names::new_id()?));
        request.context.clone_from(&dir);
        request.context_is_ours = true;
        let has_dockerfile = request.dockerfile_text.is_some();
        // The files go with the blocking work, should nobody wait for it any more.
        blocking(move || {
            let own = OwnDirectory(dir);
            make(&own.0)?;
            unpack(&mut ChannelReader::new(pieces), &own.0, has_dockerfile)?;
            Ok(own)
        })
        .await
    }

    async fn fetch_context(
        &self,
        url: &str,
        request: &mut BuildRequest,
    ) -> Result<OwnDirectory, EngineError> {
        let fetched = self.download(url, FETCHED.into()).await?;
        let dir = self.shared.options.scratch_dir().join(format!("build-{}", names::new_id()?));
        request.context.clone_from(&dir);
        request.context_is_ours = true;
        let has_dockerfile = request.dockerfile_text.is_some();
        blocking(move || {
            let own = OwnDirectory(dir);
            make(&own.0)?;
            let path = fetched.root.join(FETCHED);
            let mut file = std::fs::File::open(&path).map_err(io("open the fetched context"))?;
            unpack(&mut file, &own.0, has_dockerfile)?;
            Ok(own)
        })
        .await
    }

    async fn clone_context(
        &self,
        address: GitAddress,
        request: &mut BuildRequest,
    ) -> Result<OwnDirectory, EngineError> {
        let own = self.own_directory().await?;
        let commit = git::commit(&address.source).await?;
        // As docker: whoever wants git's own directory in a context asks for it with a build argument.
        let keep = request.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").cloned().flatten();
        let keep = keep.is_some_and(|value| value == "1" || value == "true");
        git::checkout(&own.0, &address.source, &commit, keep).await?;
        request.context_is_ours = true;
        let (root, subdir) = (own.0.clone(), address.subdir);
        request.context = blocking(move || inside(&root, &subdir)).await?;
        Ok(own)
    }
}

fn make(dir: &Path) -> Result<(), EngineError> {
    std::fs::create_dir_all(dir).map_err(io(format!("make {}", dir.display())))
}

fn unpack(reader: &mut dyn std::io::Read, dir: &Path, has_dockerfile: bool) -> Result<(), EngineError> {
    let mut reader = std::io::BufReader::new(reader);
    let unpacked = match has_dockerfile && std::io::BufRead::fill_buf(&mut reader).is_ok_and(<[u8]>::is_empty)
    {
        // A Dockerfile that is sent apart needs no context.
        true => Ok(()),
        false => cirro_build::unpack_context(&mut reader, dir),
    };
    unpacked.map_err(|error| EngineError::Invalid(chain(&error)))
}

/// Finds a directory of a checkout. Nobody else writes there, so the answer stays true.
fn inside(root: &Path, subdir: &str) -> Result<PathBuf, EngineError> {
    let missing = || EngineError::Invalid(format!("the repository has no directory {subdir}"));
    let root = root.canonicalize().map_err(io("look at the checkout"))?;
    let dir = root.join(subdir.trim_start_matches('/')).canonicalize().map_err(|_| missing())?;
    if dir.starts_with(&root) && dir.is_dir() { Ok(dir) } else { Err(missing()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_a_checkout_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("in")).unwrap();
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(inside(dir.path(), "in/b").unwrap(), root.join("a/b"));
        assert_eq!(inside(dir.path(), "").unwrap(), root);
        for wrong in ["out", "..", "a/../..", "none"] {
            assert!(inside(dir.path(), wrong).is_err(), "{wrong}");
        }
    }
}
