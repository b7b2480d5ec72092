//! The engine as the kubelet uses it. What is refused to docker's clients for a pod's sake is allowed here.

mod connect;
mod pods;
pub(crate) mod sandboxes;
mod usage;

use std::sync::Arc;

use bytes::Bytes;
use cirro_container::LogQuery;
use cirro_net::Tenants;
use cirro_seams::Pending;
use cirro_seams::container::{Container, ContainerSpec, Owner, Resources};
use cirro_seams::network::{NameRecord, ServicePort};
use cirro_seams::node::{
    Connection, ExecRequest, InstanceRequest, InstanceState, LogOptions, NodeEngine, NodeError, NodeEvent,
    Sandbox, SandboxSpec, Session, TenantNetworks,
};
use cirro_seams::usage::UsageSample;
use tokio::sync::{broadcast, mpsc};

use crate::Engine;
use crate::error::EngineError;

/// The seam over the engine.
struct Node(Engine);

impl Engine {
    /// Returns the seam that the kubelet uses.
    pub fn node(&self) -> Arc<dyn NodeEngine> {
        Arc::new(Node(self.clone()))
    }
}

/// Finishes a call in the seam's words.
fn answer<'a, T: Send + 'a>(
    call: impl Future<Output = Result<T, EngineError>> + Send + 'a,
) -> Pending<'a, Result<T, NodeError>> {
    Box::pin(async move { call.await.map_err(NodeError::from) })
}

impl NodeEngine for Node {
    fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.0.shared.node_events.subscribe()
    }

    fn ensure_sandbox(&self, spec: SandboxSpec) -> Pending<'_, Result<Sandbox, NodeError>> {
        answer(self.0.ensure_sandbox(spec))
    }

    fn remove_sandbox(&self, uid: &str) -> Pending<'_, Result<(), NodeError>> {
        let uid = uid.to_owned();
        answer(async move { self.0.remove_sandbox(&uid).await })
    }

    fn list_sandboxes(&self) -> Pending<'_, Result<Vec<Sandbox>, NodeError>> {
        answer(async { Ok(self.0.sandboxes()) })
    }

    fn run_container(&self, spec: ContainerSpec) -> Pending<'_, Result<String, NodeError>> {
        answer(self.0.run_pod_container(spec))
    }

    fn list_pod_containers(&self) -> Pending<'_, Result<Vec<Container>, NodeError>> {
        answer(async {
            Ok(self.0.containers_where(|container| matches!(container.spec.owner, Owner::Pod { .. })))
        })
    }

    fn containers_of_pod(&self, uid: &str) -> Pending<'_, Result<Vec<Container>, NodeError>> {
        let wanted = uid.to_owned();
        answer(async move {
            Ok(self.0.containers_where(
                |container| matches!(&container.spec.owner, Owner::Pod { uid, .. } if *uid == wanted),
            ))
        })
    }

    fn stop_container(&self, id: &str, grace_seconds: i64) -> Pending<'_, Result<(), NodeError>> {
        let id = id.to_owned();
        answer(async move {
            match self.0.stop_by_id(&id, None, Some(grace_seconds)).await {
                Ok(()) | Err(EngineError::NotModified(_)) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn update_container(&self, id: &str, limits: Resources) -> Pending<'_, Result<(), NodeError>> {
        let id = id.to_owned();
        answer(async move { self.0.update_by_id(&id, limits, None).await.map(drop) })
    }

    fn remove_container(&self, id: &str) -> Pending<'_, Result<(), NodeError>> {
        let id = id.to_owned();
        answer(async move {
            self.0.remove_by_id(&id, false, true).await?;
            self.0.shared.journal.flush().await
        })
    }

    fn find_image(&self, name: &str) -> Pending<'_, Result<Option<String>, NodeError>> {
        let name = name.to_owned();
        answer(async move {
            match self.0.image(&name).await {
                Ok(image) => Ok(Some(image.id.to_string())),
                Err(EngineError::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn pull_image(&self, name: &str) -> Pending<'_, Result<String, NodeError>> {
        let name = name.to_owned();
        answer(async move { self.0.pull_wanted(&name, cirro_image::Credentials::default()).await })
    }

    fn usage(&self) -> Pending<'_, Result<UsageSample, NodeError>> {
        answer(self.0.usage())
    }

    fn logs(&self, id: &str, options: LogOptions) -> Pending<'_, Result<mpsc::Receiver<Bytes>, NodeError>> {
        let id = id.to_owned();
        answer(async move {
            let query =
                LogQuery { tail: options.tail, since: options.since, until: None, follow: options.follow };
            let entries = self.0.container_logs(&id, query).await?;
            Ok(self.0.plain_log(entries, options))
        })
    }

    fn exec(&self, id: &str, request: ExecRequest) -> Pending<'_, Result<Session, NodeError>> {
        let id = id.to_owned();
        answer(async move {
            let exec = self.0.create_exec(&id, request).await?;
            self.0.start_exec(&exec).await
        })
    }

    fn attach(&self, id: &str, stdin: bool) -> Pending<'_, Result<Session, NodeError>> {
        let id = id.to_owned();
        answer(async move { self.0.attach_container(&id, stdin).await })
    }

    fn connect_sandbox(&self, uid: &str, port: u16) -> Pending<'_, Result<Connection, NodeError>> {
        let uid = uid.to_owned();
        answer(async move { self.0.connect_sandbox(&uid, port).await })
    }

    fn set_services(&self, services: Vec<ServicePort>) -> Pending<'_, Result<(), NodeError>> {
        answer(async move { Ok(self.0.shared.network.set_services(services).await?) })
    }

    fn set_names(&self, names: Vec<NameRecord>) -> Pending<'_, Result<(), NodeError>> {
        answer(async move {
            self.0.shared.network.set_names(names);
            Ok(())
        })
    }

    fn set_tenant_networks(&self, networks: TenantNetworks) -> Pending<'_, Result<(), NodeError>> {
        answer(async move { Ok(self.0.shared.network.set_tenants(tenants(networks)).await?) })
    }

    fn ensure_instance(&self, request: InstanceRequest) -> Pending<'_, Result<InstanceState, NodeError>> {
        answer(self.0.ensure_instance(request))
    }

    fn stop_instance(&self, uid: &str) -> Pending<'_, Result<(), NodeError>> {
        let uid = uid.to_owned();
        answer(async move { self.0.stop_instance(&uid).await })
    }

    fn remove_instance(&self, uid: &str) -> Pending<'_, Result<(), NodeError>> {
        let uid = uid.to_owned();
        answer(async move { self.0.remove_instance(&uid).await })
    }

    fn list_instances(&self) -> Pending<'_, Result<Vec<InstanceState>, NodeError>> {
        answer(async { Ok(self.0.instances()) })
    }

    fn instance_console(&self, uid: &str, limit: usize) -> Pending<'_, Result<Bytes, NodeError>> {
        let uid = uid.to_owned();
        answer(async move { self.0.instance_console(&uid, limit).await })
    }
}

fn tenants(networks: TenantNetworks) -> Tenants {
    Tenants {
        vpcs: networks.vpcs.into_iter().map(|(key, spec)| (key, spec.cidr)).collect(),
        subnets: networks.subnets.into_iter().map(|(key, spec)| (key, (spec.vpc, spec.cidr))).collect(),
        groups: networks.groups.into_iter().collect(),
    }
}
