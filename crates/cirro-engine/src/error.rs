//! Why the engine refused, in docker's words, and how the parts' errors become that.

use cirro_container::ContainerError;
use cirro_image::ImageError;
use cirro_machine::MachineError;
use cirro_net::NetError;
use cirro_seams::build::BuildFault;
use cirro_seams::node::NodeError;
use cirro_store::StoreError;

/// Why the engine refused. Display is the text a docker client shows.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// 404: `No such container: X`, `No such image: X`, `network X not found`.
    #[error("{0}")]
    NotFound(String),
    /// 409.
    #[error("{0}")]
    Conflict(String),
    /// 400.
    #[error("{0}")]
    Invalid(String),
    /// 403: not allowed, as long as things are as they are.
    #[error("{0}")]
    Forbidden(String),
    /// 304: nothing to do (start of a running container).
    #[error("{0}")]
    NotModified(String),
    /// 501: known and not there yet.
    #[error("{0}")]
    NotSupported(String),
    /// 500.
    #[error("{0}")]
    Failed(String),
}

impl EngineError {
    /// Says in what it happened.
    pub(crate) fn within(self, what: &str) -> Self {
        let text = |text: String| format!("{what}: {text}");
        match self {
            Self::NotFound(inner) => Self::NotFound(text(inner)),
            Self::Conflict(inner) => Self::Conflict(text(inner)),
            Self::Invalid(inner) => Self::Invalid(text(inner)),
            Self::Forbidden(inner) => Self::Forbidden(text(inner)),
            Self::NotModified(inner) => Self::NotModified(text(inner)),
            Self::NotSupported(inner) => Self::NotSupported(text(inner)),
            Self::Failed(inner) => Self::Failed(text(inner)),
        }
    }

    pub(crate) fn no_container(name: &str) -> Self {
        Self::NotFound(format!("No such container: {name}"))
    }
}

/// Writes an error with everything that caused it, outermost first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl From<ContainerError> for EngineError {
    fn from(error: ContainerError) -> Self {
        match error {
            ContainerError::NotFound(id) => Self::no_container(&id),
            ContainerError::State(text) => Self::Conflict(text),
            ContainerError::CommandNotFound(text) | ContainerError::CommandNotExecutable(text) => {
                Self::Invalid(text)
            }
            ContainerError::Runtime(text) => Self::Failed(text),
            error @ ContainerError::Unreachable(_) => Self::Failed(error.to_string()),
        }
    }
}

impl From<ImageError> for EngineError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::NotFound(_) => Self::NotFound(error.to_string()),
            ImageError::InUse(text) => Self::Conflict(text),
            ImageError::Ambiguous(_) | ImageError::Invalid(_) => Self::Invalid(error.to_string()),
            _ => Self::Failed(chain(&error)),
        }
    }
}

impl From<NetError> for EngineError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::NotFound(text) => Self::NotFound(text),
            NetError::Conflict(text) => Self::Conflict(text),
            NetError::Invalid(text) => Self::Invalid(text),
            NetError::Forbidden(text) => Self::Forbidden(text),
            NetError::NotSupported(text) => Self::NotSupported(format!("{text} is not supported")),
            NetError::Exhausted(text) | NetError::Kernel(text) => Self::Failed(text),
        }
    }
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        Self::Failed(format!("engine records: {}", chain(&error)))
    }
}

impl From<MachineError> for EngineError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Invalid(text) => Self::Invalid(text),
            MachineError::Missing(text) | MachineError::Failed(text) => Self::Failed(text),
        }
    }
}

impl From<EngineError> for NodeError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NotFound(text) => Self::NotFound(text),
            EngineError::Conflict(text) | EngineError::Forbidden(text) => Self::Conflict(text),
            EngineError::Invalid(text) | EngineError::NotSupported(text) => Self::Invalid(text),
            EngineError::NotModified(text) | EngineError::Failed(text) => Self::Failed(text),
        }
    }
}

impl From<EngineError> for BuildFault {
    fn from(error: EngineError) -> Self {
        Self(error.to_string())
    }
}

/// Names what was done when the file system refused.
pub(crate) fn io(context: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> EngineError {
    move |error| EngineError::Failed(format!("{context}: {error}"))
}

/// Runs blocking work on the pool for it.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, EngineError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, EngineError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ended_early(&error)),
    }
}

/// Says that work on another thread did not come to its end.
pub(crate) fn ended_early(error: &tokio::task::JoinError) -> EngineError {
    EngineError::Failed(format!("blocking work ended early: {error}"))
}
