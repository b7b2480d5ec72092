//! IPv6 addresses and default routes.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Netlink;

impl Netlink {
    /// Lists every IPv6 address but link-local ones, with its link's index and prefix length.
    pub fn addresses6(&mut self) -> io::Result<Vec<(u32, Ipv6Addr, u8)>> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        let answers = self.request(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP)?;
        let address = |answer: &RouteNetlinkMessage| {
            let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(IpAddr::V6(address)) => Some(*address),
                _ => None,
            })?;
            Some((message.header.index, address, message.header.prefix_len))
        };
        let found = answers.iter().filter_map(address);
        Ok(found.filter(|(_, address, _)| !address.is_unicast_link_local()).collect())
    }

    /// Gives a link an IPv6 address, usable at once: nobody is asked whether it is a duplicate.
    pub fn add_address6(&mut self, index: u32, address: Ipv6Addr, prefix: u8) -> io::Result<()> {
        let mut message = address_message(index, address, prefix);
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewAddress(message), flags).map(|_| ())
    }

    /// Takes an IPv6 address from a link.
    pub fn delete_address6(&mut self, index: u32, address: Ipv6Addr, prefix: u8) -> io::Result<()> {
        let message = address_message(index, address, prefix);
        self.request(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK).map(|_| ())
    }

    /// Makes the default route by a gateway, replacing another one.
    pub fn set_default_route6(&mut self, index: u32, gateway: Ipv6Addr, protocol: u8) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let message = default_route(index, gateway, protocol);
        self.request(RouteNetlinkMessage::NewRoute(message), flags).map(|_| ())
    }

    /// Removes the default route by a gateway.
    pub fn delete_default_route6(&mut self, index: u32, gateway: Ipv6Addr, protocol: u8) -> io::Result<()> {
        let message = default_route(index, gateway, protocol);
        self.request(RouteNetlinkMessage::DelRoute(message), NLM_F_ACK).map(|_| ())
    }
}

fn address_message(index: u32, address: Ipv6Addr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.index = index;
    message.header.prefix_len = prefix;
    message.attributes.push(AddressAttribute::Local(address.into()));
    message.attributes.push(AddressAttribute::Address(address.into()));
    message
}

fn default_route(index: u32, gateway: Ipv6Addr, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(protocol);
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Universe;
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet6(gateway)));
    message
}
