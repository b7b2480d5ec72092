//! What the builder needs of the image library and of the runtime.
//!
//! The engine implements both; a build never sees a container record or a blob path.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cirro_types::{Digest, ImageConfig, ImageReference};

use crate::Pending;
use crate::container::Resources;
use crate::node::Output;

/// Why a library or a step failed; shown to the person who builds.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct BuildFault(pub String);

/// An image to build on.
#[derive(Debug, Clone)]
pub struct BaseImage {
    /// Its id.
    pub id: Digest,
    /// Its configuration.
    pub config: Arc<ImageConfig>,
}

/// A new layer being filled: a directory tree over the layers below it.
#[derive(Debug, Clone)]
pub struct WorkingLayer {
    /// Key of the scratch space, for [`BuildLibrary::commit_layer`] and [`BuildLibrary::drop_layer`].
    pub key: String,
    /// Unpacked layers below, the top one first (the order of overlayfs `lowerdir`).
    pub lower: Vec<PathBuf>,
    /// Directory that takes what is written; overlayfs whiteouts and opaque marks are understood.
    pub upper: PathBuf,
    /// Overlayfs' work directory.
    pub work: PathBuf,
}

/// The image library as the builder uses it.
pub trait BuildLibrary: Send + Sync {
    /// Finds an image by name or id.
    fn find(&self, name: &str) -> Pending<'_, Result<Option<BaseImage>, BuildFault>>;
    /// Finds an image to build on, fetching it when it is missing or when `pull` says so.
    fn fetch(&self, name: &str, pull: bool) -> Pending<'_, Result<Option<BaseImage>, BuildFault>>;
    /// Opens scratch space for a layer over the layers with these diff ids (lowest first).
    fn open_layer(&self, below: Vec<Digest>) -> Pending<'_, Result<WorkingLayer, BuildFault>>;
    /// Turns what was written to the layer into a layer of the library; returns its diff id.
    /// The upper directory becomes the unpacked layer: nothing is copied.
    fn commit_layer(&self, layer: WorkingLayer) -> Pending<'_, Result<Digest, BuildFault>>;
    /// Throws scratch space away.
    fn drop_layer(&self, layer: WorkingLayer) -> Pending<'_, Result<(), BuildFault>>;
    /// Stores an image; returns its id. `tags` then name it.
    fn put_image(
        &self,
        config: ImageConfig,
        tags: Vec<ImageReference>,
    ) -> Pending<'_, Result<Digest, BuildFault>>;
    /// Returns what an earlier build noted under a cache key, if its layer is still here.
    fn cached(&self, key: Digest) -> Pending<'_, Option<Digest>>;
    /// Notes the layer that a cache key gave.
    fn remember(&self, key: Digest, diff_id: Digest) -> Pending<'_, ()>;
    /// Returns what the last build of a name noted with [`Self::keep_trace`].
    fn trace(&self, slot: Digest) -> Pending<'_, Option<Vec<u8>>>;
    /// Returns only the stamp of that note.
    fn trace_stamp(&self, slot: Digest) -> Pending<'_, Option<Digest>>;
    /// Notes what decided a build's steps, over what the last build of that name noted. It may be forgotten.
    fn keep_trace(&self, slot: Digest, stamp: Digest, trace: Vec<u8>) -> Pending<'_, ()>;
    /// Opens the directory that `RUN --mount=type=cache` steps of this id share, made when it is not there.
    /// Waits for as long as `sharing` asks for.
    fn open_cache(
        &self,
        id: String,
        sharing: Sharing,
    ) -> Pending<'_, Result<Box<dyn CacheSpace>, BuildFault>>;
}

/// Who may use the directory of a cache mount at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Everybody.
    Shared,
    /// One step; who comes while it is in use gets another directory.
    Private,
    /// One step; who comes while it is in use waits.
    Locked,
}

/// The directory of a cache mount in use; dropping it gives it back.
pub trait CacheSpace: Send + Sync {
    /// The directory.
    fn path(&self) -> &Path;
    /// Whether it was made just now, so that whoever opened it fills it and sets its owner.
    fn is_new(&self) -> bool;
}

