//! What can go wrong on the command line, in the words that callers of runc look for.

use std::io;
use std::path::PathBuf;

use crate::error::ContainerError;

#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The command line itself.
    #[error("{0}")]
    Usage(String),
    /// Callers take "does not exist" for "it is gone".
    #[error("container does not exist")]
    NotFound,
    #[error("container with given ID already exists")]
    Exists,
    /// Callers take this for "the process has ended".
    #[error("container not running")]
    NotRunning,
    /// It is not in a state for this.
    #[error("{0}")]
    State(String),
    /// The bundle says what cannot be done.
    #[error("{0}")]
    Bundle(String),
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("parse {path}")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{doing}")]
    System {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("unable to start container process")]
    Start(#[source] ContainerError),
}

impl CliError {
    /// A failure of the system while doing something.
    pub(super) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}
