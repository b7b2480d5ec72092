//! What goes wrong between here and a registry, in docker's words.

use cirro_types::{Digest, ImageReference};

use crate::error::ImageError;

/// Why a registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry answered with an error of its own.
    #[error("{code}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The error's code in words: `manifest unknown`, `denied`.
        code: String,
        /// What the registry says to it.
        message: String,
    },
    /// No answer could be had.
    #[error("{verb} \"{url}\": {reason}")]
    Transport {
        /// `Get`, `Head`, `Put`, …
        verb: &'static str,
        /// The address without its secrets.
        url: String,
        /// Why not.
        reason: String,
    },
    /// An answer that makes no sense, or more than is taken.
    #[error("{0}")]
    Protocol(String),
    /// A pull of something that is not there, or that may not be seen.
    #[error("{0}")]
    NotFound(String),
    /// Bytes that are not what their digest says.
    #[error("filesystem layer verification failed for digest {expected}: got {found}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The library refused what came.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Nobody waits any more.
    #[error("context canceled")]
    Cancelled,
}

impl RegistryError {
    /// Tells whether the same request may succeed a little later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Transport { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Says what was asked for, as dockerd does for a pull.
    pub(crate) fn of_pull(self, reference: &ImageReference) -> Self {
        let Self::Refused { code, .. } = &self else { return self };
        Self::NotFound(match code.as_str() {
            "denied" => format!(
                "pull access denied for {}, repository does not exist or may require 'docker login': {self}",
                reference.familiar_name()
            ),
            "manifest unknown" => format!("manifest for {} not found: {self}", reference.familiar()),
            "name unknown" => format!("repository {} not found: {self}", reference.familiar_name()),
            _ => return self,
        })
    }
}
