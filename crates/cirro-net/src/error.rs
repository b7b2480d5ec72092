//! Why the network refuses.

/// Why the network refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetError {
    /// There is no such network, subnet or port.
    #[error("{0}")]
    NotFound(String),
    /// A range, address, name or host port is taken; names the holder.
    #[error("{0}")]
    Conflict(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The request is understood and there is no such thing here.
    #[error("{0} is not supported")]
    NotSupported(String),
    /// It is not allowed: a network is in use or predefined, an address is taken.
    #[error("{0}")]
    Forbidden(String),
    /// The pool is empty.
    #[error("{0}")]
    Exhausted(String),
    /// The kernel or `nft` failed.
    #[error("{0}")]
    Kernel(String),
}

impl NetError {
    /// Wraps a failed call to the kernel.
    pub(crate) fn kernel(doing: impl std::fmt::Display, error: std::io::Error) -> Self {
        Self::Kernel(format!("{doing}: {error}"))
    }
}

impl From<cirro_store::StoreError> for NetError {
    fn from(error: cirro_store::StoreError) -> Self {
        Self::Kernel(format!("network records: {error}"))
    }
}
