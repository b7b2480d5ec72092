//! What this host's registry keeps, and how its images become those of the library.

use cirro_image::distribution::{Distribution, DistributionError, Rules};
use cirro_image::{Credentials, ImageError, Origin, ProgressSink, PullRequest, Pulled, RegistryError};
use cirro_types::ImageReference;

use crate::Engine;
use crate::error::{EngineError, blocking, chain};

impl Engine {
    /// Opens what this host's registry keeps beside the library, once.
    pub async fn open_distribution(&self, rules: Rules) -> Result<Distribution, EngineError> {
        let library = self.shared.library.clone();
        let opened = blocking(move || Distribution::open(&library, rules).map_err(EngineError::from)).await?;
        Ok(self.shared.distribution.get_or_init(|| opened).clone())
    }

    /// Names another registry by its address, for who mirrors it.
    pub fn origin(&self, address: &str, credentials: Credentials) -> Result<Origin, RegistryError> {
        self.shared.registry.origin(address, credentials)
    }

    /// Pulls a name of this host's own registry without a wire: its layers are unpacked from where they are.
    ///
    /// `None`: the name is not one of it, or more is asked for than one image for this host.
    pub(crate) async fn pull_own(
        &self,
        request: &PullRequest,
        progress: &ProgressSink,
    ) -> Result<Option<Pulled>, RegistryError> {
        let reference = &request.reference;
        let own = self.shared.distribution.get().filter(|distribution| distribution.is_own(reference));
        let Some(distribution) = own.filter(|_| !request.all_tags && request.platform.is_none()) else {
            return Ok(None);
        };
        progress.status(reference.tag.as_deref(), format!("Pulling from {}", reference.path));
        let before = self.image(&reference.to_string()).await.ok().map(|image| image.id);
        let (distribution, wanted) = (distribution.clone(), reference.clone());
        let adopted = tokio::task::spawn_blocking(move || distribution.adopt(&wanted)).await;
        let adopted =
            adopted.map_err(|error| RegistryError::Protocol(format!("pull ended early: {error}")))?;
        let (id, digest) = adopted.map_err(|error| refused(reference, error))?;
        // The library names manifests by SHA-256 alone; others go over the wire.
        let Some(digest) = digest.as_sha256() else { return Ok(None) };
        let newer = before != Some(id);
        progress.status(None, format!("Digest: {digest}"));
        let what = if newer { "Downloaded newer image for" } else { "Image is up to date for" };
        progress.status(None, format!("Status: {what} {}", reference.familiar()));
        Ok(Some(Pulled { id, digest, reference: reference.clone(), newer }))
    }
}

fn refused(reference: &ImageReference, error: DistributionError) -> RegistryError {
    match error {
        DistributionError::Library(error) => RegistryError::Image(error),
        DistributionError::NameUnknown(_)
        | DistributionError::ManifestUnknown(_)
        | DistributionError::BlobUnknown(_) => RegistryError::NotFound(format!(
            "manifest for {} not found: manifest unknown: {error}",
            reference.familiar()
        )),
        error => RegistryError::Protocol(chain(&error)),
    }
}

impl From<DistributionError> for EngineError {
    fn from(error: DistributionError) -> Self {
        match error {
            DistributionError::Library(error @ (ImageError::Invalid(_) | ImageError::NotFound(_))) => {
                error.into()
            }
            DistributionError::NameUnknown(_) | DistributionError::ManifestUnknown(_) => {
                Self::NotFound(format!("manifest unknown: {error}"))
            }
            DistributionError::BlobUnknown(_) => Self::NotFound(error.to_string()),
            error => Self::Failed(chain(&error)),
        }
    }
}
