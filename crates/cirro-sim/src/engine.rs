//! The kubelet's seam over the simulated host: count, delay, perhaps fail, then do.

use std::time::Duration;

use bytes::Bytes;
use cirro_seams::Pending;
use cirro_seams::container::{Container, ContainerSpec, Owner, Resources};
use cirro_seams::network::{NameRecord, ServicePort};
use cirro_seams::node::{
    Connection, ExecRequest, InstanceRequest, InstanceState, LogOptions, NodeEngine, NodeError, NodeEvent,
    Sandbox, SandboxSpec, Session, TenantNetworks,
};
use cirro_seams::usage::{Counts, UsageSample};
use tokio::sync::{broadcast, mpsc};

use crate::SimEngine;
use crate::faults::Operation;

/// What a container uses: a tenth of a processor, and so much memory.
const CONTAINER_SHARE: u64 = 10;
const CONTAINER_BYTES: u64 = 8 << 20;

/// An operation takes up to so many microseconds, by the seed.
const SLOWEST: u64 = 3000;

impl SimEngine {
    /// Begins a call: it takes its time, and fails if it is to.
    async fn call(&self, operation: Operation) -> Result<(), NodeError> {
        let (delay, outcome) = {
            let mut guard = self.state();
            let state = &mut *guard;
            let delay = Duration::from_micros(state.random.below(SLOWEST));
            (delay, state.faults.call(operation, &mut state.random))
        };
        tokio::time::sleep(delay).await;
        outcome
    }

    /// A call whose work is done at once.
    fn simple<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        work: impl FnOnce(&Self) -> Result<T, NodeError> + Send + 'a,
    ) -> Pending<'a, Result<T, NodeError>> {
        Box::pin(async move {
            self.call(operation).await?;
            work(self)
        })
    }
}

