//! The Docker Engine API, versions 1.41 to 1.51, over the engine of this host.
//!
//! ```text
//! socket ─▶ server ─▶ version (strips /v1.NN) ─▶ routes ─▶ one file per noun and verb ─▶ Engine
//! ```
//!
//! The face keeps no state: it translates requests to calls on [`cirro_engine::Engine`] and the answers to
//! docker's JSON. What dockerd has and cirro does not have yet answers 501 (see `unsupported`), and fields that
//! would silently mean something else are refused (see `containers::fields`). `docs/compatibility-docker.md`
//! lists both.

// `json!` recurses once per member, and docker's documents are long.
#![recursion_limit = "256"]

use std::sync::Arc;

use cirro_engine::Engine;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod body;
mod build;
mod buildkit;
mod commit;
mod containers;
mod error;
mod events;
mod exec;
mod filters;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod hijack;
mod images;
mod info;
mod line_stream;
mod networks;
mod peer;
mod query;
mod routes;
mod server;
mod system;
mod time;
mod unsupported;
mod version;
mod volumes;

pub use info::FaceInfo;
pub use server::{router, serve};
pub use system::reload::tell_reload;

/// What every handler works with.
#[derive(Clone)]
pub(crate) struct Face {
    /// Does the work.
    pub(crate) engine: Engine,
    /// Facts about the cloud.
    pub(crate) info: Arc<FaceInfo>,
    /// Facts about the host.
    pub(crate) host: Arc<info::HostFacts>,
    /// When streams end, and who outlives a request.
    pub(crate) lifetime: Lifetime,
    /// Speaks BuildKit's protocol.
    pub(crate) buildkit: cirro_buildkit::BuildKit,
    /// Builds that clients know by an id.
    pub(crate) jobs: buildkit::jobs::Jobs,
}

/// What bounds the life of streams.
#[derive(Clone, Default)]
pub(crate) struct Lifetime {
    /// Fires when the server stops: streams without an end of their own end then.
    pub(crate) closing: CancellationToken,
    /// Tasks that outlive their request: hijacked connections.
    pub(crate) tasks: TaskTracker,
}
