//! Builds: the builder's two seams over the library and the runtime, and the way of a request.

mod agent;
pub(crate) mod caches;
mod context;
mod git;
mod hosts;
mod library;
mod mounts;
mod sources;
pub(crate) mod step;
mod targets;
pub(crate) mod traces;

use std::sync::Arc;
use std::time::SystemTime;

use cirro_build::{BuildEvent, BuildRequest};
use cirro_image::CachedLayer;
use cirro_types::Digest;
use tokio::sync::mpsc;

use crate::Engine;
use crate::error::{EngineError, blocking, chain, io};
use crate::spec::limits::{self, Moment};
use library::EngineLibrary;
use sources::EngineSources;
use step::EngineSteps;

pub use context::BuildContext;
pub use sources::OwnDirectory;

const CHANNEL: usize = 64;

impl Engine {
    /// Builds an image from a context. Events end with the image or the error.
    pub async fn build_image(
        &self,
        context: BuildContext,
        mut request: BuildRequest,
    ) -> Result<mpsc::Receiver<Result<BuildEvent, String>>, EngineError> {
        // What the kernel cannot set is left out: a build has no place for warnings.
        limits::check(&mut request.limits.resources, &self.shared.host, Moment::Create)?;
        self.resolve_hosts(&mut request.extra_hosts)?;
        let unpacked = self.open_context(context, &mut request).await?;
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

    /// Removes the directories of cache mounts that no build uses and that were last changed when `wanted_space` says, fetched
    /// files, what is noted of earlier builds, and the layers of the build cache that no image has and `wanted_layer` takes;
    /// returns the layers and the bytes given back.
    pub async fn prune_build_cache(
        &self,
        wanted_space: impl Fn(SystemTime) -> bool + Send + 'static,
        wanted_layer: impl Fn(&CachedLayer) -> bool + Send + 'static,
    ) -> Result<(Vec<Digest>, u64), EngineError> {
        let (caches, traces) = (self.shared.build_caches.clone(), self.shared.build_traces.clone());
        let (sources, library) = (self.sources_dir(), self.shared.library.clone());
        blocking(move || {
            match std::fs::remove_dir_all(&sources) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io(format!("remove {}", sources.display()))(error));
                }
                _ => {}
            }
            traces.prune().map_err(io("remove the traces of builds"))?;
            let spaces = caches.prune(&wanted_space)?;
            let (layers, bytes) = library.prune_cache(&wanted_layer)?;
            Ok((layers, bytes + spaces))
        })
        .await
    }

    async fn run_build(&self, request: BuildRequest, out: &mpsc::Sender<Result<BuildEvent, String>>) {
        let (events, mut incoming) = mpsc::channel(CHANNEL);
        let library = Arc::new(EngineLibrary { engine: self.clone(), lender: request.lender.clone() });
        let build = cirro_build::build(
            request,
            library,
            Arc::new(EngineSteps(self.clone())),
            Arc::new(EngineSources(self.clone())),
            events,
        );
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