impl NodeEngine for SimEngine {
    fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.shared.events.subscribe()
    }

    fn ensure_sandbox(&self, spec: SandboxSpec) -> Pending<'_, Result<Sandbox, NodeError>> {
        self.simple(Operation::EnsureSandbox, |engine| engine.state().ensure_sandbox(spec))
    }

    fn remove_sandbox(&self, uid: &str) -> Pending<'_, Result<(), NodeError>> {
        let uid = uid.to_owned();
        self.simple(Operation::RemoveSandbox, move |engine| {
            engine.forget_sandbox(&uid);
            Ok(())
        })
    }

    fn list_sandboxes(&self) -> Pending<'_, Result<Vec<Sandbox>, NodeError>> {
        self.simple(Operation::ListSandboxes, |engine| Ok(engine.sandboxes()))
    }

    fn run_container(&self, spec: ContainerSpec) -> Pending<'_, Result<String, NodeError>> {
        Box::pin(async move {
            self.call(Operation::RunContainer).await?;
            self.start_container(spec).await
        })
    }

    fn list_pod_containers(&self) -> Pending<'_, Result<Vec<Container>, NodeError>> {
        self.simple(Operation::ListContainers, |engine| Ok(engine.containers()))
    }

    fn containers_of_pod(&self, uid: &str) -> Pending<'_, Result<Vec<Container>, NodeError>> {
        let wanted = uid.to_owned();
        self.simple(Operation::ListContainers, move |engine| {
            let mut containers = engine.containers();
            containers.retain(
                |container| matches!(&container.spec.owner, Owner::Pod { uid, .. } if *uid == wanted),
            );
            containers.sort_by(|a, b| b.created_at.cmp(&a.created_at));
            Ok(containers)
        })
    }

    fn stop_container(&self, id: &str, grace_seconds: i64) -> Pending<'_, Result<(), NodeError>> {
        let id = id.to_owned();
        Box::pin(async move {
            self.call(Operation::StopContainer).await?;
            self.stop(&id, grace_seconds).await
        })
    }

    fn update_container(&self, id: &str, limits: Resources) -> Pending<'_, Result<(), NodeError>> {
        let id = id.to_owned();
        self.simple(Operation::UpdateContainer, move |engine| {
            engine.state().find(&id)?.container.spec.resources = limits;
            Ok(())
        })
    }

    fn remove_container(&self, id: &str) -> Pending<'_, Result<(), NodeError>> {
        let id = id.to_owned();
        self.simple(Operation::RemoveContainer, move |engine| engine.forget_container(&id))
    }

    fn find_image(&self, name: &str) -> Pending<'_, Result<Option<String>, NodeError>> {
        let name = name.to_owned();
        self.simple(Operation::FindImage, move |engine| Ok(engine.state().image_id(&name)))
    }

    fn pull_image(&self, name: &str) -> Pending<'_, Result<String, NodeError>> {
        let name = name.to_owned();
        self.simple(Operation::PullImage, move |engine| {
            let missing = || NodeError::NotFound(format!("manifest for {name} not found: manifest unknown"));
            engine.state().image_id(&name).ok_or_else(missing)
        })
    }

    /// The host uses a whole processor, each container a tenth of it.
    fn usage(&self) -> Pending<'_, Result<UsageSample, NodeError>> {
        self.simple(Operation::Usage, |engine| {
            let elapsed = u64::try_from(engine.shared.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let used = |cpu_nanoseconds, working_set_bytes| Counts { cpu_nanoseconds, working_set_bytes };
            let one = used(elapsed / CONTAINER_SHARE, CONTAINER_BYTES);
            let containers = engine.running().into_iter().map(|container| (container.id, one)).collect();
            Ok(UsageSample { host: used(elapsed, 1 << 30), containers })
        })
    }

    fn logs(&self, id: &str, options: LogOptions) -> Pending<'_, Result<mpsc::Receiver<Bytes>, NodeError>> {
        let id = id.to_owned();
        self.simple(Operation::Logs, move |engine| engine.read_log(&id, &options))
    }

    fn exec(&self, id: &str, request: ExecRequest) -> Pending<'_, Result<Session, NodeError>> {
        let id = id.to_owned();
        self.simple(Operation::Exec, move |engine| engine.run_command(&id, &request))
    }

    fn attach(&self, id: &str, _stdin: bool) -> Pending<'_, Result<Session, NodeError>> {
        let id = id.to_owned();
        self.simple(Operation::Attach, move |engine| engine.attach_to(&id))
    }

    /// Nothing listens in a simulated pod.
    fn connect_sandbox(&self, _uid: &str, port: u16) -> Pending<'_, Result<Connection, NodeError>> {
        let refusal = format!("dial tcp 127.0.0.1:{port}: connection refused");
        Box::pin(async move { Err(NodeError::Failed(refusal)) })
    }

    fn set_services(&self, services: Vec<ServicePort>) -> Pending<'_, Result<(), NodeError>> {
        self.simple(Operation::SetServices, |engine| {
            engine.state().services = services;
            Ok(())
        })
    }

    fn set_names(&self, names: Vec<NameRecord>) -> Pending<'_, Result<(), NodeError>> {
        self.simple(Operation::SetNames, |engine| {
            engine.state().names = names;
            Ok(())
        })
    }

    fn set_tenant_networks(&self, networks: TenantNetworks) -> Pending<'_, Result<(), NodeError>> {
        self.simple(Operation::SetNetworks, |engine| {
            engine.state().networks = networks;
            Ok(())
        })
    }

    fn ensure_instance(&self, request: InstanceRequest) -> Pending<'_, Result<InstanceState, NodeError>> {
        Box::pin(async move {
            self.call(Operation::EnsureInstance).await?;
            self.start_machine(request).await
        })
    }

    fn stop_instance(&self, uid: &str) -> Pending<'_, Result<(), NodeError>> {
        let uid = uid.to_owned();
        self.simple(Operation::StopInstance, move |engine| {
            engine.end_machine(&uid, None);
            Ok(())
        })
    }

    fn remove_instance(&self, uid: &str) -> Pending<'_, Result<(), NodeError>> {
        let uid = uid.to_owned();
        self.simple(Operation::RemoveInstance, move |engine| {
            engine.state().machines.remove(&uid);
            Ok(())
        })
    }

    fn list_instances(&self) -> Pending<'_, Result<Vec<InstanceState>, NodeError>> {
        self.simple(Operation::ListInstances, |engine| Ok(engine.machines()))
    }

    fn instance_console(&self, uid: &str, limit: usize) -> Pending<'_, Result<Bytes, NodeError>> {
        let uid = uid.to_owned();
        self.simple(Operation::Console, move |engine| {
            if !engine.state().machines.contains_key(&uid) {
                return Err(NodeError::NotFound(format!("no machine {uid}")));
            }
            let text = Bytes::from("simulated machine\n");
            Ok(text.slice(text.len().saturating_sub(limit)..))
        })
    }
}
