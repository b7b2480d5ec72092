//! A tenant's VPC: a namespace with routed ports, its own connection tracking and one chain of rules.
//!
//! Every packet, between neighbours too, passes `forward`. Replies are let through by their direction; what a
//! client sends is judged again packet by packet, so that a rule which goes stops living connections at once
//! and there is nothing to delete from connection tracking.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use cirro_types::MacAddress;
use cirro_types::kinds::{Peer, PortRange, Protocol, SecurityGroupSpec};
use ipnet::Ipv4Net;

use super::places::{Places, Published};
use super::{Context, EVERYWHERE, GATEWAY_MAC, LinkKind, LinkPlan, NetnsPlan, PeerPlan, RoutePlan, VPC_MTU};
use crate::ipam;
use crate::model::PortTarget;
use crate::names::{hash, identifier};
use crate::nft::Table;
use crate::state::{ObjectName, PortRecord, State, VpcRecord};

/// Name of the way out, inside.
pub(crate) const OUTSIDE: &str = "ext";

/// Plans a VPC's namespace.
pub(crate) fn plan(
    context: &Context,
    state: &State,
    places: &Places<'_>,
    name: &ObjectName,
    vpc: &VpcRecord,
) -> NetnsPlan {
    let mut plan = NetnsPlan::default();
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
    ] {
        plan.sysctls.insert(key.into(), value.into());
    }
    let mut lo = LinkPlan::new(LinkKind::Loopback, MacAddress([0; 6]), 65536);
    lo.addresses = gateways(state, name).map(Ipv4Net::from).collect();
    plan.links.insert("lo".into(), lo);
    // Else proxy ARP answers for free addresses, and packets to them leave by the default route.
    plan.routes.insert(vpc.cidr.trunc(), RoutePlan::Unreachable);
    for record in state.ports_in_vpc(name) {
        plan.links.insert(record.link.clone(), port_link(vpc, places, record));
        let route = RoutePlan::Link(record.link.clone(), None);
        plan.routes.insert(Ipv4Net::from(record.port.address), route);
    }
    plan.tables.insert("inet", table(context, state, places, name));
    plan.tables.insert("arp", arp_table(context, state, name));
    plan
}

/// Lists the gateway addresses of a VPC's subnets.
pub(crate) fn gateways<'a>(state: &'a State, vpc: &'a ObjectName) -> impl Iterator<Item = Ipv4Addr> + 'a {
    let subnets = state.subnets.iter();
    subnets
        .filter(move |((namespace, _), subnet)| *namespace == vpc.0 && subnet.vpc == vpc.1)
        .map(|(_, subnet)| ipam::first(subnet.cidr))
}

fn port_link(vpc: &VpcRecord, places: &Places<'_>, record: &PortRecord) -> LinkPlan {
    let port = &record.port;
    let kind = match &record.target {
        PortTarget::Tap => LinkKind::Tap,
        PortTarget::Namespace { path, interface } => {
            let (inode, address) = (record.namespace_inode, Ipv4Net::from(port.address));
            let mut peer = PeerPlan::new(path.clone(), inode, interface, port.mac, address);
            peer.gateway = port.gateway;
            peer.gateway_mac = Some(GATEWAY_MAC);
            peer.routes.insert(vpc.cidr.trunc());
            peer.routes.extend(places.has_default(record).then_some(EVERYWHERE));
            LinkKind::Veth(Some(Box::new(peer)))
        }
    };
    let mut link = LinkPlan::new(kind, GATEWAY_MAC, VPC_MTU);
    link.sysctls.insert("ipv4/conf/*/proxy_arp", "1");
    // The default of 0.8 s would delay every first packet.
    link.sysctls.insert("ipv4/neigh/*/proxy_delay", "0");
    link.neighbours.insert(port.address, port.mac);
    link
}

