//! Links, addresses, routes and neighbours by rtnetlink, as plain blocking calls.
//!
//! A socket belongs to the network namespace of the thread that opened it, for good; open one inside a
//! namespace with [`crate::netns::Netns::run`]. Only what our networks are made of; IPv6 is in `ipv6`, what the kernel
//! tells by itself in [`watch`], connection tracking in [`conntrack`].

mod attributes;
pub mod conntrack;
mod ipv6;
pub mod watch;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Larger than any datagram of a dump (the kernel uses at most 32 KiB).
const RECEIVE_BYTES: usize = 64 * 1024;

/// A socket to the kernel's routing subsystem in one network namespace.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, `dummy`, `tun`, ...; empty for hardware and loopback.
    pub kind: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether it has a carrier and sends what it is given; follows `up` a moment later.
    pub running: bool,
    /// Its MTU.
    pub mtu: u32,
    /// Its Ethernet address, when it has one.
    pub mac: Option<[u8; 6]>,
    /// Index of the bridge that it is a port of.
    pub master: Option<u32>,
}

/// The other end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub struct VethPeer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The network namespace that it is made in; this one when absent.
    pub namespace: Option<BorrowedFd<'a>>,
}

/// What kind of link to make.
#[derive(Debug, Clone, Copy)]
pub enum NewLink<'a> {
    /// A bridge without spanning tree.
    Bridge,
    /// A pair.
    Veth(VethPeer<'a>),
}

