//! Build contexts on their way into a directory of the build's own: sent by the client, or fetched from an address.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cirro_build::{BuildRequest, GitAddress};
use cirro_seams::build::GitSource;
use tokio::sync::mpsc;

use super::git;
use super::sources::OwnDirectory;
use crate::Engine;
use crate::error::{EngineError, blocking, chain, io};
use crate::images::ChannelReader;

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
    Directory(Arc<OwnDirectory>),
}

impl Engine {
    /// Brings a context to this host; the request is told where it is. The files go with what is returned.
    pub(super) async fn open_context(
        &self,
        context: BuildContext,
        request: &mut BuildRequest,
    ) -> Result<Arc<OwnDirectory>, EngineError> {
        let has_dockerfile = request.dockerfile_text.is_some();
        let (own, subdir) = match context {
            BuildContext::Upload(pieces) => {
                let own = self.unpacked(has_dockerfile, move || Ok(ChannelReader::new(pieces))).await?;
                (Arc::new(own), None)
            }
            BuildContext::Directory(own) => (own, None),
            BuildContext::Remote(address) => match GitAddress::parse(&address) {
                Some(git) => (Arc::new(self.clone_context(&git.source, request).await?), Some(git.subdir)),
                None if cirro_build::is_http(&address) => {
                    (Arc::new(self.fetch_context(&address, has_dockerfile).await?), None)
                }
                None => {
                    return Err(EngineError::Invalid(format!("remote url could not be parsed: {address}")));
                }
            },
        };
        request.context_is_ours = true;
        request.context = match (own.0.clone(), subdir) {
            (root, Some(subdir)) => blocking(move || inside(&root, &subdir)).await?,
            (root, None) => root,
        };
        Ok(own)
    }

    /// Unpacks what is opened into a directory of the build's own.
    async fn unpacked<R: std::io::Read>(
        &self,
        has_dockerfile: bool,
        open: impl FnOnce() -> Result<R, EngineError> + Send + 'static,
    ) -> Result<OwnDirectory, EngineError> {
        let own = self.own_directory().await?;
        // The files go with the blocking work, should nobody wait for it any more.
        blocking(move || {
            unpack(&mut open()?, &own.0, has_dockerfile)?;
            Ok(own)
        })
        .await
    }

    async fn fetch_context(&self, url: &str, has_dockerfile: bool) -> Result<OwnDirectory, EngineError> {
        let fetched = self.download(url, FETCHED.into()).await?;
        let open =
            move || std::fs::File::open(fetched.root.join(FETCHED)).map_err(io("open the fetched context"));
        self.unpacked(has_dockerfile, open).await
    }

    async fn clone_context(
        &self,
        source: &GitSource,
        request: &BuildRequest,
    ) -> Result<OwnDirectory, EngineError> {
        let own = self.own_directory().await?;
        let commit = git::commit(source).await?;
        // As docker: whoever wants git's own directory in a context asks for it with a build argument.
        let keep = request.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").cloned().flatten();
        let keep = keep.is_some_and(|value| value == "1" || value == "true");
        git::checkout(&own.0, source, &commit, keep).await?;
        Ok(own)
    }
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
