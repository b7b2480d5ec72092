//! Putting a container on a network and taking it off, while it runs or not.

use cirro_net::DockerNetwork;
use cirro_seams::container::{Attachment, Container, NetworkMode};

use super::network::{Found, port_request};
use super::{files, is_active};
use crate::Engine;
use crate::error::{EngineError, blocking};

const WITH_HOST: &str = "container cannot be disconnected from host network or connected to host network";
const SHARED: &str = "container sharing network namespace with another container or host cannot be connected \
                      to any other network";
const NO_NETWORK: &str = "container cannot be connected to multiple networks with one of the networks in \
                          private (none) mode";

impl Engine {
    /// Puts a container on a network; at once when it runs, at its next start else.
    pub async fn connect_container(&self, name: &str, mut wanted: Attachment) -> Result<(), EngineError> {
        let id = self.find_own(name)?;
        let found = self.find_attached(&wanted)?;
        wanted.network.clone_from(&found.name);
        wanted.network_id = Some(found.id.clone());
        self.check_attachment(&wanted)?;
        let _guard = self.lock_container(&id).await?;
        let container = self.container(&id)?;
        check_mode(&container)?;
        if container.spec.attachments().iter().any(|old| old.network == wanted.network) {
            return Err(EngineError::Forbidden(format!(
                "endpoint with name {} already exists in network {}",
                container.name, found.name
            )));
        }
        if is_active(container.phase) {
            self.connect_running(&container, wanted, &found).await?;
        } else {
            self.change(&id, |entry| add_attachment(&mut entry.record.container, wanted))?;
        }
        self.shared.journal.flush().await
    }

    async fn connect_running(
        &self,
        container: &Container,
        wanted: Attachment,
        found: &Found,
    ) -> Result<(), EngineError> {
        let before = self.ports_of(container);
        let mut used = before.iter().map(|port| port.interface.clone()).collect();
        let path = self.shared.options.namespace_path(&container.id);
        let mut request = port_request(container, &wanted, found, &path, &mut used);
        if before.is_empty() {
            request.publish = container.spec.publish.clone();
        }
        let port = self.shared.network.create_port(request).await?;
        let endpoint = self.endpoint_of(&port);
        let (record, ()) = self.change(&container.id, |entry| {
            let container = &mut entry.record.container;
            add_attachment(container, wanted);
            container.ports.extend(port.publish.iter().cloned());
            container.endpoints.push(endpoint.clone());
        })?;
        self.renew_files(&record.container, before).await;
        self.emit_attachment("connect", &record.container, &endpoint);
        Ok(())
    }

    /// Takes a container off a network. `force` is for networks and containers that are not whole any more.
    pub async fn disconnect_container(
        &self,
        network: &str,
        name: &str,
        force: bool,
    ) -> Result<(), EngineError> {
        let id = self.find_own(name)?;
        let found = self.find_attached(&Attachment { network: network.into(), ..Attachment::default() });
        let _guard = self.lock_container(&id).await?;
        let container = self.container(&id)?;
        if matches!(container.spec.network, NetworkMode::Host) {
            return Err(EngineError::Invalid(WITH_HOST.into()));
        }
        let names = match &found {
            Ok(found) => (found.name.clone(), found.id.clone()),
            // It is gone; a container may still ask for it.
            Err(_) if force => (network.to_owned(), network.to_owned()),
            Err(_) => return found.map(drop),
        };
        let is_it = |attachment: &Attachment| {
            attachment.network == names.0 || attachment.network_id.as_ref() == Some(&names.1)
        };
        if !container.spec.attachments().iter().any(is_it) {
            let text = format!("container {} is not connected to network {}", container.id, names.0);
            return Err(EngineError::Forbidden(text));
        }
        let before = self.ports_of(&container);
        let gone: Vec<_> =
            container.endpoints.iter().filter(|endpoint| endpoint.network_id == names.1).cloned().collect();
        let ports = before.iter().filter(|port| self.endpoint_of(port).network_id == names.1);
        self.shared.network.delete_ports(ports.map(|port| port.id.clone()).collect()).await?;
        let left: Vec<_> = self.ports_of(&container).into_iter().flat_map(|port| port.publish).collect();
        let (record, ()) = self.change(&id, |entry| {
            let container = &mut entry.record.container;
            let mut attachments = container.spec.attachments();
            attachments.retain(|attachment| !is_it(attachment));
            container.spec.networks = Some(attachments);
            container.endpoints.retain(|endpoint| endpoint.network_id != names.1);
            container.ports = left;
        })?;
        if is_active(container.phase) {
            self.renew_files(&record.container, before).await;
            gone.iter().for_each(|endpoint| self.emit_attachment("disconnect", &record.container, endpoint));
        }
        self.shared.journal.flush().await
    }

