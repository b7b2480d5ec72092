//! The three nouns and what is asked about them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use cirro_seams::network::PortPublish;
use cirro_types::kinds::SecurityGroupSpec;
use cirro_types::{Digest, MacAddress};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Ranges and names of one cloud's network.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// Cloud name: prefixes links, namespaces, bridges and nftables tables. At most 8 characters are used in link names.
    pub name: String,
    /// Namespace files live in `<run-dir>/netns`.
    pub run_dir: PathBuf,
    /// Pool that docker networks take /16 subnets from; the first free one is used.
    pub docker_subnets: Vec<Ipv4Net>,
    /// This node's pod range.
    pub pod_cidr: Ipv4Net,
    /// Range of service addresses.
    pub service_cidr: Ipv4Net,
    /// Address of the cluster's DNS in the service range.
    pub dns_address: Ipv4Addr,
    /// Pool that the transit /31s between tenants' VPCs and the host come from (`100.64.0.0/16`).
    pub transit_cidr: Ipv4Net,
}

/// Names a subnet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SubnetId {
    /// A docker network, by id.
    Docker(String),
    /// The node's pod range in the built-in VPC `cluster`.
    Pods,
    /// A tenant's subnet.
    Tenant {
        /// Namespace of the object.
        namespace: String,
        /// Name of the object.
        name: String,
    },
}

/// A docker network (a subnet of the built-in VPC `engine` with a Linux bridge behind it).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerNetwork {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name; `bridge` is the default one.
    pub name: String,
    /// Name of its Linux bridge.
    pub bridge: String,
    /// Its range.
    pub subnet: Ipv4Net,
    /// Its gateway, the bridge's address.
    pub gateway: Ipv4Addr,
    /// The part of the range that addresses are handed out of; all of it when absent.
    #[serde(default)]
    pub ip_range: Option<Ipv4Net>,
    /// Its IPv6 range, if it has one.
    #[serde(default)]
    pub subnet6: Option<Ipv6Net>,
    /// Its IPv6 gateway, if it has a range.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// The part of the IPv6 range that addresses are handed out of.
    #[serde(default)]
    pub ip_range6: Option<Ipv6Net>,
    /// Addresses that are somebody else's, by name.
    #[serde(default)]
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Whether the user chose the range.
    #[serde(default)]
    pub has_own_range: bool,
    /// Whether nothing is routed out of it.
    pub internal: bool,
    /// Kept for clients; it concerns swarm services alone.
    #[serde(default)]
    pub attachable: bool,
    /// RFC 3339.
    pub created_at: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
}

/// A docker network to make.
#[derive(Debug, Clone, Default)]
pub struct CreateDockerNetwork {
    /// Its name.
    pub name: String,
    /// A range of the caller's; from the pool when absent.
    pub subnet: Option<Ipv4Net>,
    /// A gateway of the caller's; the first address when absent.
    pub gateway: Option<Ipv4Addr>,
    /// The part of the range that addresses are handed out of.
    pub ip_range: Option<Ipv4Net>,
    /// Whether it has IPv6.
    pub ipv6: bool,
    /// An IPv6 range of the caller's; a made-up unique local one when absent.
    pub subnet6: Option<Ipv6Net>,
    /// An IPv6 gateway of the caller's; the first address when absent.
    pub gateway6: Option<Ipv6Addr>,
    /// The part of the IPv6 range that addresses are handed out of.
    pub ip_range6: Option<Ipv6Net>,
    /// Addresses that are somebody else's, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Whether nothing is routed out of it.
    pub internal: bool,
    /// Kept for clients.
    pub attachable: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
}

/// Where the workload's end of a port goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortTarget {
    /// A network namespace file, as `eth0` (or the name given): address, routes and `lo` are set up there.
    Namespace {
        /// The file.
        path: PathBuf,
        /// Name of the link inside.
        interface: String,
    },
    /// A tap for a machine, see [`Network::open_tap`](crate::Network::open_tap); it gets its address by our DHCP.
    Tap,
}

/// A port to make.
#[derive(Debug, Clone)]
pub struct CreatePort {
    /// Unique id: a container's, pod's or instance's.
    pub id: String,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its workload's end.
    pub target: PortTarget,
    /// A fixed address.
    pub address: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// A fixed Ethernet address; made from the address when absent.
    pub mac: Option<MacAddress>,
    /// Of several ports of a namespace, the one with the highest has the default route and the published ports.
    pub gateway_priority: i32,
    /// Names that only this port sees, for names of its neighbours.
    pub links: BTreeMap<String, String>,
    /// Name servers for what is not ours; the host's when empty.
    pub resolvers: Vec<IpAddr>,
    /// Names under which neighbours on the subnet find it (short names; the FQDN of tenants' subnets is added).
    pub names: Vec<String>,
    /// Tenants: names of security groups in the subnet's namespace. None: nothing is let in but replies... and
    /// what comes from the port's own subnet is refused too.
    pub groups: Vec<String>,
    /// Ports published on the host. They lead to the namespace's port with the default route.
    pub publish: Vec<PortPublish>,
}

impl Port {
    /// Returns its id as docker's endpoints have them: as long, and another one for each place of a container.
    pub fn endpoint_id(id: &str) -> String {
        Digest::of(id.as_bytes()).hex()
    }
}

impl CreatePort {
    /// Asks for a port with nothing special.
    pub fn new(id: impl Into<String>, subnet: SubnetId, target: PortTarget) -> Self {
        Self {
            id: id.into(),
            subnet,
            target,
            address: None,
            address6: None,
            mac: None,
            gateway_priority: 0,
            links: BTreeMap::new(),
            resolvers: Vec::new(),
            names: Vec::new(),
            groups: Vec::new(),
            publish: Vec::new(),
        }
    }
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its id.
    pub id: String,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its address.
    pub address: Ipv4Addr,
    /// Prefix length of its subnet.
    pub prefix: u8,
    /// Its gateway, if its subnet has one.
    pub gateway: Option<Ipv4Addr>,
    /// Its IPv6 address with the prefix length of its subnet.
    #[serde(default)]
    pub address6: Option<(Ipv6Addr, u8)>,
    /// Its IPv6 gateway, if its subnet has one.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Name of its link in the workload's namespace; empty for a machine's.
    #[serde(default)]
    pub interface: String,
    /// Name server to write to its resolv.conf; `None`: take the host's (docker's default bridge).
    pub dns: Option<Ipv4Addr>,
    /// Search domains for its resolv.conf.
    pub dns_search: Vec<String>,
    /// Published ports as bound, ephemeral ones filled in.
    pub publish: Vec<PortPublish>,
}

/// The tenants' networks: ((namespace, name), spec).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenants {
    /// VPCs.
    pub vpcs: Vec<((String, String), Ipv4Net)>,
    /// Subnets: VPC name and range.
    pub subnets: Vec<((String, String), (String, Ipv4Net))>,
    /// Security groups.
    pub groups: Vec<((String, String), SecurityGroupSpec)>,
}
