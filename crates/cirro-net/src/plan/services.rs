//! Services as data: maps from address and port to a verdict, and from there to a backend.
//!
//! There is one chain per *number* of backends, not per service, so ten thousand services are looked up as
//! fast as ten, and a change of one is a few elements (NETWORK.md has the numbers).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cirro_seams::network::ServicePort;

use crate::nft::{Set, Table};
use crate::plan::Context;

/// Seed of the hash that keeps a client with its backend.
const SEED: &str = "seed 0x63697272";

/// The sets and maps of all services, made once per change of the services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ServiceMaps {
    sets: BTreeMap<&'static str, Arc<Set>>,
    /// Number of backends and whether clients stay, of services' addresses.
    service_chains: BTreeSet<(usize, bool)>,
    /// The same of node ports.
    node_chains: BTreeSet<(usize, bool)>,
    /// Pairs of equal addresses: backends that may be their own clients.
    pub(crate) backends: BTreeSet<String>,
}

impl ServiceMaps {
    /// Adds maps and chains to the host's table.
    pub(crate) fn add_to(&self, table: &mut Table) {
        for (name, set) in &self.sets {
            table.sets.insert((*name).into(), set.clone());
        }
        for (count, sticky) in &self.service_chains {
            let key = "ip daddr . meta l4proto . th dport";
            table.chain(
                chain_name("service", *count, *sticky),
                None,
                [pick(key, "endpoints", *count, *sticky)],
            );
        }
        for (count, sticky) in &self.node_chains {
            let key = "meta l4proto . th dport";
            table.chain(
                chain_name("node", *count, *sticky),
                None,
                [pick(key, "node_endpoints", *count, *sticky)],
            );
        }
    }
}

/// Makes the maps. Services without backends have no element: the forward chain rejects what goes to them.
pub(crate) fn plan(context: &Context, services: &[ServicePort]) -> ServiceMaps {
    let mut maps = ServiceMaps::default();
    let (mut addresses, mut endpoints) = (BTreeMap::new(), BTreeMap::new());
    let (mut node_ports, mut node_endpoints) = (BTreeMap::new(), BTreeMap::new());
    for service in services {
        let mut backends = service.backends.clone();
        backends.sort_unstable();
        backends.dedup();
        if backends.is_empty() {
            continue;
        }
        let shape = (backends.len(), service.client_ip_affinity);
        let protocol = service.protocol.as_str();
        // The cluster's DNS is served by ourselves at its address.
        let address = service.cluster_ip.filter(|address| *address != context.options.dns_address);
        if let Some(address) = address {
            let key = format!("{address} . {protocol} . {}", service.port);
            fill(&key, "service", shape, &backends, &mut addresses, &mut endpoints);
            maps.service_chains.insert(shape);
        }
        if let Some(port) = service.node_port {
            let key = format!("{protocol} . {port}");
            fill(&key, "node", shape, &backends, &mut node_ports, &mut node_endpoints);
            maps.node_chains.insert(shape);
        }
        maps.backends.extend(backends.iter().map(|(address, _)| format!("{address} . {address}")));
    }
    let mut map = |name, kind: &str, elements: BTreeMap<String, Option<String>>| {
        maps.sets.insert(name, Arc::new(Set { noun: "map", kind: kind.into(), elements }));
    };
    map("services", "type ipv4_addr . inet_proto . inet_service : verdict", addresses);
    map("node_ports", "type inet_proto . inet_service : verdict", node_ports);
    // `typeof` with the generator's own type: a mark as index would clobber marks that are not ours.
    let endpoint = "typeof ip daddr . meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport";
    map("endpoints", endpoint, endpoints);
    let node_endpoint = "typeof meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport";
    map("node_endpoints", node_endpoint, node_endpoints);
    maps
}

fn fill(
    key: &str,
    kind: &str,
    (count, sticky): (usize, bool),
    backends: &[(std::net::Ipv4Addr, u16)],
    verdicts: &mut BTreeMap<String, Option<String>>,
    endpoints: &mut BTreeMap<String, Option<String>>,
) {
    // The first of two services with one address and port wins; the API does not let it come to that.
    if verdicts.contains_key(key) {
        return;
    }
    verdicts.insert(key.into(), Some(format!("goto {}", chain_name(kind, count, sticky))));
    for (index, (address, port)) in backends.iter().enumerate() {
        endpoints.insert(format!("{key} . {index}"), Some(format!("{address} . {port}")));
    }
}

fn chain_name(kind: &str, count: usize, sticky: bool) -> String {
    format!("{kind}-{count}{}", if sticky { "-sticky" } else { "" })
}

fn pick(key: &str, map: &str, count: usize, sticky: bool) -> String {
    let choice = if sticky {
        format!("jhash ip saddr mod {count} {SEED}")
    } else {
        format!("numgen random mod {count}")
    };
    format!("dnat ip to {key} . {choice} map @{map}")
}
