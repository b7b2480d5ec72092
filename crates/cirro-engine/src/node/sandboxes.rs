//! Sandboxes: the network that the containers of one pod share.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use cirro_net::{CreatePort, Port, PortTarget, SubnetId};
use cirro_seams::container::{Container, Owner, Phase};
use cirro_seams::network::PortPublish;
use cirro_seams::node::{Sandbox, SandboxSpec};
use serde::{Deserialize, Serialize};

use crate::Engine;
use crate::containers::network::INTERFACE;
use crate::error::EngineError;
use crate::journal::SANDBOXES;

/// Begins the ids of sandboxes' namespaces and ports.
pub(crate) const PREFIX: &str = "pod-";
/// Ends the id of a sandbox's second port, on a tenant's subnet.
const SUBNET_SUFFIX: &str = "-subnet";
const SUBNET_INTERFACE: &str = "eth1";
const MAX_UID: usize = 64;

/// What is kept of a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub hostname: String,
    pub host_network: bool,
    pub publish: Vec<PortPublish>,
    pub subnet: Option<(String, String)>,
    pub address: Ipv4Addr,
}

/// Returns the id of a sandbox's network namespace and first port.
pub(crate) fn port_id(uid: &str) -> String {
    format!("{PREFIX}{uid}")
}

/// Returns the id of a sandbox's port on a tenant's subnet.
pub(crate) fn subnet_port_id(uid: &str) -> String {
    format!("{PREFIX}{uid}{SUBNET_SUFFIX}")
}

/// Refuses a uid that could not be a file's name.
pub(crate) fn check_uid(uid: &str) -> Result<(), EngineError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if uid.is_empty() || uid.len() > MAX_UID || !uid.bytes().all(good) {
        return Err(EngineError::Invalid(format!("invalid uid {uid:?}")));
    }
    Ok(())
}

