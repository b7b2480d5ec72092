//! Taking everything away, and finding what should not be there.

use std::collections::BTreeSet;

use futures_util::StreamExt;

use crate::Engine;
use crate::containers::is_active;
use crate::error::EngineError;
use crate::instances;

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
        Ok(())
    }

    /// Finds leaks: workloads, roots, namespaces, links, cgroups without a record, and records without them.
    pub async fn leaks(&self) -> Result<Vec<String>, EngineError> {
        let mut found = Vec::new();
        let workloads: BTreeSet<String> =
            self.shared.supervisor.list().await?.into_iter().map(|workload| workload.id).collect();
        let mut expected = BTreeSet::new();
        for container in self.containers() {
            if is_active(container.phase) && !workloads.contains(&container.id) {
                found.push(format!("container {} is recorded as running and has no process", container.id));
            }
            expected.insert(container.id);
        }
        for machine in self.instances() {
            let id = instances::workload_id(&machine.uid);
            if machine.running && !workloads.contains(&id) {
                found.push(format!("machine {} is recorded as running and has no process", machine.uid));
            }
            expected.insert(id);
        }
        for id in workloads.difference(&expected).filter(|id| !id.starts_with(crate::build::step::PREFIX)) {
            found.push(format!("workload {id} has no record"));
        }
        let building = |id: &String| id.starts_with(crate::build::step::PREFIX) && workloads.contains(id);
        let stray = |what: &str, ids: Vec<String>| {
            let strays = ids.into_iter().filter(|id| !building(id));
            strays.map(|id| format!("{what} {id} has no workload")).collect::<Vec<_>>()
        };
        found.extend(stray("port", self.stray_ports()));
        found.extend(stray("network namespace", self.stray_namespaces()));
        found.extend(stray("container directory", self.stray_directories()));
        found.extend(stray("shared memory", self.stray_shared_memory()));
        let network = self.shared.network.leaks().await?;
        found.extend(network.into_iter().filter(|leak| !self.is_bare_namespace(leak)));
        Ok(found)
    }

    /// Whether what the network takes for a leak is the namespace of something that wants no port (`--network none`).
    fn is_bare_namespace(&self, leak: &str) -> bool {
        let path = leak.strip_prefix("network namespace ").map(std::path::Path::new);
        let id = path.and_then(|path| path.file_name()).and_then(|name| name.to_str());
        id.is_some_and(|id| self.owns_network_of(id) || id.starts_with(crate::build::step::PREFIX))
    }
}
