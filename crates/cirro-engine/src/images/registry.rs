//! Images between this host and registries.

use std::io;
use std::net::IpAddr;

use cirro_image::{
    Credentials, Distribution, Image, ProgressSink, PullRequest, Pulled, RegistryError, Resolve,
};
use cirro_seams::Pending;
use cirro_types::ImageReference;
use serde_json::Value;

use crate::Engine;
use crate::error::{EngineError, chain};

/// The names that this host knows.
pub(crate) struct HostNames;

impl Resolve for HostNames {
    fn resolve<'a>(&'a self, name: &'a str) -> Pending<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(cirro_net::resolve_host(name))
    }
}

impl Engine {
    /// Pulls an image, or every tag of a repository.
    ///
    /// Ends at once when the engine stops; a caller that drops the future ends it too.
    pub async fn pull_image(
        &self,
        request: PullRequest,
        progress: &ProgressSink,
    ) -> Result<Vec<Pulled>, RegistryError> {
        let shared = &self.shared;
        if let Some(pulled) = self.pull_own(&request, progress).await? {
            self.emit_image("pull", &pulled.reference.familiar(), &pulled.reference.familiar_name());
            return Ok(vec![pulled]);
        }
        let pulled = tokio::select! {
            pulled = shared.registry.pull(&shared.library, request, progress) => {
                pulled.inspect_err(|_| self.collect_soon())?
            }
            () = shared.cancelled.cancelled() => return Err(RegistryError::Cancelled),
        };
        for one in &pulled {
            self.emit_image("pull", &one.reference.familiar(), &one.reference.familiar_name());
        }
        Ok(pulled)
    }

    /// Fetches an image for someone who shows no progress; returns its id.
    ///
    /// A name is asked for where its authority is: in the library for what was built, loaded or tagged here, in its
    /// registry for what was pulled, and for what is not here.
    pub(crate) async fn pull_wanted(
        &self,
        name: &str,
        credentials: Credentials,
    ) -> Result<String, EngineError> {
        if let Ok(image) = self.image(name).await
            && !was_pulled(&image, name)
        {
            return Ok(image.id.to_string());
        }
        let Ok(reference) = name.parse::<ImageReference>() else {
            return Err(EngineError::Invalid(format!("invalid reference format: {name}")));
        };
        let request = PullRequest { reference, all_tags: false, platform: None, credentials };
        let pulled = self.pull_image(request, &ProgressSink::nowhere()).await;
        let pulled = pulled.map_err(|error| match &error {
            RegistryError::NotFound(text) => EngineError::NotFound(text.clone()),
            _ => EngineError::Failed(chain(&error)),
        })?;
        match pulled.first() {
            Some(one) => Ok(one.id.to_string()),
            None => Err(EngineError::NotFound(format!("No such image: {name}"))),
        }
    }

    /// Pushes a tag, or every tag of a repository.
    pub async fn push_image(
        &self,
        reference: &ImageReference,
        all_tags: bool,
        credentials: &Credentials,
        progress: &ProgressSink,
    ) -> Result<(), RegistryError> {
        let shared = &self.shared;
        tokio::select! {
            pushed = shared.registry.push(&shared.library, reference, all_tags, credentials, progress) => pushed?,
            () = shared.cancelled.cancelled() => return Err(RegistryError::Cancelled),
        }
        let name = if all_tags { reference.familiar_name() } else { reference.familiar() };
        self.emit_image("push", &name, &reference.familiar_name());
        Ok(())
    }

    /// Asks a registry whether it takes credentials; returns its identity token for them, if it has such.
    pub async fn login_registry(&self, credentials: &Credentials) -> Result<Option<String>, RegistryError> {
        self.shared.registry.login(credentials).await
    }

    /// Tells what a registry has under a name.
    pub async fn distribution(
        &self,
        reference: &ImageReference,
        credentials: &Credentials,
    ) -> Result<Distribution, RegistryError> {
        self.shared.registry.distribution(reference, credentials).await
    }

    /// Searches the hub.
    pub async fn search_registry(&self, term: &str, limit: u32) -> Result<Vec<Value>, RegistryError> {
        self.shared.registry.search(term, limit).await
    }
}

/// Tells whether a name came from a registry: then the image has a digest in the same repository.
fn was_pulled(image: &Image, name: &str) -> bool {
    let Ok(reference) = name.parse::<ImageReference>() else { return false };
    let same = |tag: &ImageReference| tag.domain == reference.domain && tag.path == reference.path;
    // An image that was found by its id has no place to be asked for.
    image.tags.iter().any(same) && image.tags.iter().any(|tag| tag.digest.is_some() && same(tag))
}
