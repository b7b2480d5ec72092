//! Takes away in the background what nobody needs: layers and blobs without an image, logs and roots without a container.
//!
//! Once an hour, a little earlier or later, so that clouds on one host do not all work at once; and soon after something was
//! removed, or when the disk becomes full. The library decides under its own lock what is needed (images,
//! roots, builds, work in progress), so a pull or build that goes on loses nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::containers::create::remove_dir;
use crate::error::{EngineError, blocking};
use crate::{Engine, names};

const EVERY: Duration = Duration::from_secs(3600);
/// After a start, which has swept already.
const FIRST: Duration = Duration::from_secs(300);
/// After something was removed; what is removed one by one is collected once.
const SOON: Duration = Duration::from_secs(5);
/// What is found twice, so long apart, was not just being made or removed.
const SURE: Duration = Duration::from_secs(2);
/// At least so much time between two collections.
const REST: Duration = Duration::from_secs(30);

impl Engine {
    /// Asks for a collection soon.
    pub(crate) fn collect_soon(&self) {
        self.shared.collection.notify_one();
    }

    /// Collects now and then until the engine stops.
    pub(crate) async fn collect_in_background(self) {
        let mut pause = jittered(FIRST);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.collection.notified() => {
                    if !self.wait(SOON).await {
                        return;
                    }
                }
                () = self.shared.cancelled.cancelled() => return,
            }
            match self.collect().await {
                Ok(0) => {}
                Ok(bytes) => tracing::info!(bytes, "collected"),
                Err(error) => tracing::warn!(%error, "collection failed"),
            }
            if !self.wait(REST).await {
                return;
            }
            pause = jittered(EVERY);
        }
    }

    /// Returns whether the engine goes on.
    async fn wait(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.shared.cancelled.cancelled() => false,
        }
    }

    /// Takes away what nobody needs; returns the bytes of layers that are given back.
    pub async fn collect(&self) -> Result<u64, EngineError> {
        let library = self.shared.library.clone();
        let bytes = blocking(move || Ok(library.collect()?)).await?;
        self.sweep_strays().await?;
        Ok(bytes)
    }

    /// Removes directories and roots of containers that do not exist.
    async fn sweep_strays(&self) -> Result<(), EngineError> {
        let found = self.strays().await?;
        if found.is_empty() || !self.wait(SURE).await {
            return Ok(());
        }
        let still = self.strays().await?;
        let (library, options) = (self.shared.library.clone(), self.shared.options.clone());
        blocking(move || {
            for id in found.intersection(&still) {
                tracing::info!(container = id, "files without a container removed");
                library.remove_root(id)?;
                remove_dir(&options.container_dir(id))?;
            }
            Ok(())
        })
        .await
    }

    async fn strays(&self) -> Result<BTreeSet<String>, EngineError> {
        let engine = self.clone();
        blocking(move || Ok(engine.stray_files(false))).await
    }
}

/// A tenth more or less.
fn jittered(time: Duration) -> Duration {
    // Without chance all is well too, only at once.
    let [byte] = names::random::<1>().unwrap_or_default();
    time.mul_f64(0.9 + 0.2 * f64::from(byte) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_between_collections_varies_a_little() {
        for _ in 0..50 {
            let time = jittered(EVERY);
            assert!(time >= EVERY.mul_f64(0.9) && time <= EVERY.mul_f64(1.1), "{time:?}");
        }
    }
}
