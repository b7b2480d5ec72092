//! What is recorded of one host's network, and how it is kept.
//!
//! Cheap to clone: a change is made on a copy, planned, applied, and only then becomes the state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use cirro_seams::network::ServicePort;
use cirro_store::NodeDb;
use ipnet::Ipv4Net;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::NetError;
use crate::model::{DockerNetwork, Port, PortTarget, SubnetId, Tenants};

/// Namespace and name of an object.
pub(crate) type ObjectName = (String, String);

/// A port with what the face need not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortRecord {
    /// The port.
    pub(crate) port: Port,
    /// Name of our end's link.
    pub(crate) link: String,
    /// Where the workload's end is.
    pub(crate) target: PortTarget,
    /// Inode of the target's namespace when the port was made: a file of the same name may be another namespace.
    pub(crate) namespace_inode: u64,
    /// Names for its neighbours.
    pub(crate) names: Vec<String>,
    /// Names that only it sees, for names of its neighbours.
    #[serde(default)]
    pub(crate) links: BTreeMap<String, String>,
    /// Name servers for what is not ours; the host's when empty.
    #[serde(default)]
    pub(crate) resolvers: Vec<std::net::IpAddr>,
    /// Its rank among the ports of its namespace.
    #[serde(default)]
    pub(crate) gateway_priority: i32,
    /// Its security groups.
    pub(crate) groups: Vec<String>,
}

/// A tenant's VPC on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VpcRecord {
    /// Its range.
    pub(crate) cidr: Ipv4Net,
    /// The two addresses of its way out: the host's, then its own.
    pub(crate) transit: Ipv4Net,
    /// Name of the host's end of its way out.
    pub(crate) link: String,
    /// Name of its namespace's file.
    pub(crate) file: String,
}

impl VpcRecord {
    /// Returns the host's end of the way out.
    pub(crate) fn host_address(&self) -> Ipv4Addr {
        self.transit.network()
    }

    /// Returns the VPC's end of the way out.
    pub(crate) fn own_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.transit.network()) + 1)
    }
}

/// A tenant's subnet on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubnetRecord {
    /// Name of its VPC in the same namespace.
    pub(crate) vpc: String,
    /// Its range.
    pub(crate) cidr: Ipv4Net,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct State {
    /// Docker's networks by id.
    pub(crate) networks: BTreeMap<String, Arc<DockerNetwork>>,
    /// Ports by id.
    pub(crate) ports: BTreeMap<String, Arc<PortRecord>>,
    /// What the tenants ask for.
    pub(crate) tenants: Arc<Tenants>,
    /// The tenants' VPCs that are here: those asked for, and those that still have ports.
    pub(crate) vpcs: BTreeMap<ObjectName, VpcRecord>,
    /// The tenants' subnets that are here, likewise.
    pub(crate) subnets: BTreeMap<ObjectName, SubnetRecord>,
    /// The services.
    pub(crate) services: Arc<Vec<ServicePort>>,
}

const NETWORKS: &str = "network-networks";
const PORTS: &str = "network-ports";
const STATE: &str = "network-state";

impl State {
    /// Loads the records.
    pub(crate) fn load(db: &dyn NodeDb) -> Result<Self, NetError> {
        Ok(Self {
            networks: load_table(db, NETWORKS)?,
            ports: load_table(db, PORTS)?,
            tenants: load_value(db, "tenants")?,
            vpcs: load_pairs(db, "vpcs")?,
            subnets: load_pairs(db, "subnets")?,
            services: load_value(db, "services")?,
        })
    }