fn table(context: &Context, state: &State, places: &Places<'_>, name: &ObjectName) -> Table {
    let mut table = Table::new("inet", &context.prefix);
    table.counters.extend(["denied".into(), "spoofed".into()]);
    let ports: Vec<&PortRecord> = state.ports_in_vpc(name).map(AsRef::as_ref).collect();
    table.set("ports", "type ifname", ports.iter().map(|record| quoted(&record.link)));
    let binding = |record: &&PortRecord| {
        format!("{} . {} . {}", quoted(&record.link), record.port.mac, record.port.address)
    };
    table.set("bindings", "type ifname . ether_addr . ipv4_addr", ports.iter().map(binding));
    add_groups(state, name, &ports, &mut table);
    add_base_chains(state, places, name, &mut table);
    table
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn add_base_chains(state: &State, places: &Places<'_>, name: &ObjectName, table: &mut Table) {
    let hook = "type filter hook prerouting priority -300; policy accept;";
    table.chain("guard", Some(hook), ["iifname @ports goto bound"]);
    let bound = [
        "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
        "meta protocol ip iifname . ether saddr . ip saddr != @bindings counter name spoofed drop",
        "meta protocol != ip drop",
    ];
    table.chain("bound", None, bound);
    let mut published = BTreeMap::new();
    for Published { publish, target, .. } in places.published(state) {
        let here =
            |record: &&PortRecord| state.vpc_of(&record.port.subnet).is_some_and(|(of, _)| of == *name);
        if let Some((record, host_port)) = target.filter(here).zip(publish.host_port) {
            let key = format!("{} . {host_port}", publish.protocol.as_str());
            published.insert(key, format!("{} . {}", record.port.address, publish.port));
        }
    }
    table.map("published", "type inet_proto . inet_service : ipv4_addr . inet_service", published);
    let hook = "type nat hook prerouting priority -100; policy accept;";
    let rule = format!("iifname \"{OUTSIDE}\" dnat ip to meta l4proto . th dport map @published");
    table.chain("nat_prerouting", Some(hook), [rule]);
    let hook = "type nat hook postrouting priority 100; policy accept;";
    table.chain("nat_postrouting", Some(hook), [format!("oifname \"{OUTSIDE}\" masquerade")]);
    let hook = "type filter hook forward priority 0; policy drop;";
    let forward = [
        "ct state related accept",
        "ct direction reply ct state established accept",
        "ct state invalid drop",
        "iifname vmap @out_chain",
        "oifname vmap @in_chain",
        "oifname \"ext\" accept",
        "counter name denied drop",
    ];
    table.chain("forward", Some(hook), forward);
    let hook = "type filter hook input priority 0; policy drop;";
    table.chain("input", Some(hook), input_rules(state, name));
}

fn input_rules(state: &State, name: &ObjectName) -> Vec<String> {
    let mut rules: Vec<String> = vec![
        "iifname \"lo\" accept".into(),
        "ct state established,related accept".into(),
        "iifname @ports udp sport 68 udp dport 67 accept".into(),
    ];
    let gateways: Vec<String> = gateways(state, name).map(|address| address.to_string()).collect();
    if !gateways.is_empty() {
        let gateways = gateways.join(", ");
        rules.push(format!(
            "iifname @ports ip daddr {{ {gateways} }} meta l4proto {{ tcp, udp }} th dport 53 accept"
        ));
        rules.push(format!("iifname @ports ip daddr {{ {gateways} }} icmp type echo-request accept"));
    }
    rules
}

/// Members of groups as sets, groups as chains, and for each combination of groups that some port has a
/// chain that tries them in turn. A port's chain always ends in a verdict.
fn add_groups(state: &State, vpc: &ObjectName, ports: &[&PortRecord], table: &mut Table) {
    let groups: BTreeMap<&str, &SecurityGroupSpec> = state
        .tenants
        .groups
        .iter()
        .filter(|((namespace, _), spec)| *namespace == vpc.0 && spec.vpc == vpc.1)
        .map(|((_, name), spec)| (name.as_str(), spec))
        .collect();
    for (name, spec) in &groups {
        let members = ports.iter().filter(|record| record.groups.iter().any(|group| group == name));
        let addresses = members.map(|record| record.port.address.to_string());
        table.set(&identifier("members", name), "type ipv4_addr", addresses);
        let ingress = spec
            .ingress
            .iter()
            .filter_map(|rule| statement(rule.protocol, rule.ports, &rule.from, "saddr", &groups));
        table.chain(identifier("in", name), None, ingress.map(|rule| format!("{rule}accept")));
    }
    add_port_chains(&groups, ports, table);
}

fn add_port_chains(groups: &BTreeMap<&str, &SecurityGroupSpec>, ports: &[&PortRecord], table: &mut Table) {
    let (mut in_map, mut out_map) = (BTreeMap::new(), BTreeMap::new());
    for record in ports {
        let own: BTreeSet<&str> =
            record.groups.iter().map(String::as_str).filter(|name| groups.contains_key(name)).collect();
        let combination = hash(&own.iter().copied().collect::<Vec<_>>().join(","));
        let chain = format!("port_in_{combination:016x}");
        let jumps = own.iter().map(|name| format!("jump {}", identifier("in", name)));
        table.chain(&chain, None, jumps.chain(["counter name denied drop".into()]));
        in_map.insert(quoted(&record.link), format!("goto {chain}"));
        // Several groups allow what any of them allows; one without a list allows everything.
        let lists: Option<Vec<_>> = own.iter().map(|name| groups[name].egress.as_ref()).collect();
        if lists.is_some_and(|lists| !lists.is_empty()) {
            let chain = format!("port_out_{combination:016x}");
            let rules = own.iter().flat_map(|name| egress_rules(groups, name));
            table.chain(&chain, None, rules.chain(["counter name denied drop".into()]));
            out_map.insert(quoted(&record.link), format!("jump {chain}"));
        }
    }
    table.map("in_chain", "type ifname : verdict", in_map);
    table.map("out_chain", "type ifname : verdict", out_map);
}

/// Returns the rules of a group's egress. They stand in the port's own chain: a `return` in a chain of the
/// group's would only come back there.
fn egress_rules(groups: &BTreeMap<&str, &SecurityGroupSpec>, name: &str) -> Vec<String> {
    let rules = groups[name].egress.iter().flatten();
    rules
        .filter_map(|rule| statement(rule.protocol, rule.ports, &rule.to, "daddr", groups))
        .map(|rule| format!("{rule}return"))
        .collect()
}

/// Returns what a rule matches, ready for a verdict; `None` if it names a group that is not there.
fn statement(
    protocol: Protocol,
    ports: Option<PortRange>,
    peer: &Option<Peer>,
    side: &str,
    groups: &BTreeMap<&str, &SecurityGroupSpec>,
) -> Option<String> {
    let range = ports.map(
        |PortRange { first, last }| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        },
    );
    let transport = match (protocol, range) {
        (Protocol::Tcp, Some(range)) => format!("tcp dport {range} "),
        (Protocol::Udp, Some(range)) => format!("udp dport {range} "),
        (Protocol::Tcp, None) => "meta l4proto tcp ".into(),
        (Protocol::Udp, None) => "meta l4proto udp ".into(),
        (Protocol::Icmp, _) => "meta l4proto icmp ".into(),
        (Protocol::All, Some(range)) => format!("meta l4proto {{ tcp, udp }} th dport {range} "),
        (Protocol::All, None) => String::new(),
    };
    let peer = match peer {
        None => String::new(),
        Some(Peer::Cidr(range)) => format!("ip {side} {} ", range.trunc()),
        Some(Peer::Group(name)) if groups.contains_key(name.as_str()) => {
            format!("ip {side} @{} ", identifier("members", name))
        }
        Some(Peer::Group(_)) => return None,
    };
    Some(transport + &peer)
}

fn arp_table(context: &Context, state: &State, name: &ObjectName) -> Table {
    let mut table = Table::new("arp", &context.prefix);
    let ports: Vec<_> = state.ports_in_vpc(name).collect();
    table.set("ports", "type ifname", ports.iter().map(|record| quoted(&record.link)));
    let bindings = ports
        .iter()
        .map(|record| format!("{} . {} . {}", quoted(&record.link), record.port.mac, record.port.address));
    table.set("bindings", "type ifname . ether_addr . ipv4_addr", bindings);
    let hook = "type filter hook input priority 0; policy accept;";
    let rule = "iifname @ports iifname . arp saddr ether . arp saddr ip != @bindings counter drop";
    table.chain("input", Some(hook), [rule]);
    table
}
