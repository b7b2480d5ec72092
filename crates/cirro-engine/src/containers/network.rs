//! A container's places on networks: made at its start, given back at its end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cirro_net::{CreatePort, DockerNetwork, Port, PortTarget, SubnetId};
use cirro_seams::container::{Attachment, Container, Endpoint, NetworkMode};
use cirro_seams::network::PortPublish;

use super::is_active;
use crate::error::EngineError;
use crate::{Engine, fail};

const MAX_CHAIN: usize = 8;
pub(crate) const INTERFACE: &str = "eth0";
/// Names the link of one endpoint.
const INTERFACE_OPTION: &str = "com.docker.network.endpoint.ifname";

/// What a container got.
#[derive(Default)]
pub(super) struct Joined {
    /// File of its network namespace; the host's when absent.
    pub namespace: Option<PathBuf>,
    /// Its ports, or those of the container whose network it shares.
    pub ports: Vec<Port>,
    /// Its own ports as its record shows them.
    pub endpoints: Vec<Endpoint>,
}

/// A network that a container is to be on, as found.
pub(super) struct Found {
    pub subnet: SubnetId,
    pub name: String,
    pub id: String,
    pub interface_prefix: String,
}

/// Whether the network namespace is the container's own, to be removed at its end.
pub(super) fn owns_namespace(mode: &NetworkMode) -> bool {
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
                let (namespace, port) = self.sandbox_network(uid)?;
                Ok(Joined { namespace, ports: port.into_iter().collect(), ..Joined::default() })
            }
            NetworkMode::None
            | NetworkMode::Default
            | NetworkMode::Network(_)
            | NetworkMode::Subnet { .. } => self.own_network(container).await,
        }
    }

    /// Makes a namespace with a port on each network that the container is to be on.
    async fn own_network(&self, container: &Container) -> Result<Joined, EngineError> {
        let path = self.shared.network.create_namespace(&container.id).await?;
        fail::point("start.namespace")?;
        let mut requests = Vec::new();
        let mut used = BTreeSet::new();
        for attachment in container.spec.attachments() {
            let found = self.find_attached(&attachment)?;
            let mut request = port_request(container, &attachment, &found, &path, &mut used);
            if requests.is_empty() {
                request.publish = publish(container);
            }
            requests.push(request);
        }
        let ports = if requests.is_empty() {
            Vec::new()
        } else {
            let made = self.shared.network.create_ports(requests).await;
            made.map_err(|error| EngineError::from(error).within("failed to set up container networking"))?
        };
        fail::point("start.port")?;
        let endpoints: Vec<Endpoint> = ports.iter().map(|port| self.endpoint_of(port)).collect();
        for endpoint in &endpoints {
            self.emit_attachment("connect", container, endpoint);
        }
        Ok(Joined { namespace: Some(path), ports, endpoints })
    }

    /// Finds the network that an attachment names: by the id it had, or by its name if it was made anew since.
    pub(super) fn find_attached(&self, attachment: &Attachment) -> Result<Found, EngineError> {
        if let Some((namespace, name)) = attachment.network.split_once('/') {
            return Ok(Found {
                subnet: SubnetId::Tenant { namespace: namespace.into(), name: name.into() },
                name: attachment.network.clone(),
                id: attachment.network.clone(),
                interface_prefix: "eth".into(),
            });
        }
        let by_id = attachment.network_id.as_deref().and_then(|id| self.network(id).ok());
        let network = by_id.map_or_else(|| self.network(&attachment.network), Ok)?;
        Ok(Found {
            subnet: SubnetId::Docker(network.id.clone()),
            interface_prefix: network.interface_prefix().to_owned(),
            name: network.name,
            id: network.id,
        })
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
                    return Ok(Joined { namespace, ports: port.into_iter().collect(), ..Joined::default() });
                }
                _ => {
                    return Ok(Joined {
                        namespace: Some(self.shared.options.namespace_path(&other.id)),
                        ports: self.ports_of(&other),
                        endpoints: Vec::new(),
                    });
                }
            }
        }
        Err(EngineError::Invalid("too many containers share each other's network".into()))
    }

    /// Lists a container's own ports in the order of its networks.
    pub(crate) fn ports_of(&self, container: &Container) -> Vec<Port> {
        let mut ports = self.shared.network.ports_of(&container.id);
        let order = container.spec.attachments();
        let place = |port: &Port| {
            let endpoint = self.endpoint_of(port);
            order.iter().position(|attachment| endpoint.is_on(attachment)).unwrap_or(usize::MAX)
        };
        ports.sort_by_cached_key(place);
        ports
    }

    /// Returns a port as a container's record shows it.
    pub(crate) fn endpoint_of(&self, port: &Port) -> Endpoint {
        let (network, network_id) = match &port.subnet {
            SubnetId::Docker(id) => {
                (self.network(id).map_or_else(|_| id.clone(), |network| network.name), id.clone())
            }
            SubnetId::Pods => ("pods".into(), "pods".into()),
            SubnetId::Tenant { namespace, name } => {
                (format!("{namespace}/{name}"), format!("{namespace}/{name}"))
            }
        };
        Endpoint {
            network,
            network_id,
            id: Port::endpoint_id(&port.id),
            address: port.address,
            prefix: port.prefix,
            gateway: port.gateway,
            mac: port.mac,
            address6: port.address6,
            gateway6: port.gateway6,
        }
    }

    /// Gives back what [`Self::join_network`] made; whatever is not there is no error.
    pub(crate) async fn leave_network(&self, container: &Container) -> Result<(), EngineError> {
        self.drop_shared_memory(container)?;
        self.unmount_volumes(container).await?;
        if !owns_namespace(&container.spec.network) {
            return Ok(());
        }
        let ports: Vec<String> =
            self.shared.network.ports_of(&container.id).into_iter().map(|port| port.id).collect();
        let deleted = if ports.is_empty() { Ok(()) } else { self.shared.network.delete_ports(ports).await };
        self.shared.network.delete_namespace(&container.id).await?;
        for endpoint in &container.endpoints {
            self.emit_attachment("disconnect", container, endpoint);
        }
        Ok(deleted?)
    }

    /// Tells neighbours a container's new name.
    pub(super) async fn renew_names(&self, container: &Container) -> Result<(), EngineError> {
        if container.endpoints.is_empty() {
            return Ok(());
        }
        let path = self.shared.options.namespace_path(&container.id);
        let ports = self.ports_of(container);
        let mut requests = Vec::new();
        for attachment in container.spec.attachments() {
            let found = self.find_attached(&attachment)?;
            let Some(port) = ports.iter().find(|port| port.subnet == found.subnet) else { continue };
            let mut request = port_request(container, &attachment, &found, &path, &mut BTreeSet::new());
            request.id.clone_from(&port.id);
            request.target = PortTarget::Namespace { path: path.clone(), interface: port.interface.clone() };
            requests.push(request);
        }
        self.shared.network.create_ports(requests).await?;
        Ok(())
    }

    /// Lists the containers that have a place on a docker network.
    pub(crate) fn on_network(&self, network: &DockerNetwork) -> Vec<(String, String)> {
        let table = self.table();
        let all = table.newest_first().map(|entry| &entry.record.container);
        let on = |container: &&Container| {
            container.endpoints.iter().any(|endpoint| endpoint.network_id == network.id)
        };
        all.filter(on).map(|container| (container.name.clone(), container.id.clone())).collect()
    }

    /// Says that a container came to a network or left it.
    pub(super) fn emit_attachment(&self, action: &str, container: &Container, endpoint: &Endpoint) {
        let attributes =
            [("container", container.id.as_str()), ("name", endpoint.network.as_str()), ("type", "bridge")];
        self.shared.events.emit("network", action, &endpoint.network_id, &attributes);
    }
}

