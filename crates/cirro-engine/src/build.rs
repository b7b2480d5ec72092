//! Builds: the builder's two seams over the library and the runtime, and the way of a request.

pub(crate) mod caches;
mod library;
mod mounts;
pub(crate) mod step;
mod targets;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cirro_build::{BuildEvent, BuildRequest};
use tokio::sync::mpsc;

use crate::containers::create::remove_dir;
use crate::error::{EngineError, blocking, chain, io};
use crate::images::ChannelReader;
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

    /// Removes the directories of cache mounts that no build uses.
    pub async fn prune_build_caches(&self) -> Result<(), EngineError> {
        let caches = self.shared.build_caches.clone();
        blocking(move || caches.prune()).await
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
            Err(error) => Err(chain(&error)),
        };
        let _ = out.send(last).await;
    }
}