    /// Makes hosts and resolv.conf of a running container follow its networks.
    async fn renew_files(&self, container: &Container, before: Vec<cirro_net::Port>) {
        let dir = self.shared.options.container_dir(&container.id);
        let (own, hostname) = (container.clone(), self.hostname_of(container));
        let after = self.ports_of(container);
        let renewed = blocking(move || files::renew(&dir, &own, &hostname, &before, &after));
        if let Err(error) = renewed.await {
            tracing::warn!(container = container.id, %error, "hosts and resolv.conf not renewed");
        }
    }

    /// Refuses what a network cannot give.
    pub(super) fn check_attachment(&self, wanted: &Attachment) -> Result<(), EngineError> {
        if wanted.network.contains('/') {
            return match wanted.address6 {
                Some(_) => {
                    Err(EngineError::NotSupported("IPv6 on a tenant's subnet is not supported".into()))
                }
                None => Ok(()),
            };
        }
        let found = self.find_attached(wanted)?;
        check_addresses(&self.network(&found.id)?, wanted)
    }
}

fn check_mode(container: &Container) -> Result<(), EngineError> {
    match &container.spec.network {
        NetworkMode::Host => Err(EngineError::Invalid(WITH_HOST.into())),
        NetworkMode::Container(_) | NetworkMode::Sandbox(_) => Err(EngineError::Invalid(SHARED.into())),
        NetworkMode::None => Err(EngineError::Invalid(NO_NETWORK.into())),
        NetworkMode::Default | NetworkMode::Network(_) | NetworkMode::Subnet { .. } => Ok(()),
    }
}

fn check_addresses(network: &DockerNetwork, wanted: &Attachment) -> Result<(), EngineError> {
    let invalid = |text: &str| Err(EngineError::Invalid(text.to_owned()));
    let has_address = wanted.address.is_some() || wanted.address6.is_some();
    if network.name == "bridge" {
        if has_address {
            return invalid("user specified IP address is supported on user defined networks only");
        }
        if !wanted.aliases.is_empty() {
            return invalid("network-scoped alias is supported only for containers in user defined networks");
        }
        return Ok(());
    }
    if has_address && !network.has_own_range {
        return invalid(
            "user specified IP address is supported only when connecting to networks with user configured subnets",
        );
    }
    let outside4 =
        wanted.address.filter(|address| !network.subnet.contains(address)).map(std::net::IpAddr::V4);
    let inside6 =
        |address: &std::net::Ipv6Addr| network.subnet6.is_some_and(|subnet| subnet.contains(address));
    let outside6 = wanted.address6.filter(|address| !inside6(address)).map(std::net::IpAddr::V6);
    match outside4.or(outside6) {
        Some(address) => invalid(&format!(
            "invalid endpoint settings:\nno configured subnet contains IP address {address}"
        )),
        None => Ok(()),
    }
}

fn add_attachment(container: &mut Container, wanted: Attachment) {
    let mut attachments = container.spec.attachments();
    attachments.push(wanted);
    container.spec.networks = Some(attachments);
}