/// Asks for a container's port; `used` are the names of its links so far.
pub(super) fn port_request(
    container: &Container,
    attachment: &Attachment,
    found: &Found,
    path: &Path,
    used: &mut BTreeSet<String>,
) -> CreatePort {
    let mut numbered = (0..).map(|number| format!("{}{number}", found.interface_prefix));
    let interface = match attachment.driver_options.get(INTERFACE_OPTION).filter(|name| !name.is_empty()) {
        Some(name) => name.clone(),
        None => numbered.find(|name| !used.contains(name)).expect("there are more names than links"),
    };
    used.insert(interface.clone());
    let links = attachment.links.iter().map(|link| link.split_once(':').unwrap_or((link, link)));
    CreatePort {
        address: attachment.address,
        address6: attachment.address6,
        mac: attachment.mac,
        gateway_priority: attachment.gateway_priority,
        links: links.map(|(name, alias)| (alias.to_ascii_lowercase(), name.to_ascii_lowercase())).collect(),
        resolvers: container.spec.dns.clone(),
        names: names(container, attachment),
        ..CreatePort::new(
            format!("{}@{}", container.id, found.id),
            found.subnet.clone(),
            PortTarget::Namespace { path: path.to_owned(), interface },
        )
    }
}

/// Names that neighbours find it by, its own first.
pub(super) fn names(container: &Container, attachment: &Attachment) -> Vec<String> {
    let mut names = vec![container.name.clone()];
    let short_id: String = container.id.chars().take(12).collect();
    let hostname = container.spec.hostname.clone().filter(|name| !name.is_empty());
    for name in attachment.aliases.iter().cloned().chain([short_id]).chain(hostname) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
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
                    last_host_port: None,
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
