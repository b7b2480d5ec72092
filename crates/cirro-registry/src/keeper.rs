//! Collection once in a while, for as long as the registry is served.

use cirro_image::distribution::GRACE;
use tokio::time::MissedTickBehavior;

use crate::Registry;
use crate::error::blocking;

impl Registry {
    /// Collects now and then; never returns.
    pub(crate) async fn keep(&self) {
        let mut ticks = tokio::time::interval(self.shared.collect_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once: what a crash left goes when the registry is started.
        loop {
            ticks.tick().await;
            let distribution = self.shared.distribution.clone();
            match blocking(move || distribution.collect(GRACE)).await {
                Ok(collected) if collected == Default::default() => {}
                Ok(collected) => {
                    let (blobs, bytes) = (collected.blobs, collected.bytes);
                    tracing::info!(
                        tags = collected.tags,
                        manifests = collected.manifests,
                        blobs,
                        bytes,
                        "collected"
                    );
                }
                Err(error) => tracing::error!(%error, "collection failed"),
            }
        }
    }
}
