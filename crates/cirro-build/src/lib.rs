//! Dockerfile -> steps with content keys -> image.
//!
//! The builder reads a Dockerfile and a context, runs steps through [`StepRunner`], and puts layers and the image into
//! a [`BuildLibrary`]; it mounts nothing and knows no container. Each step that makes a layer has a key over all that
//! decides its result (layers below, instruction after expansion, files by content, variables), so a step is done once
//! per key, whichever Dockerfile asks.
//!
//! - `dockerfile` text to instructions; `expand` variables; `ignore` and `pattern` wildcards
//! - `plan` the graph of stages; `build` the stages side by side; `stage` one stage; `state` and `metadata` its image
//! - `named` what stands in for an image or a stage
//! - `mount` what `RUN --mount` asks for
//! - `remote` addresses that `ADD` fetches from; `mode` what `--chmod` says
//! - `transfer` `COPY` and `ADD`; `tree` what they walk and write; `archive` tar; `context` the build context
//! - `image_tree` the files of what was built
//! - `union` layer directories as one tree, where every path is resolved and confined
//! - `clamp` times that are the same whenever a layer is made
//! - `trace` why a step was not cached
//! - `pack` a directory as a context's tar; `receive` a context that comes entry by entry
//! - `outline` what a Dockerfile has of stages and steps
//! - `scratch` working layers that are given back whatever happens
//!
//! docs/compatibility-dockerfile.md says what of the Dockerfile language is there.
#![forbid(unsafe_code)]

mod accounts;
mod archive;
mod build;
mod changes;
mod clamp;
mod context;
mod dockerfile;
mod error;
mod expand;
#[doc(hidden)]
pub mod fuzz;
mod ignore;
mod image_tree;
mod key;
mod metadata;
mod mode;
mod mount;
mod named;
mod outline;
mod pack;
mod pattern;
mod plan;
mod progress;
mod receive;
mod remote;
mod scratch;
mod stage;
mod state;
mod trace;
mod traces;
mod transfer;
mod tree;
mod union;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cirro_seams::build::{Borrowed, StepLimits};
use cirro_types::ImageReference;

pub use build::build;
pub use changes::apply_changes;
pub use context::unpack_context;
pub use error::BuildError;
pub use image_tree::{ImageTree, TreeEntry, TreeKind};
pub use named::{NamedContext, context_name};
pub use outline::{Outline, SentDockerfile, StageOutline, StepOutline, ignore_rules, read_ignore};
pub use pack::pack_context;
pub use plan::is_host_platform;
pub use progress::{BuildEvent, StepEvent};
pub use receive::{ContextEntry, ContextFile, ContextWriter};
pub use remote::{GitAddress, is_http};

#[cfg(doc)]
use cirro_seams::build::{BuildLibrary, StepRunner};

/// What is built, and how.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// Unpacked build context, owned by the caller; see [`unpack_context`].
    pub context: PathBuf,
    /// Whether the context goes with the build and nobody else writes there: its files may become those of a layer without
    /// being copied.
    pub context_is_ours: bool,
    /// Path of the Dockerfile in the context; `Dockerfile` by default.
    pub dockerfile: String,
    /// Names of the result.
    pub tags: Vec<ImageReference>,
    /// `ARG` values.
    pub build_args: BTreeMap<String, Option<String>>,
    /// Labels over the Dockerfile's.
    pub labels: BTreeMap<String, String>,
    /// Stage to stop at.
    pub target: Option<String>,
    /// Whether images to build on are fetched even when they are here.
    pub pull: bool,
    /// Whether cached layers are left alone.
    pub no_cache: bool,
    /// Stages whose cached layers are left alone, by name.
    pub no_cache_stages: Vec<String>,
    /// `default`, `none` or `host`.
    pub network: String,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    /// What each step is held to.
    pub limits: StepLimits,
    /// The Dockerfile's text, if it is not in the context.
    pub dockerfile_text: Option<String>,
    /// The ignore rules, if they are not in the context: those of a Dockerfile that is not.
    pub ignore_text: Option<String>,
    /// Where the context came from; names the build when it has no tag, so that the next of that name can say what changed.
    pub origin: String,
    /// Sockets of agents that `RUN --mount=type=ssh` shows, by id.
    pub agents: BTreeMap<String, PathBuf>,
    /// What `RUN --mount=type=secret` shows, by id. It comes into no layer, history entry or key.
    pub secrets: BTreeMap<String, Arc<[u8]>>,
    /// What stands in for images and stages, by names as [`context_name`] gives them.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Who is asked for secrets and agents that are not above, for directories of [`Self::contexts`], and for a registry's
    /// password.
    pub lender: Option<Borrowed>,
}
