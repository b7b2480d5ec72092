//! The host's namespace: docker's bridges, pods, ways out of tenants' VPCs.
//!
//! Rules judge only what enters or leaves by our own links. Accepting in our table is no more than not
//! dropping: a host firewall's drop stays a drop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cirro_seams::network::PortPublish;
use cirro_types::MacAddress;
use ipnet::{Ipv4Net, Ipv6Net};

use super::places::{Places, Published};
use super::services::ServiceMaps;
use super::{
    Context, EVERYWHERE, GATEWAY_MAC, HOST_MTU, LinkKind, LinkPlan, NetnsPlan, PeerPlan, RoutePlan, VPC_MTU,
};
use crate::model::{DockerNetwork, PortTarget, SubnetId};
use crate::names;
use crate::nft::Table;
use crate::state::{PortRecord, State, VpcRecord};

/// Plans the host's namespace.
pub(crate) fn plan(
    context: &Context,
    state: &State,
    places: &Places<'_>,
    services: &ServiceMaps,
) -> NetnsPlan {
    let mut plan = NetnsPlan::default();
    // A published port may be asked for on any link of the host, also on one that comes later.
    plan.sysctls.insert("ipv4/ip_forward".into(), "1".into());
    if state.networks.values().any(|network| network.subnet6.is_some()) {
        plan.sysctls.insert("ipv6/conf/all/forwarding".into(), "1".into());
    }
    add_gateway(context, &mut plan);
    for network in state.networks.values() {
        plan.links.insert(network.bridge.clone(), bridge_link(network));
    }
    for record in state.ports.values() {
        add_port(context, state, places, record, &mut plan);
    }
    for vpc in state.vpcs.values() {
        plan.links.insert(vpc.link.clone(), transit_link(context, vpc));
    }
    plan.tables.insert("inet", table(context, state, places, services));
    if context.filters_bridges {
        plan.tables.insert("bridge", super::neighbours::table(context, state));
    }
    plan
}

/// One link holds the host's addresses for pods. Whatever of the pods' and services' ranges is nobody's is
/// routed there, to be rejected: it must not leave by the default route, and shows other clouds who holds the range.
/// (A bridge without ports: not every kernel has dummy links.)
fn add_gateway(context: &Context, plan: &mut NetnsPlan) {
    let name = names::gateway(&context.prefix);
    let mut link = LinkPlan::new(LinkKind::Bridge, GATEWAY_MAC, HOST_MTU);
    let gateway = context.pod_gateway();
    link.addresses.insert(Ipv4Net::from(gateway));
    link.addresses.insert(Ipv4Net::from(context.options.dns_address));
    link.sysctls.insert("ipv6/conf/*/disable_ipv6", "1");
    plan.links.insert(name.clone(), link);
    for range in [context.options.pod_cidr, context.options.service_cidr] {
        plan.routes.insert(range.trunc(), RoutePlan::Link(name.clone(), Some(gateway)));
    }
}

fn bridge_link(network: &DockerNetwork) -> LinkPlan {
    let [_, b, c, d, e, f, ..] = names::hash(&network.id).to_be_bytes();
    let mut link = LinkPlan::new(LinkKind::Bridge, MacAddress([0x02, b, c, d, e, f]), network.mtu());
    let address = Ipv4Net::new(network.gateway, network.subnet.prefix_len()).expect("a prefix of a range");
    link.addresses.insert(address);
    // Replies to connections from 127.0.0.1 come back here; `guard` drops what is not such a reply.
    link.sysctls.insert("ipv4/conf/*/route_localnet", "1");
    let Some((subnet, gateway)) = network.subnet6.zip(network.gateway6) else {
        link.sysctls.insert("ipv6/conf/*/disable_ipv6", "1");
        return link;
    };
    link.addresses6.insert(Ipv6Net::new(gateway, subnet.prefix_len()).expect("a prefix of a range"));
    link.sysctls.insert("ipv6/conf/*/disable_ipv6", "0");
    link.sysctls.insert("ipv6/conf/*/accept_ra", "0");
    // Else a link that is set down for a moment comes back without its address.
    link.sysctls.insert("ipv6/conf/*/keep_addr_on_down", "1");
    link
}

