//! Which of a namespace's ports has what a namespace has once: default routes, published ports, a resolver.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use cirro_seams::network::PortPublish;

use crate::model::{PortTarget, SubnetId};
use crate::state::{PortRecord, State};

/// What each namespace has once, by the namespace's file.
#[derive(Debug, Default)]
pub(crate) struct Places<'a> {
    of: BTreeMap<&'a Path, Place<'a>>,
}

#[derive(Debug, Default)]
struct Place<'a> {
    default: Option<&'a PortRecord>,
    default6: Option<&'a PortRecord>,
    resolver: Option<(&'a PortRecord, Ipv4Addr)>,
    publishes: bool,
}

impl<'a> Places<'a> {
    /// Decides for every namespace.
    pub(crate) fn of(state: &'a State) -> Self {
        let mut ports: BTreeMap<&Path, Vec<&PortRecord>> = BTreeMap::new();
        for record in state.ports.values() {
            if let PortTarget::Namespace { path, .. } = &record.target {
                ports.entry(path).or_default().push(record);
            }
        }
        Self { of: ports.into_iter().map(|(path, ports)| (path, decide(state, ports))).collect() }
    }

    fn place(&self, record: &PortRecord) -> Option<&Place<'a>> {
        match &record.target {
            PortTarget::Namespace { path, .. } => self.of.get(path.as_path()),
            PortTarget::Tap => None,
        }
    }

    /// Tells whether a port has its namespace's IPv4 default route.
    pub(crate) fn has_default(&self, record: &PortRecord) -> bool {
        let default = self.place(record).and_then(|place| place.default);
        default.is_some_and(|port| port.port.id == record.port.id)
    }

    /// Tells whether a port has its namespace's IPv6 default route.
    pub(crate) fn has_default6(&self, record: &PortRecord) -> bool {
        let default = self.place(record).and_then(|place| place.default6);
        default.is_some_and(|port| port.port.id == record.port.id)
    }

    /// Tells whether published ports lead to a port by IPv4.
    pub(crate) fn is_published(&self, record: &PortRecord) -> bool {
        self.has_default(record) && self.place(record).is_some_and(|place| place.publishes)
    }

    /// Returns where the namespace's questions for names go, on the one port that makes them go there.
    pub(crate) fn resolver(&self, record: &PortRecord) -> Option<Ipv4Addr> {
        let (port, address) = self.place(record)?.resolver?;
        (port.port.id == record.port.id).then_some(address)
    }

    /// Lists published ports with the ports that they lead to by IPv4 and IPv6.
    ///
    /// A machine's lead to itself; those of a namespace that leads nowhere, nowhere.
    pub(crate) fn published(&self, state: &'a State) -> Vec<Published<'a>> {
        let of = |record: &'a PortRecord| {
            let (target, target6) = match self.place(record) {
                Some(place) => (place.default, place.default6),
                None => (Some(record), None),
            };
            record.port.publish.iter().map(move |publish| Published { publish, target, target6 })
        };
        state.ports.values().flat_map(|record| of(record)).collect()
    }
}

/// A published port and where it leads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published<'a> {
    pub(crate) publish: &'a PortPublish,
    pub(crate) target: Option<&'a PortRecord>,
    pub(crate) target6: Option<&'a PortRecord>,
}

/// Ports by priority, then by the network's name; one with both families goes before those with one, as dockerd
/// chooses. A pod's own port goes before everything.
fn decide<'a>(state: &'a State, mut ports: Vec<&'a PortRecord>) -> Place<'a> {
    ports.sort_by_cached_key(|record| {
        let name = network_name(state, &record.port.subnet);
        (record.port.subnet != SubnetId::Pods, -i64::from(record.gateway_priority), name)
    });
    let first = |test: &dyn Fn(&PortRecord) -> bool| ports.iter().copied().find(|record| test(record));
    let both = first(&|record| record.port.gateway.is_some() && record.port.gateway6.is_some());
    let pod = first(&|record| record.port.subnet == SubnetId::Pods);
    let resolver = ports.iter().copied().find_map(|record| match &record.port.subnet {
        SubnetId::Docker(_) => record.port.dns.map(|dns| (record, dns)),
        _ => None,
    });
    Place {
        default: pod.or(both).or_else(|| first(&|record| record.port.gateway.is_some())),
        default6: both.or_else(|| first(&|record| record.port.gateway6.is_some())),
        resolver,
        publishes: ports.iter().any(|record| !record.port.publish.is_empty()),
    }
}

fn network_name(state: &State, subnet: &SubnetId) -> String {
    match subnet {
        SubnetId::Docker(id) => {
            state.networks.get(id).map_or_else(|| id.clone(), |network| network.name.clone())
        }
        SubnetId::Pods => "pods".into(),
        SubnetId::Tenant { namespace, name } => format!("{namespace}/{name}"),
    }
}
