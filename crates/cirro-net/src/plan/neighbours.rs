//! Who may say by ARP that it has an address of a docker network.
//!
//! Frames between containers pass the bridge and none of the host's other rules, and a container has `CAP_NET_RAW` unless it is taken
//! away, as with docker. So a port that claims the gateway's address, or another container's, is not heard. It may claim what is
//! nobody's: an address that moves between containers works.

use super::Context;
use crate::model::{PortTarget, SubnetId};
use crate::nft::Table;
use crate::state::State;

/// Plans the rules of the bridges.
pub(super) fn table(context: &Context, state: &State) -> Table {
    let mut table = Table::new("bridge", &context.prefix);
    let quoted = |name: &str| format!("\"{name}\"");
    let ports: Vec<_> = state
        .ports
        .values()
        .filter(|record| matches!(record.port.subnet, SubnetId::Docker(_)))
        .filter(|record| matches!(record.target, PortTarget::Namespace { .. }))
        .collect();
    let gateways = state.networks.values().map(|network| network.gateway);
    let owned = ports.iter().map(|record| record.port.address).chain(gateways);
    table.set("ports", "type ifname", ports.iter().map(|record| quoted(&record.link)));
    table.set("owned", "type ipv4_addr", owned.map(|address| address.to_string()));
    let bindings = ports
        .iter()
        .map(|record| format!("{} . {} . {}", quoted(&record.link), record.port.mac, record.port.address));
    table.set("bindings", "type ifname . ether_addr . ipv4_addr", bindings);
    let hook = "type filter hook prerouting priority -300; policy accept;";
    let rule = "iifname @ports arp saddr ip @owned iifname . arp saddr ether . arp saddr ip != @bindings counter drop";
    table.chain("guard", Some(hook), [rule]);
    table
}