fn add_port(
    context: &Context,
    state: &State,
    places: &Places<'_>,
    record: &PortRecord,
    plan: &mut NetnsPlan,
) {
    let PortTarget::Namespace { path, interface } = &record.target else { return };
    let port = &record.port;
    let address = Ipv4Net::new(port.address, port.prefix).expect("a prefix of a range");
    let mut peer = PeerPlan::new(path.clone(), record.namespace_inode, interface, port.mac, address);
    peer.gateway = port.gateway;
    peer.routes.extend(places.has_default(record).then_some(EVERYWHERE));
    match &port.subnet {
        SubnetId::Docker(id) => {
            let Some(network) = state.networks.get(id) else { return };
            peer.address6 = port.address6.and_then(|(address, prefix)| Ipv6Net::new(address, prefix).ok());
            peer.gateway6 = port.gateway6.filter(|_| places.has_default6(record));
            peer.resolver = places.resolver(record);
            let mut link = LinkPlan::new(LinkKind::Veth(Some(Box::new(peer))), GATEWAY_MAC, network.mtu());
            // Its own address: a bridge must not see one address on several of its ports.
            link.mac = MacAddress([0x02, 0x63, port.mac.0[2], port.mac.0[3], port.mac.0[4], port.mac.0[5]]);
            link.master = Some(network.bridge.clone());
            // Where br_netfilter is on, a workload's way to its own published port is bridged.
            link.hairpin = places.is_published(record);
            link.isolated = !network.is_open_inside();
            link.sysctls.insert("ipv6/conf/*/disable_ipv6", "1");
            plan.links.insert(record.link.clone(), link);
        }
        SubnetId::Pods => {
            // Nobody is a neighbour: every packet goes to the host, which needs no ARP then.
            peer.address = Ipv4Net::from(port.address);
            peer.gateway = Some(context.pod_gateway());
            peer.gateway_mac = Some(GATEWAY_MAC);
            let mut link = LinkPlan::new(LinkKind::Veth(Some(Box::new(peer))), GATEWAY_MAC, HOST_MTU);
            link.sysctls.insert("ipv4/conf/*/route_localnet", "1");
            link.sysctls.insert("ipv6/conf/*/disable_ipv6", "1");
            link.neighbours.insert(port.address, port.mac);
            plan.links.insert(record.link.clone(), link);
            let route = RoutePlan::Link(record.link.clone(), Some(context.pod_gateway()));
            plan.routes.insert(Ipv4Net::from(port.address), route);
        }
        SubnetId::Tenant { .. } => {}
    }
}

fn transit_link(context: &Context, vpc: &VpcRecord) -> LinkPlan {
    let inode = context.vpc_inodes.get(&vpc.file).copied().unwrap_or(0);
    let address = Ipv4Net::new(vpc.own_address(), 31).expect("31 is a prefix");
    let (file, mac) = (context.netns_dir().join(&vpc.file), super::mac_of(vpc.own_address()));
    let mut peer = PeerPlan::new(file, inode, super::vpc::OUTSIDE, mac, address);
    peer.gateway = Some(vpc.host_address());
    peer.routes.insert(EVERYWHERE);
    let mac = super::mac_of(vpc.host_address());
    let mut link = LinkPlan::new(LinkKind::Veth(Some(Box::new(peer))), mac, VPC_MTU);
    link.addresses.insert(Ipv4Net::new(vpc.host_address(), 31).expect("31 is a prefix"));
    link.sysctls.insert("ipv4/conf/*/route_localnet", "1");
    link.sysctls.insert("ipv6/conf/*/disable_ipv6", "1");
    link
}

fn table(context: &Context, state: &State, places: &Places<'_>, services: &ServiceMaps) -> Table {
    let mut table = Table::new("inet", &context.prefix);
    add_published(state, places, services, &mut table);
    services.add_to(&mut table);
    add_translation(context, state, &mut table);
    add_filters(context, state, &mut table);
    table
}

