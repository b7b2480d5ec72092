//! Dockerfile -> steps with content keys -> image.
//!
//! The builder reads a Dockerfile and a context, runs steps through [`StepRunner`], and puts layers and the image into
//! a [`BuildLibrary`]; it mounts nothing and knows no container. Each step that makes a layer has a key over all that
//! decides its result (layers below, instruction after expansion, files by content, variables), so a step is done once
//! per key, whichever Dockerfile asks.
//!
//! - `dockerfile` text to instructions; `expand` variables; `ignore` and `pattern` wildcards
//! - `plan` the graph of stages; `build` the stages side by side; `stage` one stage; `state` and `metadata` its image
//! - `mount` what `RUN --mount` asks for
//! - `transfer` `COPY` and `ADD`; `tree` what they walk and write; `archive` tar; `context` the build context
//! - `union` layer directories as one tree, where every path is resolved and confined
//! - `scratch` working layers that are given back whatever happens
//!
//! docs/compatibility-dockerfile.md says what of the Dockerfile language is there.
#![forbid(unsafe_code)]

mod accounts;
mod archive;
mod build;
mod context;
mod dockerfile;
mod error;
mod expand;
#[doc(hidden)]
pub mod fuzz;
mod ignore;
mod key;
mod metadata;
mod mount;
mod pattern;
mod plan;
mod scratch;
mod stage;
mod state;
mod transfer;
mod tree;
mod union;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cirro_seams::build::StepLimits;
use cirro_types::{Digest, ImageReference};

pub use build::build;
pub use context::unpack_context;
pub use error::BuildError;

#[cfg(doc)]
use cirro_seams::build::{BuildLibrary, StepRunner};

/// What is built, and how.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// Unpacked build context, owned by the caller; see [`unpack_context`].
    pub context: PathBuf,
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
    /// `default`, `none` or `host`.
    pub network: String,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    /// What each step is held to.
    pub limits: StepLimits,
    /// What `RUN --mount=type=secret` shows, by id. It comes into no layer, history entry or key.
    pub secrets: BTreeMap<String, Arc<[u8]>>,
}

/// What a build tells as it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// A line for the person who waits, in the classic builder's style and with its line end
    /// (`Step 1/5 : FROM node:latest\n`).
    Line(String),
    /// Output of a step.
    Output(bytes::Bytes),
    /// The image id.
    Image(Digest),
}
