//! What the protocol needs of the engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cirro_build::{BuildEvent, BuildRequest};
use cirro_seams::Pending;
use cirro_types::{Digest, ImageReference};
use tokio::sync::mpsc;

/// A directory for a context. Its files go when it goes; none of them is ever changed.
pub trait Place: Send + Sync {
    /// Returns where it is.
    fn path(&self) -> &Path;
    /// Returns what [`Backend::build`] takes.
    fn into_any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync>;
}

/// Where a build's files come from.
pub enum Source {
    /// They are here.
    Place(Arc<dyn Place>),
    /// The address of a git repository, of a tar or of a Dockerfile.
    Remote(String),
    /// A tar or a Dockerfile that is on its way.
    Upload(mpsc::Receiver<Result<Bytes, String>>),
}

/// A part of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRecord {
    /// Its name.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// Whether an image has it too.
    pub shared: bool,
    /// When it was made, in seconds since 1970.
    pub made: Option<i64>,
}

/// Pieces of an archive; an error ends them.
pub type Pieces = mpsc::Receiver<Result<Bytes, String>>;

/// Builds, and gives out what was built. Errors are for the one who builds.
pub trait Backend: Send + Sync + 'static {
    /// Makes an empty directory.
    fn open_place(&self) -> Pending<'_, Result<Arc<dyn Place>, String>>;
    /// Starts a build; its events end with the image or the error. Dropping the receiver ends the build.
    fn build(
        &self,
        source: Source,
        request: BuildRequest,
    ) -> Pending<'_, Result<mpsc::Receiver<Result<BuildEvent, String>>, String>>;
    /// Removes an image that nothing names.
    fn forget(&self, image: Digest) -> Pending<'_, ()>;
    /// Pushes an image under its name.
    fn push(
        &self,
        image: ImageReference,
        credentials: Option<(String, String)>,
    ) -> Pending<'_, Result<(), String>>;
    /// Returns an archive of an image under these names, as `docker save` gives it; it is a layout of the OCI as well.
    fn save(&self, image: Digest, names: Vec<ImageReference>) -> Pending<'_, Result<Pieces, String>>;
    /// Returns the unpacked layers of an image, the top one first.
    fn layers(&self, image: Digest) -> Pending<'_, Result<Vec<PathBuf>, String>>;
    /// Lists the cache.
    fn cache(&self) -> Pending<'_, Result<Vec<CacheRecord>, String>>;
    /// Removes what is in the cache only, or with `all` also what images share, of what was made until then.
    fn prune(&self, all: bool, until: Option<i64>) -> Pending<'_, Result<Vec<CacheRecord>, String>>;
    /// Returns the address by which steps reach this host (`host-gateway`), if there is one.
    fn host_gateway(&self) -> Option<std::net::IpAddr>;
    /// Returns where sockets may be made.
    fn socket_directory(&self) -> PathBuf;
    /// Returns the version that is told.
    fn version(&self) -> String;
}