/// The published ports of one family, by address and for every address.
#[derive(Default)]
struct PublishedMaps {
    anywhere: BTreeMap<String, String>,
    somewhere: BTreeMap<String, String>,
    hairpin: BTreeSet<String>,
}

fn add_published(state: &State, places: &Places<'_>, services: &ServiceMaps, table: &mut Table) {
    let mut maps = PublishedMaps { hairpin: services.backends.clone(), ..PublishedMaps::default() };
    let mut maps6 = PublishedMaps::default();
    for published in places.published(state) {
        add_published4(state, published, &mut maps);
        add_published6(published, &mut maps6);
    }
    table.map("published", "type inet_proto . inet_service : ipv4_addr . inet_service", maps.anywhere);
    let kind = "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service";
    table.map("published_at", kind, maps.somewhere);
    table.set("hairpin", "type ipv4_addr . ipv4_addr", maps.hairpin);
    table.map("published6", "type inet_proto . inet_service : ipv6_addr . inet_service", maps6.anywhere);
    let kind = "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service";
    table.map("published6_at", kind, maps6.somewhere);
    table.set("hairpin6", "type ipv6_addr . ipv6_addr", maps6.hairpin);
}

fn add_published4(state: &State, published: Published<'_>, maps: &mut PublishedMaps) {
    let Published { publish, target: Some(record), .. } = published else { return };
    let Some(host_port) = publish.host_port else { return };
    let protocol = publish.protocol.as_str();
    let target = match state.vpc_of(&record.port.subnet) {
        // Its VPC's own table takes it from there.
        Some((_, vpc)) => format!("{} . {host_port}", vpc.own_address()),
        None => format!("{} . {}", record.port.address, publish.port),
    };
    match host_address(publish) {
        At::Everywhere | At::Everywhere4 => maps.anywhere.insert(format!("{protocol} . {host_port}"), target),
        At::V4(address) => maps.somewhere.insert(format!("{address} . {protocol} . {host_port}"), target),
        At::V6(_) | At::Everywhere6 => return,
    };
    maps.hairpin.insert(format!("{0} . {0}", record.port.address));
}

fn add_published6(published: Published<'_>, maps: &mut PublishedMaps) {
    let Published { publish, target6: Some(record), .. } = published else { return };
    let (Some(host_port), Some((address, _))) = (publish.host_port, record.port.address6) else { return };
    let protocol = publish.protocol.as_str();
    let target = format!("{address} . {}", publish.port);
    match host_address(publish) {
        At::Everywhere | At::Everywhere6 => maps.anywhere.insert(format!("{protocol} . {host_port}"), target),
        At::V6(at) => maps.somewhere.insert(format!("{at} . {protocol} . {host_port}"), target),
        At::V4(_) | At::Everywhere4 => return,
    };
    maps.hairpin.insert(format!("{address} . {address}"));
}

/// Where on the host a port is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum At {
    /// At every address of both families.
    Everywhere,
    /// At every IPv4 address.
    Everywhere4,
    /// At every IPv6 address.
    Everywhere6,
    /// At one address.
    V4(Ipv4Addr),
    /// At one IPv6 address.
    V6(Ipv6Addr),
}

/// Returns where a port is published.
pub(crate) fn host_address(publish: &PortPublish) -> At {
    match publish.host_address {
        None => At::Everywhere,
        Some(IpAddr::V4(address)) if address.is_unspecified() => At::Everywhere4,
        Some(IpAddr::V4(address)) => At::V4(address),
        Some(IpAddr::V6(address)) if address.is_unspecified() => At::Everywhere6,
        Some(IpAddr::V6(address)) => At::V6(address),
    }
}

