//! The registries that ours mirrors, by the client that pulls use too.

use bytes::Bytes;
use cirro_image::{Origin, RegistryError};
use cirro_registry::{Found, Upstream, UpstreamError};
use cirro_seams::Pending;
use cirro_types::Digest;
use tokio::sync::mpsc;

/// One upstream.
pub(crate) struct RegistryUpstream(pub(crate) Origin);

impl Upstream for RegistryUpstream {
    fn manifest(&self, repository: &str, reference: &str) -> Pending<'_, Result<Found, UpstreamError>> {
        let (repository, reference) = (repository.to_owned(), reference.to_owned());
        Box::pin(async move {
            let (bytes, media_type) = self.0.manifest(&repository, &reference).await.map_err(refused)?;
            Ok(Found { bytes, media_type: media_type.unwrap_or_default() })
        })
    }

    fn blob(
        &self,
        repository: &str,
        digest: &str,
        pieces: mpsc::Sender<Bytes>,
    ) -> Pending<'_, Result<(), UpstreamError>> {
        let (repository, digest) = (repository.to_owned(), digest.parse::<Digest>());
        Box::pin(async move {
            // The client knows SHA-256 alone.
            let Ok(digest) = digest else { return Err(UpstreamError::NotFound) };
            self.0.blob(&repository, &digest, &pieces).await.map_err(refused)
        })
    }
}

fn refused(error: RegistryError) -> UpstreamError {
    match error {
        RegistryError::Refused { status: 404, .. } | RegistryError::NotFound(_) => UpstreamError::NotFound,
        error => UpstreamError::Unreachable(error.to_string()),
    }
}
