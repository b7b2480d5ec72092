//! The workload's end of a pair: its address, its routes, its way to docker's name server.

use std::io;
use std::net::Ipv4Addr;

use cirro_sys::netlink::{Netlink, NextHop, Route};
use ipnet::Ipv4Net;

use super::{PROTOCOL, open_namespace, run_nft, write_sysctl};
use crate::dns::EMBEDDED_DNS;
use crate::error::NetError;
use crate::plan::{EVERYWHERE, PeerPlan};

/// The table in a workload's namespace that leads questions for names out of it.
const TABLE: &str = "cirro_dns";

/// Sets up the workload's end; returns the socket inside.
pub(super) fn configure(peer: &PeerPlan) -> Result<Netlink, NetError> {
    inside(peer, || {
        let netlink = configure_inside(peer).map_err(failed(peer))?;
        lead_questions(peer)?;
        Ok(netlink)
    })
}

/// Makes what may change in place agree. What another port of the namespace has taken over is left alone.
pub(super) fn update(old: Option<&PeerPlan>, new: &PeerPlan) -> Result<(), NetError> {
    match old {
        Some(old) if old == new => Ok(()),
        Some(old) => inside(new, || {
            move_routes(old, new).map_err(failed(new))?;
            if old.resolver != new.resolver { lead_questions(new) } else { Ok(()) }
        }),
        // Found in the kernel on start: a crash may have come between a port's going and the route's moving.
        None if new.routes.contains(&EVERYWHERE) => {
            let _ = inside(new, || ensure_default(new).map_err(failed(new)));
            Ok(())
        }
        None => Ok(()),
    }
}

fn inside<T: Send>(
    peer: &PeerPlan,
    work: impl FnOnce() -> Result<T, NetError> + Send,
) -> Result<T, NetError> {
    let netns = open_namespace(&peer.namespace)?;
    netns.run(work).map_err(failed(peer))?
}

fn failed(peer: &PeerPlan) -> impl Fn(io::Error) -> NetError {
    let doing = format!("set up {} in {}", peer.name, peer.namespace.display());
    move |error| NetError::kernel(&doing, error)
}

fn configure_inside(peer: &PeerPlan) -> io::Result<Netlink> {
    let mut netlink = Netlink::open()?;
    let index = netlink.index(&peer.name)?;
    let ipv6 = |key: &str, value| {
        write_sysctl(&format!("ipv6/conf/{}/{key}", peer.name), value).map_err(io::Error::other)
    };
    // Docker's containers have no IPv6 address either unless the network has IPv6.
    let _ = ipv6("disable_ipv6", if peer.address6.is_some() { "0" } else { "1" });
    if let Some(address) = peer.address6 {
        ipv6("accept_ra", "0")?;
        netlink.add_address6(index, address.addr(), address.prefix_len())?;
    }
    netlink.add_address(index, peer.address.addr(), peer.address.prefix_len())?;
    netlink.set_up(index, true)?;
    if let Some(gateway) = peer.gateway6 {
        netlink.set_default_route6(index, gateway, PROTOCOL)?;
    }
    let Some(gateway) = peer.gateway else { return Ok(netlink) };
    if !peer.address.contains(&gateway) {
        let (prefix, hop) = (32, NextHop::Link(index));
        netlink.set_route(&Route { destination: gateway, prefix, hop, source: None, protocol: PROTOCOL })?;
    }
    if let Some(mac) = peer.gateway_mac {
        netlink.set_neighbour(index, gateway, mac.0)?;
    }
    for destination in &peer.routes {
        netlink.set_route(&route(index, *destination, gateway))?;
    }
    Ok(netlink)
}

fn route(index: u32, destination: Ipv4Net, gateway: Ipv4Addr) -> Route {
    let (destination, prefix) = (destination.network(), destination.prefix_len());
    Route { destination, prefix, hop: NextHop::Via(index, gateway), source: None, protocol: PROTOCOL }
}

fn move_routes(old: &PeerPlan, new: &PeerPlan) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let index = netlink.index(&new.name)?;
    for destination in old.routes.difference(&new.routes) {
        if let Some(gateway) = old.gateway {
            gone(netlink.delete_route(&route(index, *destination, gateway)))?;
        }
    }
    for destination in new.routes.iter().filter(|_| old.routes != new.routes) {
        if let Some(gateway) = new.gateway {
            netlink.set_route(&route(index, *destination, gateway))?;
        }
    }
    match (old.gateway6, new.gateway6) {
        (old, new) if old == new => {}
        (_, Some(gateway)) => netlink.set_default_route6(index, gateway, PROTOCOL)?,
        (Some(gateway), None) => gone(netlink.delete_default_route6(index, gateway, PROTOCOL))?,
        (None, None) => {}
    }
    Ok(())
}

/// The port that has it now may have replaced it already.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
        result => result,
    }
}

fn ensure_default(peer: &PeerPlan) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let index = netlink.index(&peer.name)?;
    let has_default = netlink.routes()?.iter().any(|route| route.prefix == 0);
    match peer.gateway.filter(|_| !has_default) {
        Some(gateway) => netlink.set_route(&route(index, EVERYWHERE, gateway)),
        None => Ok(()),
    }
}

/// Makes questions to docker's address for names go to the network's own server.
///
/// By translation, not by a socket inside: a workload may want port 53 for itself. A namespace whose last
/// such port goes keeps the rules; nothing asks there then.
fn lead_questions(peer: &PeerPlan) -> Result<(), NetError> {
    let Some(server) = peer.resolver else { return Ok(()) };
    // The answers come back to 127.0.0.1 by this link.
    write_sysctl(&format!("ipv4/conf/{}/route_localnet", peer.name), "1")?;
    let to = format!("ip daddr {EMBEDDED_DNS} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {server}");
    let rules = format!(
        "add table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n\
         \tchain guard {{\n\t\ttype filter hook prerouting priority -300; policy accept;\n\
         \t\tiifname != \"lo\" ip daddr 127.0.0.0/8 drop\n\t}}\n\
         \tchain output {{\n\t\ttype nat hook output priority -100; policy accept;\n\t\t{to}\n\t}}\n\
         \tchain postrouting {{\n\t\ttype nat hook postrouting priority 100; policy accept;\n\
         \t\toifname != \"lo\" ip saddr 127.0.0.0/8 masquerade\n\t}}\n}}\n"
    );
    run_nft(&rules).map(|_| ())
}