fn add_translation(context: &Context, state: &State, table: &mut Table) {
    let prefix = &context.prefix;
    let (gateway, services) = (context.pod_gateway(), context.options.service_cidr.trunc());
    let mut local = vec![
        format!("ip daddr {{ {gateway}, {} }} return", context.options.dns_address),
        // Nothing with that source leaves the host; `relay` carries it.
        "ip6 daddr ::1 return".into(),
    ];
    let resolvers: Vec<String> = user_networks(state).map(|network| network.gateway.to_string()).collect();
    if !resolvers.is_empty() {
        local.push(format!(
            "ip daddr {{ {} }} meta l4proto {{ tcp, udp }} th dport 53 return",
            resolvers.join(", ")
        ));
    }
    local.push("dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6_at".into());
    local.push("dnat ip6 to meta l4proto . th dport map @published6".into());
    local.push("dnat ip to ip daddr . meta l4proto . th dport map @published_at".into());
    local.push("dnat ip to meta l4proto . th dport map @published".into());
    local.push("meta l4proto . th dport vmap @node_ports".into());
    table.chain("local", None, local);
    let to_service = format!("ip daddr {services} ip daddr . meta l4proto . th dport vmap @services");
    let hook = "type nat hook prerouting priority -100; policy accept;";
    // Tenants see published ports, as anybody outside does, but not the cluster's services.
    let from_outside = format!("iifname != \"{prefix}-t*\" {to_service}");
    // Translation comes before the kernel's own check of such addresses: without this, a neighbour on the
    // wire would reach what is published at 127.0.0.1 only.
    let forged = "iifname != \"lo\" ip daddr 127.0.0.0/8 return".into();
    let local = "fib daddr type local goto local".into();
    table.chain("nat_prerouting", Some(hook), [forged, from_outside, local]);
    let hook = "type nat hook output priority -100; policy accept;";
    table.chain("nat_output", Some(hook), [to_service, "fib daddr type local goto local".into()]);
    let hook = "type nat hook postrouting priority 100; policy accept;";
    table.chain("nat_postrouting", Some(hook), postrouting(context, state));
}

fn postrouting(context: &Context, state: &State) -> Vec<String> {
    let prefix = &context.prefix;
    let gateway = context.pod_gateway();
    let mut rules = vec![
        // Pods' links have no address to masquerade with.
        format!("oifname \"{prefix}-p*\" ct status dnat ip saddr . ip daddr @hairpin snat ip to {gateway}"),
        // By addresses, not links: on a bridge with br_netfilter there is no link to come in by.
        "ct status dnat ip saddr . ip daddr @hairpin masquerade".into(),
        "ct status dnat ip6 saddr . ip6 daddr @hairpin6 masquerade".into(),
        format!("oifname \"{prefix}-p*\" ip saddr 127.0.0.0/8 snat ip to {gateway}"),
        "ip saddr 127.0.0.0/8 oifname != \"lo\" ct status dnat masquerade".into(),
        format!("iifname \"{prefix}-t*\" masquerade"),
        format!("iifname \"{prefix}-p*\" oifname != \"{prefix}-*\" oifname != \"{prefix}0\" masquerade"),
    ];
    for network in state.networks.values() {
        let (bridge, range) = (&network.bridge, network.subnet.trunc());
        rules.push(format!("iifname \"{bridge}\" oifname \"{bridge}\" ct status dnat masquerade"));
        if network.internal || !network.masquerades() {
            continue;
        }
        let how =
            network.source_address().map_or_else(|| "masquerade".into(), |to| format!("snat ip to {to}"));
        rules.push(format!("ip saddr {range} oifname != \"{bridge}\" {how}"));
        if let Some(range) = network.subnet6 {
            rules.push(format!("ip6 saddr {} oifname != \"{bridge}\" masquerade", range.trunc()));
        }
    }
    rules
}

