//! What can go wrong between the daemon and its supervisor.

use serde::{Deserialize, Serialize};

/// Why the supervisor refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ContainerError {
    /// There is no such workload.
    #[error("no such workload `{0}`")]
    NotFound(String),
    /// It is not in a state for this.
    #[error("{0}")]
    State(String),
    /// The command does not exist in the container (docker's exit code 127).
    #[error("{0}")]
    CommandNotFound(String),
    /// The command cannot be run (docker's exit code 126).
    #[error("{0}")]
    CommandNotExecutable(String),
    /// The runtime failed.
    #[error("{0}")]
    Runtime(String),
    /// The supervisor cannot be reached.
    #[error("supervisor: {0}")]
    Unreachable(String),
}

impl ContainerError {
    /// A failure of the runtime: what was being done, and the whole chain of why it failed.
    pub(crate) fn runtime(doing: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Runtime(format!("{doing}: {}", chain(error)))
    }
}

/// The error and all its sources in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let next = inner.to_string();
        // Transparent variants would say the same thing twice.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = inner.source();
    }
    text
}
