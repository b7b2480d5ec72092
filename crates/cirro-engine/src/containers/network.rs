//! A container's place on a network: made at its start, given back at its end.

use std::path::PathBuf;

use cirro_net::{CreatePort, DockerNetwork, Port, PortTarget, SubnetId};
use cirro_seams::container::{Container, Endpoint, NetworkMode};
use cirro_seams::network::PortPublish;

use super::is_active;
use crate::error::EngineError;
use crate::{Engine, fail};

const MAX_CHAIN: usize = 8;
pub(crate) const INTERFACE: &str = "eth0";

/// What a container got.
#[derive(Default)]
pub(super) struct Joined {
    /// File of its network namespace; the host's when absent.
    pub namespace: Option<PathBuf>,
    /// Its port, or the port of the container whose network it shares.
    pub port: Option<Port>,
    /// Its own port as its record shows it.
    pub endpoint: Option<Endpoint>,
}

/// Whether the network namespace is the container's own, to be removed at its end.
fn owns_namespace(mode: &NetworkMode) -> bool {
    match mode {
        NetworkMode::Default | NetworkMode::None | NetworkMode::Network(_) | NetworkMode::Subnet { .. } => {
            true
        }
        NetworkMode::Host | NetworkMode::Container(_) | NetworkMode::Sandbox(_) => false,
    }
}

impl Engine {
    /// Gives a container its network.
    pub(super) async fn join_network(&self, container: &Container) -> Result<Joined, EngineError> {
        match &container.spec.network {
            NetworkMode::Host => Ok(Joined::default()),
            NetworkMode::Container(other) => self.shared_network(other),
            NetworkMode::Sandbox(uid) => {
                self.sandbox_network(uid).map(|(namespace, port)| Joined { namespace, port, endpoint: None })
            }
            NetworkMode::None => {
                let namespace = self.shared.network.create_namespace(&container.id).await?;
                Ok(Joined { namespace: Some(namespace), ..Joined::default() })
            }
            NetworkMode::Default => {
                let network = self.network("bridge")?;
                self.own_port(container, SubnetId::Docker(network.id.clone()), network.name, network.id).await
            }
            NetworkMode::Network(name) => {
                let network = self.network(name)?;
                self.own_port(container, SubnetId::Docker(network.id.clone()), network.name, network.id).await
            }
            NetworkMode::Subnet { namespace, name } => {
                let subnet = SubnetId::Tenant { namespace: namespace.clone(), name: name.clone() };
                let full = format!("{namespace}/{name}");
                self.own_port(container, subnet, full.clone(), full).await
            }
        }
    }

    async fn own_port(
        &self,
        container: &Container,
        subnet: SubnetId,
        network: String,
        network_id: String,
    ) -> Result<Joined, EngineError> {
        let path = self.shared.network.create_namespace(&container.id).await?;
        fail::point("start.namespace")?;
        let request = CreatePort {
            id: container.id.clone(),
            subnet,
            target: PortTarget::Namespace { path: path.clone(), interface: INTERFACE.into() },
            address: container.spec.address,
            names: names(container),
            groups: Vec::new(),
            publish: publish(container),
        };
        let port = self.shared.network.create_port(request).await?;
        fail::point("start.port")?;
        let endpoint = Endpoint {
            network,
            network_id,
            id: port.id.clone(),
            address: port.address,
            prefix: port.prefix,
            gateway: port.gateway,
            mac: port.mac,
        };
        Ok(Joined { namespace: Some(path), port: Some(port), endpoint: Some(endpoint) })
    }

    /// Finds the network of another container, which may itself be on another one's.
    fn shared_network(&self, other: &str) -> Result<Joined, EngineError> {
        let mut other = self.container(other)?;
        for _ in 0..MAX_CHAIN {
            if !is_active(other.phase) {
                let text = format!("cannot join network of a non running container: {}", other.id);
                return Err(EngineError::Conflict(text));
            }
            match &other.spec.network {
                NetworkMode::Host => return Ok(Joined::default()),
                NetworkMode::Container(next) => other = self.container(next)?,
                NetworkMode::Sandbox(uid) => {
                    let (namespace, port) = self.sandbox_network(uid)?;
                    return Ok(Joined { namespace, port, endpoint: None });
                }
                _ => {
                    return Ok(Joined {
                        namespace: Some(self.shared.options.namespace_path(&other.id)),
                        port: self.shared.network.port(&other.id),
                        endpoint: None,
                    });
                }
            }
        }
        Err(EngineError::Invalid("too many containers share each other's network".into()))
    }

    /// Gives back what [`Self::join_network`] made; whatever is not there is no error.
    pub(crate) async fn leave_network(&self, container: &Container) -> Result<(), EngineError> {
        self.drop_shared_memory(container)?;
        if !owns_namespace(&container.spec.network) {
            return Ok(());
        }
        let port = match container.spec.network {
            NetworkMode::None => Ok(()),
            _ => self.shared.network.delete_port(&container.id).await,
        };
        self.shared.network.delete_namespace(&container.id).await?;
        Ok(port?)
    }
}

/// Names that neighbours find it by.
fn names(container: &Container) -> Vec<String> {
    let own = [container.name.clone(), container.id.chars().take(12).collect()];
    let mut names: Vec<String> = own.into_iter().chain(container.spec.network_aliases.clone()).collect();
    names.extend(container.spec.hostname.clone().filter(|name| !name.is_empty()));
    names.sort();
    names.dedup();
    names
}

/// The published ports, with every exposed one when that was asked for.
fn publish(container: &Container) -> Vec<PortPublish> {
    let mut all = container.spec.publish.clone();
    if container.spec.publish_all {
        for (port, protocol) in &container.exposed_ports {
            if !all.iter().any(|publish| publish.port == *port && publish.protocol == *protocol) {
                all.push(PortPublish {
                    host_address: None,
                    host_port: None,
                    port: *port,
                    protocol: *protocol,
                });
            }
        }
    }
    all
}

/// Refuses names of docker networks in a way that a client understands.
pub(crate) fn not_found(name: &str) -> EngineError {
    EngineError::NotFound(format!("network {name} not found"))
}

impl Engine {
    /// Lists the containers that have a place on a docker network.
    pub(crate) fn on_network(&self, network: &DockerNetwork) -> Vec<(String, String)> {
        let table = self.table();
        let on = |container: &&Container| {
            container.endpoint.as_ref().is_some_and(|endpoint| endpoint.network_id == network.id)
        };
        let all = table.newest_first().map(|entry| &entry.record.container);
        all.filter(on).map(|container| (container.name.clone(), container.id.clone())).collect()
    }
}