fn add_filters(context: &Context, state: &State, table: &mut Table) {
    let prefix = &context.prefix;
    let services = context.options.service_cidr.trunc();
    let hook = "type filter hook prerouting priority -300; policy accept;";
    let guard = [
        format!("iifname \"{prefix}-*\" ip daddr 127.0.0.0/8 drop"),
        format!("iifname \"{prefix}0\" ip daddr 127.0.0.0/8 drop"),
        // A pod's only route back is its own address.
        format!("iifname \"{prefix}-p*\" fib saddr . iif oif missing drop"),
    ];
    let own =
        own_bridges(context, state).map(|bridge| format!("iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop"));
    table.chain("guard", Some(hook), guard.into_iter().chain(own));
    let hook = "type filter hook input priority 0; policy accept;";
    let own = format!("{{ {}, {} }}", context.pod_gateway(), context.options.dns_address);
    let input = [
        format!("iifname \"{prefix}-t*\" ct state established,related accept"),
        format!("iifname \"{prefix}-t*\" drop"),
        format!("ip daddr {own} iifname != \"lo\" iifname != \"{prefix}-*\" iifname != \"{prefix}0\" drop"),
    ];
    table.chain("input", Some(hook), input);
    let hook = "type filter hook output priority 0; policy accept;";
    let output = [
        // A translated packet is on its way elsewhere, though this hook still shows the first link.
        "ct status dnat accept".into(),
        format!("oifname \"{prefix}-gw\" ip daddr {services} reject"),
        format!("oifname \"{prefix}-gw\" reject with icmpx host-unreachable"),
    ];
    table.chain("output", Some(hook), output);
    let hook = "type filter hook forward priority 0; policy accept;";
    let forward = ["iifname", "oifname"].into_iter().flat_map(|side| {
        let own = own_bridges(context, state).map(move |bridge| format!("{side} \"{bridge}\" goto ours"));
        [format!("{side} \"{prefix}-*\" goto ours"), format!("{side} \"{prefix}0\" goto ours")]
            .into_iter()
            .chain(own)
    });
    table.chain("forward", Some(hook), forward);
    table.chain("ours", None, forward_ours(context, state));
}

fn forward_ours(context: &Context, state: &State) -> Vec<String> {
    let prefix = &context.prefix;
    let services = context.options.service_cidr.trunc();
    let mut rules = vec![
        // Forged VXLAN would enter other VPCs.
        format!("iifname \"{prefix}-t*\" udp dport {{ 4789, 8472 }} drop"),
        "ct state established,related accept".into(),
        // Nobody's service or pod address; also a service without backends.
        format!("oifname \"{prefix}-gw\" ip daddr {services} reject"),
        format!("oifname \"{prefix}-gw\" reject with icmpx host-unreachable"),
        format!("oifname \"{prefix}-t*\" ct status dnat accept"),
        format!("oifname \"{prefix}-t*\" drop"),
        format!("iifname \"{prefix}-t*\" ct status dnat accept"),
        format!("iifname \"{prefix}-t*\" oifname \"{prefix}-*\" drop"),
        format!("iifname \"{prefix}-t*\" oifname \"{prefix}0\" drop"),
    ];
    for network in state.networks.values() {
        let bridge = &network.bridge;
        let inside = if network.is_open_inside() { "" } else { "ct status dnat " };
        rules.push(format!("iifname \"{bridge}\" oifname \"{bridge}\" {inside}accept"));
        if network.internal {
            rules.push(format!("iifname \"{bridge}\" drop"));
        } else {
            rules.push(format!("oifname \"{bridge}\" ct status dnat accept"));
        }
        rules.push(format!("oifname \"{bridge}\" drop"));
    }
    rules
}

/// Lists the bridges whose names their users chose: no pattern of ours fits them.
fn own_bridges<'a>(context: &'a Context, state: &'a State) -> impl Iterator<Item = &'a str> {
    let bridges = state.networks.values().map(|network| network.bridge.as_str());
    bridges.filter(|bridge| !names::owns(&context.prefix, bridge))
}

/// Lists the docker networks whose gateway answers DNS: all but the default one.
pub(crate) fn user_networks(state: &State) -> impl Iterator<Item = &DockerNetwork> {
    state.networks.values().map(AsRef::as_ref).filter(|network| network.name != "bridge")
}
