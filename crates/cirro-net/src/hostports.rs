//! Ports of the host: who has which, and proof that nobody else has.
//!
//! Each published port is bound by a socket that never listens, so that no process of the host (another
//! cloud's daemon included) can have it at the same time. When the daemon dies the sockets go; the rules in
//! the kernel stay, and the next start binds again.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use cirro_seams::network::{PortPublish, Protocol, ServicePort};
use cirro_sys::netlink::Netlink;
use tracing::warn;

use crate::error::NetError;
use crate::names;
use crate::plan::host::host_address;
use crate::state::State;

/// First of the host ports that are taken when none is asked for.
const FIRST_EPHEMERAL: u16 = 32768;
/// Where our own DNS listens, at some addresses.
const DNS_PORT: u16 = 53;
/// Last of them, as docker's.
const LAST_EPHEMERAL: u16 = 60999;

/// A taken host port: address (`None`: every one), transport, number.
type Key = (Option<Ipv4Addr>, Protocol, u16);

/// The host ports of one cloud.
#[derive(Debug, Default)]
pub(crate) struct HostPorts {
    /// Prefix of our own links: at their addresses our DNS listens.
    prefix: String,
    held: HashMap<Key, Vec<OwnedFd>>,
    /// The last one that was given unasked; the next starts after it, so that a port rests.
    cursor: Option<u16>,
}

impl HostPorts {
    /// Binds every published port of the records; what somebody took meanwhile is told, the rules stay.
    pub(crate) fn restore(prefix: &str, state: &State) -> Self {
        let mut ports = Self { prefix: prefix.into(), ..Self::default() };
        for publish in state.ports.values().flat_map(|record| &record.port.publish) {
            let Some(key) = key(publish) else { continue };
            match ports.bind(key) {
                Ok(sockets) => {
                    ports.held.insert(key, sockets);
                }
                Err(error) => {
                    warn!(port = key.2, %error, "a published port is also bound by another process")
                }
            }
        }
        ports
    }

    /// Takes host ports for a new port, ephemeral ones where none is named; nothing is taken on error.
    ///
    /// # Errors
    /// [`NetError::Conflict`] in docker's words.
    pub(crate) fn take(
        &mut self,
        publish: &[PortPublish],
        endpoint: &str,
        services: &[ServicePort],
    ) -> Result<Vec<PortPublish>, NetError> {
        let mut taken: Vec<PortPublish> = Vec::new();
        for wanted in publish {
            match self.take_one(wanted, services) {
                Ok(port) => taken.push(PortPublish { host_port: Some(port), ..wanted.clone() }),
                Err(error) => {
                    self.release(&taken);
                    let prefix =
                        format!("driver failed programming external connectivity on endpoint {endpoint}");
                    return Err(match error {
                        NetError::Conflict(text) => NetError::Conflict(format!("{prefix}: {text}")),
                        other => other,
                    });
                }
            }
        }
        Ok(taken)
    }

    /// Gives host ports back.
    pub(crate) fn release(&mut self, publish: &[PortPublish]) {
        for key in publish.iter().filter_map(key) {
            self.held.remove(&key);
        }
    }

    fn take_one(&mut self, wanted: &PortPublish, services: &[ServicePort]) -> Result<u16, NetError> {
        if matches!(wanted.host_address, Some(std::net::IpAddr::V6(_))) {
            return Err(NetError::Invalid("publishing at an IPv6 address is not supported".into()));
        }
        let address = host_address(wanted);
        let shown = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        if let Some(port) = wanted.host_port.filter(|port| *port != 0) {
            let key = (address, wanted.protocol, port);
            if self.is_held(key) || is_node_port(services, key) {
                return Err(NetError::Conflict(format!(
                    "Bind for {shown}:{port} failed: port is already allocated"
                )));
            }
            let sockets = self.bind(key).map_err(|error| refused(wanted.protocol, shown, port, &error))?;
            self.held.insert(key, sockets);
            return Ok(port);
        }
        let first =
            self.cursor.filter(|port| *port < LAST_EPHEMERAL).map_or(FIRST_EPHEMERAL, |port| port + 1);
        for port in (first..=LAST_EPHEMERAL).chain(FIRST_EPHEMERAL..first) {
            let key = (address, wanted.protocol, port);
            if self.is_held(key) || is_node_port(services, key) {
                continue;
            }
            if let Ok(sockets) = self.bind(key) {
                self.held.insert(key, sockets);
                self.cursor = Some(port);
                return Ok(port);
            }
        }
        Err(NetError::Exhausted("all ports are allocated".into()))
    }

    /// Binds a port at its address; DNS's, where that is every address, at all those where our own does not listen.
    fn bind(&self, (address, protocol, port): Key) -> std::io::Result<Vec<OwnedFd>> {
        let reserve =
            |address| cirro_sys::socket::reserve(SocketAddrV4::new(address, port), protocol == Protocol::Udp);
        match address {
            None if port == DNS_PORT => foreign_addresses(&self.prefix)?.into_iter().map(reserve).collect(),
            _ => Ok(vec![reserve(address.unwrap_or(Ipv4Addr::UNSPECIFIED))?]),
        }
    }

    fn is_held(&self, (address, protocol, port): Key) -> bool {
        let held = |address| self.held.contains_key(&(address, protocol, port));
        match address {
            Some(_) => held(address) || held(None),
            None => self.held.keys().any(|key| (key.1, key.2) == (protocol, port)),
        }
    }
}

fn key(publish: &PortPublish) -> Option<Key> {
    Some((host_address(publish), publish.protocol, publish.host_port?))
}

/// Lists the host's addresses but those of our own links.
fn foreign_addresses(prefix: &str) -> std::io::Result<Vec<Ipv4Addr>> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?.into_iter().filter(|link| names::owns(prefix, &link.name));
    let own: HashSet<u32> = links.map(|link| link.index).collect();
    let addresses = netlink.addresses()?.into_iter().filter(|(link, ..)| !own.contains(link));
    Ok(addresses.map(|(_, address, _)| address).collect())
}

fn is_node_port(services: &[ServicePort], (_, protocol, port): Key) -> bool {
    services.iter().any(|service| service.node_port == Some(port) && service.protocol == protocol)
}

fn refused(protocol: Protocol, address: Ipv4Addr, port: u16, error: &std::io::Error) -> NetError {
    let protocol = protocol.as_str();
    if error.kind() == std::io::ErrorKind::AddrInUse {
        NetError::Conflict(format!(
            "failed to bind host port for {address}:{port}/{protocol}: listen {protocol}4 {address}:{port}: \
             bind: address already in use"
        ))
    } else {
        NetError::Kernel(format!("bind {address}:{port}/{protocol}: {error}"))
    }
}
