//! One DNS for every name: answers by who asks, forwards the rest.
//!
//! A server listens at the address that workloads have as their name server: a docker network's gateway, the
//! cluster's DNS address, a tenant's subnet's gateway (inside the VPC's namespace). Which socket was asked
//! tells who asks, and so which names are visible; a container's own address tells which other networks it is
//! on. Never at a wildcard address: the host may have a DNS of
//! its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, RwLock};

use cirro_seams::network::{NameRecord, NameTarget};

use crate::model::{PortTarget, SubnetId};
use crate::plan::host::user_networks;
use crate::state::{ObjectName, PortRecord, State};

mod answer;
mod forward;
mod host;
mod server;

pub use host::resolve_host;
pub(crate) use server::DnsServers;

/// The address at which a container on a docker network of its user's finds its name server.
pub const EMBEDDED_DNS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

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
    hosts: HashMap<String, Vec<IpAddr>>,
    /// Names by address.
    addresses: HashMap<IpAddr, String>,
    /// Whether unknown names are asked for outside.
    forwards: bool,
    /// Those of its askers that see more than this, by address.
    clients: HashMap<Ipv4Addr, Client>,
}

/// What one container sees beside the names of the network that it asks by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Client {
    /// Ids of the other networks that it is on.
    networks: Vec<String>,
    /// Names of its own for names of its neighbours.
    links: BTreeMap<String, String>,
    /// Name servers of its own for what is not ours.
    resolvers: Vec<IpAddr>,
}

/// One who asks, with all that he sees.
#[derive(Debug)]
struct Asker<'a> {
    views: Vec<&'a View>,
    client: Option<&'a Client>,
}

impl<'a> Asker<'a> {
    /// Finds what the client with this address sees; `None` when its scope is not known.
    fn find(views: &'a BTreeMap<Scope, View>, scope: &Scope, address: IpAddr) -> Option<Self> {
        let own = views.get(scope)?;
        let client = match address {
            IpAddr::V4(address) => own.clients.get(&address),
            IpAddr::V6(_) => None,
        };
        let others = client.into_iter().flat_map(|client| &client.networks);
        let others = others.filter_map(|id| views.get(&Scope::Docker(id.clone())));
        Some(Self { views: std::iter::once(own).chain(others).collect(), client })
    }

    /// Returns the addresses of a name.
    fn addresses(&self, name: &str) -> Option<&'a Vec<IpAddr>> {
        let linked = self.client.and_then(|client| client.links.get(name)).map_or(name, String::as_str);
        self.views.iter().find_map(|view| view.hosts.get(linked))
    }

    /// Returns the name of an address.
    fn name(&self, address: IpAddr) -> Option<&'a str> {
        self.views.iter().find_map(|view| view.addresses.get(&address)).map(String::as_str)
    }

    /// Tells whether unknown names are asked for outside.
    fn forwards(&self) -> bool {
        self.views.iter().any(|view| view.forwards)
    }

    /// Returns its own name servers; the host's when there are none.
    fn resolvers(&self) -> &'a [IpAddr] {
        self.client.map_or(&[], |client| &client.resolvers)
    }
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
        let id = SubnetId::Docker(network.id.clone());
        add_short_names(state, &id, &mut view);
        for record in state.ports_of(&id) {
            if let Some(name) = record.names.first() {
                let mut note = |address| view.addresses.insert(address, format!("{name}.{}", network.name));
                note(record.port.address.into());
                record.port.address6.map(|(address, _)| note(address.into()));
            }
            let client = client(state, record);
            if client != Client::default() {
                view.clients.insert(record.port.address, client);
            }
        }
        views.insert(Scope::Docker(network.id.clone()), view);
    }
    let full = tenant_names(state);
    for (subnet, record) in &state.subnets {
        let vpc = (subnet.0.clone(), record.vpc.clone());
        let hosts = full.get(&vpc).cloned().unwrap_or_default();
        let mut view = View { forwards: true, hosts, ..View::default() };
        let id = SubnetId::Tenant { namespace: subnet.0.clone(), name: subnet.1.clone() };
        add_short_names(state, &id, &mut view);
        views.insert(Scope::Subnet(subnet.clone()), view);
    }
    views.insert(Scope::Cluster, View { forwards: true, ..View::default() });
    views
}

/// Finds what a container sees beside the network of one of its ports.
fn client(state: &State, record: &PortRecord) -> Client {
    let others =
        state.ports.values().filter(|other| other.port.id != record.port.id && is_beside(record, other));
    let user = |id: &String| state.networks.get(id).is_some_and(|network| network.name != "bridge");
    let mut client = Client::default();
    for port in std::iter::once(record).chain(others.map(AsRef::as_ref)) {
        if let SubnetId::Docker(id) = &port.port.subnet
            && user(id)
            && port.port.id != record.port.id
        {
            client.networks.push(id.clone());
        }
        client.links.extend(port.links.clone());
        client.resolvers.extend(
            port.resolvers.iter().filter(|_| client.resolvers.is_empty()).copied().collect::<Vec<_>>(),
        );
    }
    client
}

fn is_beside(one: &PortRecord, other: &PortRecord) -> bool {
    match (&one.target, &other.target) {
        (PortTarget::Namespace { path: one, .. }, PortTarget::Namespace { path: other, .. }) => one == other,
        _ => false,
    }
}

fn add_short_names(state: &State, subnet: &SubnetId, view: &mut View) {
    for record in state.ports_of(subnet) {
        for name in &record.names {
            let addresses = view.hosts.entry(name.to_ascii_lowercase()).or_default();
            addresses.push(record.port.address.into());
            addresses.extend(record.port.address6.map(|(address, _)| IpAddr::from(address)));
        }
    }
}

/// Lists each VPC's `<name>.<subnet>.<vpc>.internal`.
fn tenant_names(state: &State) -> HashMap<ObjectName, HashMap<String, Vec<IpAddr>>> {
    let mut full: HashMap<ObjectName, HashMap<String, Vec<IpAddr>>> = HashMap::new();
    for (subnet, record) in &state.subnets {
        let hosts = full.entry((subnet.0.clone(), record.vpc.clone())).or_default();
        let id = SubnetId::Tenant { namespace: subnet.0.clone(), name: subnet.1.clone() };
        for port in state.ports_of(&id) {
            for name in &port.names {
                let name = format!("{name}.{}.{}.{TENANT_DOMAIN}", subnet.1, record.vpc);
                hosts.entry(name.to_ascii_lowercase()).or_default().push(port.port.address.into());
            }
        }
    }
    full
}
