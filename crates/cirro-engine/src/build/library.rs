//! The image library as the builder sees it.

use cirro_image::{Credentials, ImageError, Library};
use cirro_seams::Pending;
use cirro_seams::build::{BaseImage, Borrowed, BuildFault, BuildLibrary, CacheSpace, Sharing, WorkingLayer};
use cirro_types::{Digest, ImageConfig, ImageReference};

use crate::Engine;
use crate::error::{EngineError, blocking, chain, io};

/// The library of this host.
pub(super) struct EngineLibrary {
    pub(super) engine: Engine,
    /// Who is asked for a registry's password.
    pub(super) lender: Option<Borrowed>,
}

impl EngineLibrary {
    fn run<T, F>(&self, work: F) -> Pending<'_, Result<T, BuildFault>>
    where
        T: Send + 'static,
        F: FnOnce(Library) -> Result<T, ImageError> + Send + 'static,
    {
        let library = self.engine.shared.library.clone();
        Box::pin(async move {
            let done =
                blocking(move || work(library).map_err(|error| EngineError::Failed(chain(&error)))).await;
            done.map_err(BuildFault::from)
        })
    }
}

impl EngineLibrary {
    /// Asks the one who builds for what the registry of an image wants to know.
    async fn credentials(&self, name: &str) -> Result<Credentials, BuildFault> {
        let (Some(lender), Ok(reference)) = (&self.lender, name.parse::<ImageReference>()) else {
            return Ok(Credentials::default());
        };
        let found = lender.0.credentials(reference.domain).await?;
        let (username, password) = found.unwrap_or_default();
        Ok(Credentials::of(username, password))
    }
}

impl BuildLibrary for EngineLibrary {
    fn find(&self, name: &str) -> Pending<'_, Result<Option<BaseImage>, BuildFault>> {
        let name = name.to_owned();
        self.run(move |library| match library.find(&name) {
            Ok(image) => Ok(Some(BaseImage { id: image.id, config: image.config })),
            Err(ImageError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        })
    }

    fn fetch(&self, name: &str, pull: bool) -> Pending<'_, Result<Option<BaseImage>, BuildFault>> {
        let name = name.to_owned();
        Box::pin(async move {
            if !pull && let Some(found) = self.find(&name).await? {
                return Ok(Some(found));
            }
            let credentials = self.credentials(&name).await?;
            let id = self.engine.pull_wanted(&name, credentials).await?;
            self.find(&id).await
        })
    }

    fn open_layer(&self, below: Vec<Digest>) -> Pending<'_, Result<WorkingLayer, BuildFault>> {
        self.run(move |library| {
            let (key, root) = library.open_layer(&below)?;
            Ok(WorkingLayer { key, lower: root.lower, upper: root.upper, work: root.work })
        })
    }

    fn commit_layer(&self, layer: WorkingLayer) -> Pending<'_, Result<Digest, BuildFault>> {
        self.run(move |library| library.commit_layer(&layer.key))
    }

    fn drop_layer(&self, layer: WorkingLayer) -> Pending<'_, Result<(), BuildFault>> {
        self.run(move |library| library.drop_layer(&layer.key))
    }

    fn put_image(
        &self,
        config: ImageConfig,
        tags: Vec<ImageReference>,
    ) -> Pending<'_, Result<Digest, BuildFault>> {
        self.run(move |library| library.put_image(&config, &tags))
    }

    fn cached(&self, key: Digest) -> Pending<'_, Option<Digest>> {
        let found = self.run(move |library| library.cached_layer(&key));
        Box::pin(async move {
            found.await.unwrap_or_else(|error| {
                tracing::warn!(%error, "build cache not read");
                None
            })
        })
    }

    fn trace(&self, slot: Digest) -> Pending<'_, Option<Vec<u8>>> {
        let traces = self.engine.shared.build_traces.clone();
        Box::pin(async move { blocking(move || Ok(traces.load(&slot))).await.unwrap_or_default() })
    }

    fn trace_stamp(&self, slot: Digest) -> Pending<'_, Option<Digest>> {
        let traces = self.engine.shared.build_traces.clone();
        Box::pin(async move { blocking(move || Ok(traces.stamp(&slot))).await.unwrap_or_default() })
    }

    fn keep_trace(&self, slot: Digest, stamp: Digest, trace: Vec<u8>) -> Pending<'_, ()> {
        let traces = self.engine.shared.build_traces.clone();
        Box::pin(async move {
            let kept = blocking(move || {
                traces.keep(&slot, &stamp, &trace).map_err(io("note what decided the build's steps"))
            });
            if let Err(error) = kept.await {
                tracing::warn!(%error, "trace of a build not kept");
            }
        })
    }

    fn open_cache(
        &self,
        id: String,
        sharing: Sharing,
    ) -> Pending<'_, Result<Box<dyn CacheSpace>, BuildFault>> {
        Box::pin(
            async move { self.engine.shared.build_caches.open(&id, sharing).await.map_err(BuildFault::from) },
        )
    }

    fn remember(&self, key: Digest, diff_id: Digest) -> Pending<'_, ()> {
        let noted = self.run(move |library| library.remember_layer(&key, &diff_id));
        Box::pin(async move {
            if let Err(error) = noted.await {
                tracing::warn!(%error, "build cache not written");
            }
        })
    }
}