impl Engine {
    fn sandbox_table(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<String, SandboxRecord>> {
        self.shared.sandboxes.lock().expect("no panic while it is held")
    }

    fn sandbox(&self, uid: &str) -> Result<SandboxRecord, EngineError> {
        let found = self.sandbox_table().get(uid).cloned();
        found.ok_or_else(|| EngineError::NotFound(format!("no sandbox for the pod with uid {uid}")))
    }

    /// Makes or finds the sandbox of a pod.
    pub(super) async fn ensure_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, EngineError> {
        check_uid(&spec.uid)?;
        let _guard = self.shared.keyed.lock(&port_id(&spec.uid)).await;
        if let Ok(found) = self.sandbox(&spec.uid) {
            return Ok(Sandbox { uid: found.uid, address: found.address });
        }
        let address = match self.make_sandbox_network(&spec).await {
            Ok(address) => address,
            Err(error) => {
                if let Err(undo) = self.drop_sandbox_network(&spec.uid).await {
                    tracing::warn!(pod = spec.uid, error = %undo, "half-made sandbox not removed");
                }
                return Err(error);
            }
        };
        let record = SandboxRecord {
            uid: spec.uid.clone(),
            namespace: spec.namespace,
            name: spec.name,
            hostname: spec.hostname,
            host_network: spec.host_network,
            publish: spec.publish,
            subnet: spec.subnet,
            address,
        };
        // Not waited for: a sandbox that is lost in a crash is made again by the kubelet, what is left of it removed.
        self.shared.journal.put(SANDBOXES, &record.uid, &record);
        self.sandbox_table().insert(record.uid.clone(), record);
        Ok(Sandbox { uid: spec.uid, address })
    }

    async fn make_sandbox_network(&self, spec: &SandboxSpec) -> Result<Ipv4Addr, EngineError> {
        if spec.host_network {
            return Ok(host_address());
        }
        let id = port_id(&spec.uid);
        let path = self.shared.network.create_namespace(&id).await?;
        let target = PortTarget::Namespace { path: path.clone(), interface: INTERFACE.into() };
        let port =
            CreatePort { publish: spec.publish.clone(), ..CreatePort::new(id, SubnetId::Pods, target) };
        let address = self.shared.network.create_port(port).await?.address;
        if let Some((namespace, name)) = &spec.subnet {
            let subnet = SubnetId::Tenant { namespace: namespace.clone(), name: name.clone() };
            let target = PortTarget::Namespace { path, interface: SUBNET_INTERFACE.into() };
            let port = CreatePort {
                names: vec![spec.name.clone()],
                ..CreatePort::new(subnet_port_id(&spec.uid), subnet, target)
            };
            self.shared.network.create_port(port).await?;
        }
        Ok(address)
    }

    async fn drop_sandbox_network(&self, uid: &str) -> Result<(), EngineError> {
        self.shared.network.delete_port(&subnet_port_id(uid)).await?;
        self.shared.network.delete_port(&port_id(uid)).await?;
        Ok(self.shared.network.delete_namespace(&port_id(uid)).await?)
    }

    /// Removes a sandbox and whatever still runs in it; no error when there is none.
    ///
    /// What ended there stays for its log and exit code, until it is removed itself.
    pub(crate) async fn remove_sandbox(&self, uid: &str) -> Result<(), EngineError> {
        check_uid(uid)?;
        let _guard = self.shared.keyed.lock(&port_id(uid)).await;
        let ended = |container: &Container| matches!(container.phase, Phase::Exited | Phase::Dead);
        for container in self.containers().into_iter().filter(|container| !ended(container)) {
            if matches!(&container.spec.owner, Owner::Pod { uid: of, .. } if of == uid) {
                match self.remove_by_id(&container.id, true, true).await {
                    Ok(()) | Err(EngineError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.drop_sandbox_network(uid).await?;
        self.sandbox_table().remove(uid);
        self.shared.journal.delete(SANDBOXES, uid);
        Ok(())
    }

    /// Forgets sandboxes whose network is gone: removed when the daemon was killed, or with the host's last run.
    pub(crate) fn forget_lost_sandboxes(&self) {
        let lost = |record: &SandboxRecord| {
            let id = port_id(&record.uid);
            let whole = || {
                is_namespace(&self.shared.options.namespace_path(&id))
                    && self.shared.network.port(&id).is_some()
            };
            !record.host_network && !whole()
        };
        let mut table = self.sandbox_table();
        let gone: Vec<String> =
            table.values().filter(|record| lost(record)).map(|record| record.uid.clone()).collect();
        for uid in gone {
            tracing::info!(pod = uid, "sandbox without its network forgotten");
            table.remove(&uid);
            self.shared.journal.delete(SANDBOXES, &uid);
        }
    }

    /// Lists the sandboxes that exist.
    pub(crate) fn sandboxes(&self) -> Vec<Sandbox> {
        let table = self.sandbox_table();
        table.values().map(|record| Sandbox { uid: record.uid.clone(), address: record.address }).collect()
    }

    /// Returns the network namespace file (none: the host's) and the port of a sandbox.
    pub(crate) fn sandbox_network(&self, uid: &str) -> Result<(Option<PathBuf>, Option<Port>), EngineError> {
        let record = self.sandbox(uid)?;
        if record.host_network {
            return Ok((None, None));
        }
        let id = port_id(uid);
        Ok((Some(self.shared.options.namespace_path(&id)), self.shared.network.port(&id)))
    }

    /// Returns the name that a sandbox's containers call themselves.
    pub(crate) fn sandbox_hostname(&self, uid: &str) -> Option<String> {
        self.sandbox(uid).ok().map(|record| record.hostname).filter(|name| !name.is_empty())
    }
}

/// Whether a namespace is pinned at a file; after a reboot the file may still be there.
fn is_namespace(path: &std::path::Path) -> bool {
    const NSFS: i64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == NSFS)
}

/// Returns the address that this host reaches others from; the loopback when it has no route.
fn host_address() -> Ipv4Addr {
    // Connecting a datagram socket sends nothing; TEST-NET-1 is routed like any other address.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let address = socket.and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    match address {
        Ok(SocketAddr::V4(address)) => *address.ip(),
        _ => Ipv4Addr::LOCALHOST,
    }
}
