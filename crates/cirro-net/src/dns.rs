//! One DNS for every name: answers by who asks, forwards the rest.
//!
//! A server listens at the address that workloads have as their name server: a docker network's gateway, the
//! cluster's DNS address, a tenant's subnet's gateway (inside the VPC's namespace). Which socket was asked
//! tells who asks, and so which names are visible. Never at a wildcard address: the host may have a DNS of
//! its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, RwLock};

use cirro_seams::network::{NameRecord, NameTarget};

use crate::model::SubnetId;
use crate::plan::host::user_networks;
use crate::state::{ObjectName, State};

mod answer;
mod forward;
mod host;
mod server;

pub use host::resolve_host;
pub(crate) use server::DnsServers;

/// The domain of the cluster's names.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// The domain of tenants' names.
const TENANT_DOMAIN: &str = "internal";

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// A container on a docker network.
    Docker(String),
    /// A pod.
    Cluster,
    /// A workload on a tenant's subnet.
    Subnet(ObjectName),
}

/// The names that one scope sees.
#[derive(Debug, Default)]
pub(crate) struct View {
    hosts: HashMap<String, Vec<Ipv4Addr>>,
    /// Whether unknown names are asked for outside.
    forwards: bool,
}

/// The cluster's names.
#[derive(Debug, Default)]
pub(crate) struct ClusterNames {
    targets: HashMap<String, Vec<NameTarget>>,
    /// Every name with something below it: it exists, if only without records (RFC 8020).
    parents: HashSet<String>,
}

/// Everything that can be answered, changed as a whole.
#[derive(Debug, Default)]
pub(crate) struct Names {
    views: RwLock<Arc<BTreeMap<Scope, View>>>,
    /// Absent until the cluster has told its names once: then they are unknown, not missing.
    cluster: RwLock<Option<Arc<ClusterNames>>>,
}

impl Names {
    /// Takes over the cluster's names.
    pub(crate) fn set_cluster(&self, records: Vec<NameRecord>) {
        let mut names = ClusterNames::default();
        for record in records {
            let mut rest = record.name.as_str();
            while let Some((_, parent)) = rest.split_once('.') {
                if !names.parents.insert(parent.to_owned()) {
                    break;
                }
                rest = parent;
            }
            names.targets.entry(record.name).or_default().push(record.target);
        }
        *self.cluster.write().expect("nothing panics while it reads names") = Some(Arc::new(names));
    }

    /// Takes over the names of ports.
    pub(crate) fn set_ports(&self, state: &State) {
        let views = Arc::new(views(state));
        *self.views.write().expect("nothing panics while it reads names") = views;
    }

    fn views(&self) -> Arc<BTreeMap<Scope, View>> {
        self.views.read().expect("nothing panics while it writes names").clone()
    }

    fn cluster(&self) -> Option<Arc<ClusterNames>> {
        self.cluster.read().expect("nothing panics while it writes names").clone()
    }
}

fn views(state: &State) -> BTreeMap<Scope, View> {
    let mut views = BTreeMap::new();
    for network in user_networks(state) {
        let mut view = View { forwards: !network.internal, ..View::default() };
        add_short_names(state, &SubnetId::Docker(network.id.clone()), &mut view);
        views.insert(Scope::Docker(network.id.clone()), view);
    }
    let full = tenant_names(state);
    for (subnet, record) in &state.subnets {
        let vpc = (subnet.0.clone(), record.vpc.clone());
        let mut view = View { forwards: true, hosts: full.get(&vpc).cloned().unwrap_or_default() };
        let id = SubnetId::Tenant { namespace: subnet.0.clone(), name: subnet.1.clone() };
        add_short_names(state, &id, &mut view);
        views.insert(Scope::Subnet(subnet.clone()), view);
    }
    views.insert(Scope::Cluster, View { forwards: true, ..View::default() });
    views
}

fn add_short_names(state: &State, subnet: &SubnetId, view: &mut View) {
    for record in state.ports_of(subnet) {
        for name in &record.names {
            view.hosts.entry(name.to_ascii_lowercase()).or_default().push(record.port.address);
        }
    }
}

/// Lists each VPC's `<name>.<subnet>.<vpc>.internal`.
fn tenant_names(state: &State) -> HashMap<ObjectName, HashMap<String, Vec<Ipv4Addr>>> {
    let mut full: HashMap<ObjectName, HashMap<String, Vec<Ipv4Addr>>> = HashMap::new();
    for (subnet, record) in &state.subnets {
        let hosts = full.entry((subnet.0.clone(), record.vpc.clone())).or_default();
        let id = SubnetId::Tenant { namespace: subnet.0.clone(), name: subnet.1.clone() };
        for port in state.ports_of(&id) {
            for name in &port.names {
                let name = format!("{name}.{}.{}.{TENANT_DOMAIN}", subnet.1, record.vpc);
                hosts.entry(name.to_ascii_lowercase()).or_default().push(port.port.address);
            }
        }
    }
    full
}
