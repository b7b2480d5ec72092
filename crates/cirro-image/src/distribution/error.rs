//! Why the registry's store refused; one variant per answer that a client can tell apart.

use std::io;

use cirro_store::StoreError;

use super::digest::BlobDigest;
use crate::error::ImageError;

/// Why the registry's store refused.
///
/// Source: OCI distribution-spec v1.1, "Error Codes".
#[derive(Debug, thiserror::Error)]
pub enum DistributionError {
    /// The repository does not have the blob.
    #[error("blob {0} is unknown to the repository")]
    BlobUnknown(BlobDigest),
    /// There is no such upload, or it belongs to another repository.
    #[error("blob upload is unknown to the registry")]
    UploadUnknown,
    /// Another request works on the upload.
    #[error("another request works on this upload")]
    UploadBusy,
    /// A chunk does not follow the one before; `offset` bytes are there.
    #[error("chunk starts at {start}, but {offset} bytes are there")]
    OutOfOrder {
        /// Where the chunk says that it starts.
        start: u64,
        /// Bytes that are there.
        offset: u64,
    },
    /// The bytes are not as many as the client said.
    #[error("{0}")]
    SizeInvalid(String),
    /// The bytes have another digest than the client said.
    #[error("provided digest {expected} does not match the uploaded content, which has {found}")]
    DigestMismatch {
        /// What the client said.
        expected: BlobDigest,
        /// What it is.
        found: BlobDigest,
    },
    /// The manifest is no manifest.
    #[error("{0}")]
    ManifestInvalid(String),
    /// The manifest names blobs or manifests that the repository does not have.
    #[error("manifest references content that is unknown to the repository")]
    ManifestBlobUnknown(Vec<BlobDigest>),
    /// There is no such manifest or tag.
    #[error("manifest {0} is unknown to the repository")]
    ManifestUnknown(String),
    /// There is no such repository.
    #[error("repository {0} is not known to the registry")]
    NameUnknown(String),
    /// The tag may not be moved or removed.
    #[error("tag {0} is immutable")]
    Immutable(String),
    /// It belongs to the image library, whose images are removed through the engine.
    #[error("{0} is an image of the library: remove it there (docker rmi)")]
    OfTheLibrary(String),
    /// The repository has no room for more.
    #[error("quota of {limit} bytes for `{pattern}` is exceeded")]
    Quota {
        /// The repositories that share the quota.
        pattern: String,
        /// Its size.
        limit: u64,
    },
    /// The disk failed.
    #[error("{context}")]
    Io {
        /// What was done.
        context: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The records failed.
    #[error("registry records")]
    Store(#[source] StoreError),
    /// The image library failed.
    #[error(transparent)]
    Library(#[from] ImageError),
}

impl From<StoreError> for DistributionError {
    fn from(source: StoreError) -> Self {
        Self::Store(source)
    }
}

/// Names what was done when the disk failed.
pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> DistributionError {
    let context = context.into();
    move |source| DistributionError::Io { context, source }
}
