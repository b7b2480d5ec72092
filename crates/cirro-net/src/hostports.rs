//! Ports of the host: who has which, and proof that nobody else has.
//!
//! Each published port is bound by a socket that never listens, so that no process of the host (another
//! cloud's daemon included) can have it at the same time. When the daemon dies the sockets go; the rules in
//! the kernel stay, and the next start binds again.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use cirro_seams::network::{PortPublish, Protocol, ServicePort};
use cirro_sys::netlink::Netlink;
use tracing::warn;

use crate::error::NetError;
use crate::names;
use crate::plan::host::{At, host_address};
use crate::state::State;

/// First of the host ports that are taken when none is asked for.
const FIRST_EPHEMERAL: u16 = 32768;
/// Where our own DNS listens, at some addresses.
const DNS_PORT: u16 = 53;
/// Last of them, as docker's.
const LAST_EPHEMERAL: u16 = 60999;

/// A taken host port: where, transport, number.
pub(crate) type Key = (At, Protocol, u16);

/// The sockets that hold a port.
#[derive(Debug, Default)]
struct Held {
    /// Kept for nothing but being there.
    _four: Vec<OwnedFd>,
    /// Absent on a host without IPv6, and for SCTP.
    six: Option<OwnedFd>,
}

/// The host ports of one cloud.
#[derive(Debug, Default)]
pub(crate) struct HostPorts {
    /// Prefix of our own links: at their addresses our DNS listens.
    prefix: String,
    held: HashMap<Key, Held>,
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

    /// Takes host ports for a new port at `target`, ephemeral ones where none is named; nothing is taken on error.
    ///
    /// # Errors
    /// [`NetError::Conflict`] in docker's words.
    pub(crate) fn take(
        &mut self,
        publish: &[PortPublish],
        endpoint: &str,
        target: Ipv4Addr,
        services: &[ServicePort],
    ) -> Result<Vec<PortPublish>, NetError> {
        let mut taken: Vec<PortPublish> = Vec::new();
        for wanted in publish {
            match self.take_one(wanted, target, services) {
                Ok(port) => {
                    taken.push(PortPublish { host_port: Some(port), last_host_port: None, ..wanted.clone() });
                }
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

    /// Returns the socket that holds a port at IPv6 addresses, for who serves there.
    pub(crate) fn socket6(&self, key: Key) -> Option<&OwnedFd> {
        self.held.get(&key)?.six.as_ref()
    }

    fn take_one(
        &mut self,
        wanted: &PortPublish,
        target: Ipv4Addr,
        services: &[ServicePort],
    ) -> Result<u16, NetError> {
        let at = host_address(wanted);
        let Some(first) = wanted.host_port.filter(|port| *port != 0) else {
            return self.take_ephemeral(at, wanted.protocol, services);
        };
        let mut refusal = None;
        for port in first..=wanted.last_host_port.unwrap_or(first).max(first) {
            match self.take_exact((at, wanted.protocol, port), wanted, target, services) {
                Ok(()) => return Ok(port),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        Err(refusal.expect("a range has a first port"))
    }

    fn take_exact(
        &mut self,
        key: Key,
        wanted: &PortPublish,
        target: Ipv4Addr,
        services: &[ServicePort],
    ) -> Result<(), NetError> {
        let shown = SocketAddr::new(shown(key.0), key.2);
        if self.is_held(key) || is_node_port(services, key) {
            let text = format!("Bind for {shown} failed: port is already allocated");
            return Err(NetError::Conflict(text));
        }
        match self.bind(key) {
            Ok(sockets) => {
                self.held.insert(key, sockets);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                let (port, protocol) = (wanted.port, key.1.as_str());
                Err(NetError::Conflict(format!(
                    "failed to bind host port for {shown}:{target}:{port}/{protocol}: address already in use"
                )))
            }
            Err(error) => Err(NetError::Kernel(format!("bind {shown}/{}: {error}", key.1.as_str()))),
        }
    }

    fn take_ephemeral(
        &mut self,
        at: At,
        protocol: Protocol,
        services: &[ServicePort],
    ) -> Result<u16, NetError> {
        let first =
            self.cursor.filter(|port| *port < LAST_EPHEMERAL).map_or(FIRST_EPHEMERAL, |port| port + 1);
        for port in (first..=LAST_EPHEMERAL).chain(FIRST_EPHEMERAL..first) {
            let key = (at, protocol, port);
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

    /// Binds a port where it is published; DNS's, where that is every address, at all those where our own does
    /// not listen. SCTP has no sockets on many hosts: there only our own records are in the way.
    fn bind(&self, (at, protocol, port): Key) -> std::io::Result<Held> {
        if protocol == Protocol::Sctp {
            return Ok(Held::default());
        }
        let reserve = |address: IpAddr| {
            cirro_sys::socket::reserve(SocketAddr::new(address, port), protocol == Protocol::Udp)
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        match at {
            At::Everywhere | At::Everywhere4 if port == DNS_PORT => {
                addresses.extend(foreign_addresses(&self.prefix)?.into_iter().map(IpAddr::V4));
            }
            At::Everywhere | At::Everywhere4 => addresses.push(Ipv4Addr::UNSPECIFIED.into()),
            At::V4(address) => addresses.push(address.into()),
            At::V6(_) | At::Everywhere6 => {}
        }
        let four = addresses.into_iter().map(reserve).collect::<Result<Vec<_>, _>>()?;
        let six = match at {
            At::V4(_) | At::Everywhere4 => None,
            At::V6(address) => Some(reserve(address.into())?),
            At::Everywhere | At::Everywhere6 => match reserve(Ipv6Addr::UNSPECIFIED.into()) {
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => return Err(error),
                // None: a host without IPv6.
                reserved => reserved.ok(),
            },
        };
        Ok(Held { _four: four, six })
    }

    fn is_held(&self, (at, protocol, port): Key) -> bool {
        self.held.keys().any(|held| (held.1, held.2) == (protocol, port) && meet(held.0, at))
    }
}

/// Tells whether two places have an address in common.
fn meet(one: At, other: At) -> bool {
    let is4 = |at| matches!(at, At::Everywhere4 | At::V4(_));
    let is6 = |at| matches!(at, At::Everywhere6 | At::V6(_));
    match (one, other) {
        (At::V4(one), At::V4(other)) => one == other,
        (At::V6(one), At::V6(other)) => one == other,
        (one, other) => !(is4(one) && is6(other) || is6(one) && is4(other)),
    }
}

fn shown(at: At) -> IpAddr {
    match at {
        At::Everywhere | At::Everywhere4 => Ipv4Addr::UNSPECIFIED.into(),
        At::Everywhere6 => Ipv6Addr::UNSPECIFIED.into(),
        At::V4(address) => address.into(),
        At::V6(address) => address.into(),
    }
}

/// Names a published port.
pub(crate) fn key(publish: &PortPublish) -> Option<Key> {
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
