//! The engine as BuildKit's protocol needs it.

use std::any::Any;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cirro_build::{BuildEvent, BuildRequest};
use cirro_buildkit::backend::{Backend, CacheRecord, Pieces, Place, Source};
use cirro_engine::{BuildContext, Engine, OwnDirectory};
use cirro_image::{CachedLayer, Credentials, ProgressSink};
use cirro_seams::Pending;
use cirro_types::{Digest, ImageReference};
use tokio::sync::mpsc;

/// The engine of this host.
pub(crate) struct EngineBackend {
    pub(crate) engine: Engine,
    /// Version of the cloud.
    pub(crate) version: String,
}

struct OwnPlace(Arc<OwnDirectory>);

impl Place for OwnPlace {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self.0.clone()
    }
}

fn record(layer: &CachedLayer) -> CacheRecord {
    let since = layer.made.and_then(|made| made.duration_since(SystemTime::UNIX_EPOCH).ok());
    CacheRecord {
        id: layer.diff_id.hex(),
        size: layer.size,
        shared: layer.shared,
        made: since.and_then(|since| i64::try_from(since.as_secs()).ok()),
    }
}

fn who(credentials: Option<(String, String)>) -> Credentials {
    let (name, password) = credentials.unwrap_or_default();
    Credentials::of(name, password)
}

impl Backend for EngineBackend {
    fn open_place(&self) -> Pending<'_, Result<Arc<dyn Place>, String>> {
        Box::pin(async move {
            let own = self.engine.own_directory().await.map_err(|error| error.to_string())?;
            Ok(Arc::new(OwnPlace(Arc::new(own))) as Arc<dyn Place>)
        })
    }

    fn build(
        &self,
        source: Source,
        request: BuildRequest,
    ) -> Pending<'_, Result<mpsc::Receiver<Result<BuildEvent, String>>, String>> {
        Box::pin(async move {
            let context = match source {
                Source::Remote(address) => BuildContext::Remote(address),
                Source::Upload(pieces) => BuildContext::Upload(pieces),
                Source::Place(place) => match place.into_any().downcast::<OwnDirectory>() {
                    Ok(own) => BuildContext::Directory(own),
                    Err(_) => return Err("the context is of another backend".into()),
                },
            };
            self.engine.build_image(context, request).await.map_err(|error| error.to_string())
        })
    }

    fn forget(&self, image: Digest) -> Pending<'_, ()> {
        Box::pin(async move {
            let named = self.engine.image(&image.to_string()).await.is_ok_and(|image| !image.tags.is_empty());
            if named {
                return;
            }
            if let Err(error) = self.engine.remove_image(&image.to_string(), false).await {
                tracing::debug!(%error, "image of a build that was given out not removed");
            }
        })
    }

    fn push(
        &self,
        image: ImageReference,
        credentials: Option<(String, String)>,
    ) -> Pending<'_, Result<(), String>> {
        Box::pin(async move {
            let pushed =
                self.engine.push_image(&image, false, &who(credentials), &ProgressSink::nowhere()).await;
            pushed.map_err(|error| error.to_string())
        })
    }

    fn save(&self, image: Digest, names: Vec<ImageReference>) -> Pending<'_, Result<Pieces, String>> {
        Box::pin(async move { Ok(self.engine.save_image_as(image, names)) })
    }

    fn layers(&self, image: Digest) -> Pending<'_, Result<Vec<PathBuf>, String>> {
        Box::pin(async move {
            let image = self.engine.image(&image.to_string()).await.map_err(|error| error.to_string())?;
            self.engine.image_layers(&image).await.map_err(|error| error.to_string())
        })
    }

    fn cache(&self) -> Pending<'_, Result<Vec<CacheRecord>, String>> {
        Box::pin(async move {
            let layers = self.engine.build_cache().await.map_err(|error| error.to_string())?;
            Ok(layers.iter().map(record).collect())
        })
    }

    fn prune(&self, all: bool, until: Option<i64>) -> Pending<'_, Result<Vec<CacheRecord>, String>> {
        Box::pin(async move {
            let until = until.and_then(|seconds| u64::try_from(seconds).ok());
            let until = until.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            let before = self.engine.build_cache().await.map_err(|error| error.to_string())?;
            let old = move |made: SystemTime| until.is_none_or(|until| made <= until);
            let wanted = move |layer: &CachedLayer| {
                (all || !layer.shared) && (until.is_none() || layer.made.is_some_and(old))
            };
            let pruned = self.engine.prune_build_cache(old, wanted).await;
            let (gone, _) = pruned.map_err(|error| error.to_string())?;
            Ok(before.iter().filter(|layer| gone.contains(&layer.diff_id)).map(record).collect())
        })
    }

    fn host_gateway(&self) -> Option<IpAddr> {
        self.engine.host_gateway()
    }

    fn socket_directory(&self) -> PathBuf {
        std::env::temp_dir()
    }

    fn version(&self) -> String {
        self.version.clone()
    }
}
