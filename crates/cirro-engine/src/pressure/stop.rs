//! Stops who fills the disk, and says why wherever its owner looks.

use super::lock;
use crate::build::step;
use crate::error::EngineError;
use crate::journal::CONTAINERS;
use crate::{Engine, signals};

impl Engine {
    /// Kills a container or a step of a build. A container is not started again by its policy: it would go on writing.
    pub(super) async fn stop_writer(&self, id: &str, why: &str) -> Result<(), EngineError> {
        tracing::warn!(workload = id, why, "stopped");
        if id.starts_with(step::PREFIX) {
            if let Some(step) = lock(&self.shared.pressure.steps).get_mut(id) {
                step.stopped = Some(why.to_owned());
            }
            // One that has just ended is no error.
            let _ = self.shared.supervisor.kill(id, signals::KILL, true).await;
            return Ok(());
        }
        let container = {
            let mut table = self.table();
            let entry = table.get_mut(id).ok_or_else(|| EngineError::no_container(id))?;
            entry.record.container.error = Some(why.to_owned());
            // Nobody waits for the disk here: it is full.
            self.shared.journal.put_lazily(CONTAINERS, id, &entry.record);
            entry.record.container.clone()
        };
        self.emit_container("disk_full", &container, &[("reason", why.to_owned())]);
        self.kill_and_wait(id).await
    }
}