/// Where packets of a route go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHop {
    /// Out of a link, to the destination itself.
    Link(u32),
    /// Out of a link through a gateway that needs no route of its own.
    Via(u32, Ipv4Addr),
    /// Nowhere; senders are told that the destination is unreachable.
    Unreachable,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Length of the destination's prefix.
    pub prefix: u8,
    /// Where to.
    pub hop: NextHop,
    /// Source address of what this host sends.
    pub source: Option<Ipv4Addr>,
    /// Who made it (`rtm_protocol`): 2 is the kernel, 4 an administrator.
    pub protocol: u8,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // A dump of many links must not overrun the receive buffer between two of our reads.
        socket.set_rx_buf_sz(1024 * 1024)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Lists every link.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(answers.iter().filter_map(read_link).collect())
    }

    /// Returns a link by name.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        match self.request(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(answers.iter().find_map(read_link)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns a link by its index.
    pub fn link_at(&mut self, index: u32) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.request(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(answers.iter().find_map(read_link)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns a link's index by name; `ENODEV` when there is none.
    pub fn index(&mut self, name: &str) -> io::Result<u32> {
        self.link(name)?.map(|link| link.index).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Makes a link, down. The MTU of a veth holds for both ends.
    pub fn add_link(
        &mut self,
        name: &str,
        kind: NewLink<'_>,
        mac: [u8; 6],
        mtu: u32,
        master: Option<u32>,
    ) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.extend(master.map(LinkAttribute::Controller));
        let info = match kind {
            NewLink::Bridge => vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::ForwardDelay(0)])),
            ],
            NewLink::Veth(peer) => vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer_message(&peer, mtu)))),
            ],
        };
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)?;
        Ok(())
    }

    /// Brings a link up or down.
    pub fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        self.set(message)
    }

    /// Sets a link's Ethernet address and MTU.
    pub fn set_mac_and_mtu(&mut self, index: u32, mac: [u8; 6], mtu: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set(message)
    }

    /// Makes a link a port of a bridge.
    pub fn set_master(&mut self, index: u32, master: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Controller(master));
        self.set(message)
    }

    /// Lets a bridge send frames back out of the port that they came in by.
    pub fn set_hairpin(&mut self, index: u32, on: bool) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(on)])),
        ]));
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_ACK).map(|_| ())
    }

    /// Lets a port of a bridge reach the bridge and nobody else on it, or everybody.
    pub fn set_isolated(&mut self, index: u32, on: bool) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(on)])),
        ]));
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_ACK).map(|_| ())
    }

    fn set(&mut self, message: LinkMessage) -> io::Result<()> {
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(|_| ())
    }

    /// Removes a link; of a veth pair both ends.
    pub fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.request(RouteNetlinkMessage::DelLink(message), NLM_F_ACK).map(|_| ())
    }

    /// Lists every IPv4 address with its link's index and prefix length.
    pub fn addresses(&mut self) -> io::Result<Vec<(u32, Ipv4Addr, u8)>> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let answers = self.request(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP)?;
        Ok(answers
            .iter()
            .filter_map(|answer| {
                let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
                let local = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(std::net::IpAddr::V4(address)) => Some(*address),
                    _ => None,
                })?;
                Some((message.header.index, local, message.header.prefix_len))
            })
            .collect())
    }

    /// Gives a link an address; nothing happens when it has it.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let message = address_message(index, address, prefix);
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewAddress(message), flags).map(|_| ())
    }

    /// Takes an address from a link.
    pub fn delete_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let message = address_message(index, address, prefix);
        self.request(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK).map(|_| ())
    }

    /// Lists the IPv4 routes of the main table (those through several next hops are left out).
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let answers = self.request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
        Ok(answers.iter().filter_map(read_route).collect())
    }

    /// Makes a route, replacing one to the same destination.
    pub fn set_route(&mut self, route: &Route) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewRoute(route_message(route)), flags).map(|_| ())
    }

    /// Removes a route.
    pub fn delete_route(&mut self, route: &Route) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelRoute(route_message(route)), NLM_F_ACK).map(|_| ())
    }

    /// Makes a permanent neighbour entry.
    pub fn set_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: [u8; 6]) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewNeighbour(message), flags).map(|_| ())
    }

    /// Sends one request and collects its answers until the kernel says that they are all.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let single = flags & (NLM_F_ACK | NLM_F_DUMP) == 0;
        self.collect(single)
    }

    fn collect(&mut self, single: bool) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        let mut buffer = vec![0_u8; RECEIVE_BYTES];
        loop {
            let length = self.socket.recv(&mut &mut buffer[..], 0)?;
            let mut rest = &buffer[..length];
            while rest.len() >= 16 {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                // Messages are padded to four bytes, the last one perhaps not.
                let step = (message.header.length as usize).next_multiple_of(4).min(rest.len());
                rest = &rest[step.max(16)..];
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(answers),
                        Some(code) => return Err(io::Error::from_raw_os_error(code.get().abs())),
                    },
                    NetlinkPayload::InnerMessage(answer) => {
                        answers.push(answer);
                        if single {
                            return Ok(answers);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

impl std::os::fd::AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.socket`, which lives as long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

fn peer_message(peer: &VethPeer<'_>, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(peer.name.into()));
    message.attributes.push(LinkAttribute::Address(peer.mac.to_vec()));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    message.attributes.extend(peer.namespace.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
    message
}

fn address_message(index: u32, address: Ipv4Addr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    message.header.prefix_len = prefix;
    message.attributes.push(AddressAttribute::Local(address.into()));
    message.attributes.push(AddressAttribute::Address(address.into()));
    message
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = route.prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(route.protocol);
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Universe;
    if route.prefix > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(route.destination)));
    }
    match route.hop {
        NextHop::Link(index) => {
            message.header.scope = RouteScope::Link;
            message.attributes.push(RouteAttribute::Oif(index));
        }
        NextHop::Via(index, gateway) => {
            message.header.flags |= netlink_packet_route::route::RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Oif(index));
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        }
        NextHop::Unreachable => message.header.kind = RouteType::Unreachable,
    }
    message
        .attributes
        .extend(route.source.map(|source| RouteAttribute::PrefSource(RouteAddress::Inet(source))));
    message
}

fn read_link(answer: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::Running),
        mtu: 0,
        mac: None,
        master: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Controller(index) if *index != 0 => link.master = Some(*index),
            LinkAttribute::LinkInfo(info) => link.kind = read_kind(info),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn read_kind(info: &[LinkInfo]) -> String {
    let kind = info.iter().find_map(|part| match part {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    });
    kind.unwrap_or_default()
}

fn read_route(answer: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    if message.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut route = Route {
        destination: Ipv4Addr::UNSPECIFIED,
        prefix: message.header.destination_prefix_length,
        hop: NextHop::Unreachable,
        source: None,
        protocol: u8::from(message.header.protocol),
    };
    let (mut link, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => route.destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => route.source = Some(*address),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    route.hop = match (message.header.kind, link, gateway) {
        (RouteType::Unicast, Some(index), None) => NextHop::Link(index),
        (RouteType::Unicast, Some(index), Some(gateway)) => NextHop::Via(index, gateway),
        (RouteType::Unreachable, ..) => NextHop::Unreachable,
        _ => return None,
    };
    Some(route)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Netns;

    #[test]
    fn root_a_veth_pair_is_made_addressed_routed_and_removed() {
        let (one, two) = (Netns::fresh().unwrap(), Netns::fresh().unwrap());
        one.run(|| {
            let mut netlink = Netlink::open().unwrap();
            let peer = VethPeer { name: "eth0", mac: [2, 0, 0, 0, 0, 2], namespace: Some(two.as_fd()) };
            netlink.add_link("br", NewLink::Bridge, [2, 0, 0, 0, 0, 9], 1500, None).unwrap();
            let bridge = netlink.index("br").unwrap();
            netlink.add_link("v0", NewLink::Veth(peer), [2, 0, 0, 0, 0, 1], 1400, Some(bridge)).unwrap();
            let link = netlink.link("v0").unwrap().unwrap();
            assert_eq!((link.kind.as_str(), link.mtu, link.master), ("veth", 1400, Some(bridge)));
            netlink.add_address(bridge, "10.0.0.1".parse().unwrap(), 24).unwrap();
            netlink.add_address(bridge, "10.0.0.1".parse().unwrap(), 24).unwrap();
            netlink.set_up(bridge, true).unwrap();
            let route = Route {
                destination: "10.9.0.0".parse().unwrap(),
                prefix: 16,
                hop: NextHop::Via(bridge, "10.0.0.7".parse().unwrap()),
                source: None,
                protocol: 193,
            };
            netlink.set_route(&route).unwrap();
            assert!(netlink.routes().unwrap().contains(&route));
            netlink.delete_route(&route).unwrap();
            assert!(!netlink.routes().unwrap().contains(&route));
            assert!(netlink.addresses().unwrap().contains(&(bridge, "10.0.0.1".parse().unwrap(), 24)));
            assert_eq!(netlink.link("nothing").unwrap(), None);
        })
        .unwrap();
        let inside = two.run(|| Netlink::open().unwrap().link("eth0").unwrap().unwrap()).unwrap();
        assert_eq!(inside.mac, Some([2, 0, 0, 0, 0, 2]));
        assert_eq!(inside.mtu, 1400);
    }
}
