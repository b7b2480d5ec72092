//! Taking everything away.

use futures_util::StreamExt;

use crate::Engine;
use crate::error::EngineError;

const AT_ONCE: usize = 16;

impl Engine {
    /// Ends and forgets every workload, then supervisor, guardian, network. Images and volumes stay.
    ///
    /// Goes on after a failure; the first one is told at the end.
    pub async fn tear_down(&self) -> Result<(), EngineError> {
        let mut first = Ok(());
        let mut note = |result: Result<(), EngineError>| {
            if let Err(error) = result {
                tracing::error!(%error, "tear down");
                if first.is_ok() {
                    first = Err(error);
                }
            }
        };
        for result in self.remove_everything().await {
            note(result);
        }
        self.stop().await;
        note(self.delete_leftovers().await);
        note(self.shared.network.tear_down().await.map_err(EngineError::from));
        note(self.shared.supervisor.shut_down().await.map_err(EngineError::from));
        first
    }

    async fn remove_everything(&self) -> Vec<Result<(), EngineError>> {
        let gone = |result: Result<(), EngineError>| match result {
            Err(EngineError::NotFound(_)) => Ok(()),
            result => result,
        };
        let containers = self
            .containers()
            .into_iter()
            .map(|container| async move { gone(self.remove_by_id(&container.id, true, false).await) });
        let mut results: Vec<_> =
            futures_util::stream::iter(containers).buffer_unordered(AT_ONCE).collect().await;
        let machines = self
            .instances()
            .into_iter()
            .map(|machine| async move { gone(self.remove_instance(&machine.uid).await) });
        results
            .extend(futures_util::stream::iter(machines).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await);
        for sandbox in self.sandboxes() {
            results.push(gone(self.remove_sandbox(&sandbox.uid).await));
        }
        results
    }

    /// Deletes workloads that no record knows: steps of builds that were under way.
    async fn delete_leftovers(&self) -> Result<(), EngineError> {
        for workload in self.shared.supervisor.list().await? {
            self.acknowledge(&workload.id).await;
        }
        for id in self.stray_ports() {
            self.shared.network.delete_port(&id).await?;
        }
        for id in self.stray_namespaces() {
            self.shared.network.delete_namespace(&id).await?;
        }
        self.sweep_shared_memory()?;
        self.sweep_mounted_volumes().await
    }
}