/// One `RUN`.
#[derive(Debug, Clone)]
pub struct Step {
    /// Where it runs and what takes its changes.
    pub layer: WorkingLayer,
    /// Argument vector.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// User.
    pub user: String,
    /// `default`, `none` or `host`.
    pub network: String,
    /// `name:address` lines for /etc/hosts.
    pub extra_hosts: Vec<String>,
    /// What it is held to.
    pub limits: StepLimits,
    /// What it sees beside its root.
    pub mounts: Vec<StepMount>,
}

/// What every step of a build is held to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepLimits {
    /// Memory, processors and so on.
    pub resources: Resources,
    /// Bytes of /dev/shm; 64 MiB when absent.
    pub shm_size: Option<u64>,
    /// `nofile` and such: name, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// The cgroup that those of the steps are in, if that is not the cloud's: absolute and clean.
    pub cgroup_parent: Option<String>,
}

/// Something mounted for one step; nothing of it is in the layer.
#[derive(Debug, Clone)]
pub struct StepMount {
    /// Absolute path in the step's root.
    pub target: String,
    /// What is seen there.
    pub source: StepSource,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// What a step's mount shows.
#[derive(Debug, Clone)]
pub enum StepSource {
    /// A file or directory of the host; no part of the path is a symbolic link.
    Path(PathBuf),
    /// Memory, of so many bytes at most.
    Tmpfs(Option<u64>),
    /// The socket of an agent of the one who builds, as a socket of its own.
    Agent {
        /// The agent's socket on the host.
        socket: PathBuf,
        /// Permission bits.
        mode: u32,
        /// Owner and group.
        owner: (u32, u32),
    },
    /// A file that is kept in memory only.
    Content {
        /// What is in it.
        content: Arc<[u8]>,
        /// Permission bits.
        mode: u32,
        /// Owner and group.
        owner: (u32, u32),
    },
}

/// A git repository as a build names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSource {
    /// Its address.
    pub url: String,
    /// Branch, tag or commit; the server's default branch when absent.
    pub reference: Option<String>,
}

/// Something that was fetched for a build. Its files go when this goes.
pub struct Fetched {
    /// Directory that holds it.
    pub root: PathBuf,
    /// Name of the file in it, if it is a file.
    pub file: Option<String>,
    /// Digest of the file's content, if it is a file.
    pub digest: Option<Digest>,
    /// What keeps the files.
    pub hold: Box<dyn Send + Sync>,
}

/// What a build fetches from elsewhere.
pub trait BuildSources: Send + Sync {
    /// Fetches the file at an HTTP address. It has mode 0600 and the time that the server says.
    ///
    /// What was fetched before is used again as long as the server says that it is the same.
    fn download(&self, url: String, name: String) -> Pending<'_, Result<Fetched, BuildFault>>;
    /// Finds the commit that is meant, forty digits.
    fn commit(&self, source: GitSource) -> Pending<'_, Result<String, BuildFault>>;
    /// Fetches the tree of a commit, submodules included, with or without git's own directory.
    fn checkout(
        &self,
        source: GitSource,
        commit: String,
        keep_git_dir: bool,
    ) -> Pending<'_, Result<Fetched, BuildFault>>;
}

/// What the one who builds lends to a build while it runs; asked only when it is needed.
pub trait Lender: Send + Sync {
    /// Returns a secret.
    fn secret(&self, id: String) -> Pending<'_, Result<Option<Arc<[u8]>>, BuildFault>>;
    /// Returns the socket of an agent.
    fn agent(&self, id: String) -> Pending<'_, Result<Option<PathBuf>, BuildFault>>;
    /// Returns the files of a directory that stands in for the image or stage `name`, without what its rules leave out.
    fn directory(&self, name: String, directory: String) -> Pending<'_, Result<Option<Fetched>, BuildFault>>;
    /// Returns name and password for a registry.
    fn credentials(&self, domain: String) -> Pending<'_, Result<Option<(String, String)>, BuildFault>>;
}

/// Someone to borrow from.
#[derive(Clone)]
pub struct Borrowed(pub Arc<dyn Lender>);

impl std::fmt::Debug for Borrowed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Borrowed")
    }
}

/// Runs build steps as containers.
pub trait StepRunner: Send + Sync {
    /// Runs a step to its end, passes its output on as it comes, returns its exit code.
    /// Dropping the future ends the step.
    fn run(
        &self,
        step: Step,
        output: tokio::sync::mpsc::Sender<Output>,
    ) -> Pending<'_, Result<i32, BuildFault>>;
}
