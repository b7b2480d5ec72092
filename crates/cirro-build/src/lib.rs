//! Dockerfile -> steps with content keys -> image.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cirro_seams::build::{BuildLibrary, StepRunner};
use cirro_types::{Digest, ImageReference};
use tokio::sync::mpsc;

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
    /// Whether cached layers are left alone.
    pub no_cache: bool,
    /// `default`, `none` or `host`.
    pub network: String,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    /// Bytes of memory for each step.
    pub memory: Option<i64>,
}

/// What a build tells as it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// A line for the person who waits, in the classic builder's style (`Step 1/5 : FROM node:latest`).
    Line(String),
    /// Output of a step.
    Output(bytes::Bytes),
    /// The image id.
    Image(Digest),
}

/// Why a build failed: instruction, line, exit code.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile is wrong.
    #[error("dockerfile parse error on line {line}: {message}")]
    Parse {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A `RUN` failed; docker's text.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Command {
        /// The command.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// A step failed.
    #[error("line {line}: {message}")]
    Step {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// Unpacks a build context (tar, gzip, zstd... as the classic endpoint gets it) below `dir`, hostile entries refused.
pub fn unpack_context(tar: &mut dyn std::io::Read, dir: &std::path::Path) -> Result<(), BuildError> {
    todo!()
}

/// Builds an image. Dropping the future stops the build and leaves nothing.
pub async fn build(
    request: BuildRequest,
    library: Arc<dyn BuildLibrary>,
    runner: Arc<dyn StepRunner>,
    events: mpsc::Sender<BuildEvent>,
) -> Result<Digest, BuildError> {
    todo!()
}
