//! What this host's registry keeps, and how its images become those of the library.

use cirro_image::ImageError;
use cirro_image::distribution::{BlobDigest, Distribution, DistributionError, Rules};
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

    /// Makes an image of the library from what a name of this host's registry names; returns the manifest's digest.
    ///
    /// `None`: the name is not one of this host's registry.
    pub async fn adopt_image(&self, name: &ImageReference) -> Result<Option<BlobDigest>, EngineError> {
        let Some(distribution) = self.shared.distribution.get() else { return Ok(None) };
        if !distribution.is_own(name) {
            return Ok(None);
        }
        let (distribution, wanted) = (distribution.clone(), name.clone());
        let adopted = blocking(move || Ok(distribution.adopt(&wanted)?)).await;
        let (id, digest) = adopted?;
        self.shared.events.emit(
            "image",
            "pull",
            &name.familiar(),
            &[("name", &name.familiar()), ("id", &id.to_string())],
        );
        Ok(Some(digest))
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