    /// Records durably what differs from `old`.
    pub(crate) fn save(&self, old: &Self, db: &dyn NodeDb) -> Result<(), NetError> {
        let mut writes = Vec::new();
        save_table(NETWORKS, &self.networks, &old.networks, &mut writes);
        save_table(PORTS, &self.ports, &old.ports, &mut writes);
        let mut value = |key: &str, differs: bool, json: &dyn Fn() -> Vec<u8>| {
            if differs {
                writes.push((STATE, key.to_owned(), Some(json())));
            }
        };
        value("tenants", self.tenants != old.tenants, &|| json(&self.tenants));
        value("vpcs", self.vpcs != old.vpcs, &|| json(&self.vpcs.iter().collect::<Vec<_>>()));
        value("subnets", self.subnets != old.subnets, &|| json(&self.subnets.iter().collect::<Vec<_>>()));
        value("services", self.services != old.services, &|| json(&self.services));
        if writes.is_empty() {
            return Ok(());
        }
        let writes: Vec<_> =
            writes.iter().map(|(table, key, value)| (*table, key.as_str(), value.as_deref())).collect();
        Ok(db.write(&writes)?)
    }

    /// Returns the VPC that a tenant's subnet lies in, with its name.
    pub(crate) fn vpc_of(&self, subnet: &SubnetId) -> Option<(ObjectName, &VpcRecord)> {
        let SubnetId::Tenant { namespace, name } = subnet else { return None };
        let record = self.subnets.get(&(namespace.clone(), name.clone()))?;
        let key = (namespace.clone(), record.vpc.clone());
        let vpc = self.vpcs.get(&key)?;
        Some((key, vpc))
    }

    /// Lists the ports of a subnet.
    pub(crate) fn ports_of<'a>(&'a self, subnet: &'a SubnetId) -> impl Iterator<Item = &'a Arc<PortRecord>> {
        self.ports.values().filter(move |record| record.port.subnet == *subnet)
    }

    /// Lists the ports of a tenant's VPC.
    pub(crate) fn ports_in_vpc<'a>(
        &'a self,
        vpc: &'a ObjectName,
    ) -> impl Iterator<Item = &'a Arc<PortRecord>> {
        self.ports
            .values()
            .filter(move |record| self.vpc_of(&record.port.subnet).is_some_and(|(name, _)| name == *vpc))
    }

    /// Returns every name of a link that is in use.
    pub(crate) fn link_names(&self) -> BTreeSet<&str> {
        let ports = self.ports.values().map(|record| record.link.as_str());
        ports.chain(self.vpcs.values().map(|vpc| vpc.link.as_str())).collect()
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our records have string keys")
}

fn parse<T: DeserializeOwned>(table: &str, key: &str, bytes: &[u8]) -> Result<T, NetError> {
    serde_json::from_slice(bytes)
        .map_err(|error| NetError::Kernel(format!("network record {table}/{key}: {error}")))
}

fn load_table<T: DeserializeOwned>(
    db: &dyn NodeDb,
    table: &str,
) -> Result<BTreeMap<String, Arc<T>>, NetError> {
    let records = db.scan(table, "")?;
    records
        .into_iter()
        .map(|(key, bytes)| {
            let value = parse(table, &key, &bytes)?;
            Ok((key, Arc::new(value)))
        })
        .collect()
}

fn load_value<T: DeserializeOwned + Default>(db: &dyn NodeDb, key: &str) -> Result<T, NetError> {
    match db.get(STATE, key)? {
        Some(bytes) => parse(STATE, key, &bytes),
        None => Ok(T::default()),
    }
}

fn load_pairs<T: DeserializeOwned>(db: &dyn NodeDb, key: &str) -> Result<BTreeMap<ObjectName, T>, NetError> {
    let pairs: Vec<(ObjectName, T)> = load_value(db, key)?;
    Ok(pairs.into_iter().collect())
}

fn save_table<T: Serialize + PartialEq>(
    table: &'static str,
    new: &BTreeMap<String, Arc<T>>,
    old: &BTreeMap<String, Arc<T>>,
    writes: &mut Vec<(&'static str, String, Option<Vec<u8>>)>,
) {
    for (key, value) in new {
        let same = old.get(key).is_some_and(|old| Arc::ptr_eq(old, value) || old == value);
        if !same {
            writes.push((table, key.clone(), Some(json(value.as_ref()))));
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        writes.push((table, key.clone(), None));
    }
}
