//! Builds: the builder's two seams over the library and the runtime, and the way of a request.

pub(crate) mod caches;
mod library;
mod mounts;
pub(crate) mod step;
mod targets;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use cirro_build::{BuildEvent, BuildRequest};
use cirro_image::CachedLayer;
use cirro_types::Digest;
use tokio::sync::mpsc;

use crate::containers::create::remove_dir;
use crate::error::{EngineError, blocking, chain, io};
use crate::images::ChannelReader;
use crate::spec::limits::{self, Moment};
use crate::{Engine, names};
use library::EngineLibrary;
use step::EngineSteps;

const CHANNEL: usize = 64;

/// An unpacked context, removed when it goes.
struct Context(PathBuf);

impl Drop for Context {
    fn drop(&mut self) {
        let dir = std::mem::take(&mut self.0);
        let remove = move || {
            if let Err(error) = remove_dir(&dir) {
                tracing::warn!(%error, "build context not removed");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl Engine {
    /// Builds an image from a context tar (as the classic endpoint gets it). Events end with the image or the error.
    pub async fn build_image(
        &self,
        context: mpsc::Receiver<Result<Bytes, String>>,
        mut request: BuildRequest,
    ) -> Result<mpsc::Receiver<Result<BuildEvent, String>>, EngineError> {
        // What the kernel cannot set is left out: a build has no place for warnings.
        limits::check(&mut request.limits.resources, &self.shared.host, Moment::Create)?;
        let dir = self.shared.options.scratch_dir().join(format!("build-{}", names::new_id()?));
        let unpacked = Context(dir.clone());
        request.context.clone_from(&dir);
        blocking(move || {
            std::fs::create_dir_all(&dir).map_err(io(format!("make {}", dir.display())))?;
            cirro_build::unpack_context(&mut ChannelReader::new(context), &dir)
                .map_err(|error| EngineError::Invalid(chain(&error)))
        })
        .await?;
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let engine = self.clone();
        self.shared.tasks.spawn(async move {
            tokio::select! {
                () = engine.run_build(request, &sender) => {}
                // Nobody waits for it any more.
                () = sender.closed() => {}
                () = engine.shared.cancelled.cancelled() => {}
            }
            drop(unpacked);
        });
        Ok(receiver)
    }

    /// Removes the directories of cache mounts that no build uses and that were last changed when `wanted_space` says, and the
    /// layers of the build cache that no image has and `wanted_layer` takes; returns the layers and the bytes given back.
    pub async fn prune_build_cache(
        &self,
        wanted_space: impl Fn(SystemTime) -> bool + Send + 'static,
        wanted_layer: impl Fn(&CachedLayer) -> bool + Send + 'static,
    ) -> Result<(Vec<Digest>, u64), EngineError> {
        let (caches, library) = (self.shared.build_caches.clone(), self.shared.library.clone());
        blocking(move || {
            let spaces = caches.prune(&wanted_space)?;
            let (layers, bytes) = library.prune_cache(&wanted_layer)?;
            Ok((layers, bytes + spaces))
        })
        .await
    }

    async fn run_build(&self, request: BuildRequest, out: &mpsc::Sender<Result<BuildEvent, String>>) {
        let (events, mut incoming) = mpsc::channel(CHANNEL);
        let library = Arc::new(EngineLibrary(self.clone()));
        let build = cirro_build::build(request, library, Arc::new(EngineSteps(self.clone())), events);
        let mut image = None;
        let forward = async {
            while let Some(event) = incoming.recv().await {
                match event {
                    BuildEvent::Image(id) => image = Some(id),
                    event => drop(out.send(Ok(event)).await),
                }
            }
        };
        // `build` owns the other end of `incoming`, so `forward` ends after it.
        let (result, ()) = tokio::join!(build, forward);
        let last = match result {
            Ok(id) => {
                self.shared.events.emit("image", "build", &id.to_string(), &[("name", &id.to_string())]);
                Ok(BuildEvent::Image(image.unwrap_or(id)))
            }
            Err(error) => {
                // Its layers are kept for a while: the next try goes on from them.
                self.collect_soon();
                Err(chain(&error))
            }
        };
        let _ = out.send(last).await;
    }
}
