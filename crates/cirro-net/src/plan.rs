//! Turns the records into what each network namespace is to hold: a pure function.
//!
//! ```text
//! records ─▶ plan ─▶ links, addresses, routes, sysctls and one nftables table per namespace ─▶ apply
//! ```
//!
//! The host's own namespace holds docker's bridges, the pods' routed ports and one way out (`transit`) per
//! tenant's VPC; each VPC is a namespace of its own. A plan prints as text, which tests compare.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use cirro_types::MacAddress;
use ipnet::{Ipv4Net, Ipv6Net};

use crate::model::NetworkOptions;
use crate::names;
use crate::nft::Table;
use crate::state::{ObjectName, State};

pub(crate) mod host;
mod neighbours;
pub(crate) mod places;
pub(crate) mod services;
pub(crate) mod vpc;

/// Our end of every routed port: workloads see one and the same gateway. "cirro" in letters, locally administered.
pub(crate) const GATEWAY_MAC: MacAddress = MacAddress([0x02, 0x63, 0x69, 0x72, 0x72, 0x6f]);

/// MTU of docker's bridges and of pods on one host.
pub(crate) const HOST_MTU: u32 = 1500;

/// MTU of tenants' ports: leaves room for VXLAN, so that it need not change when a VPC spans hosts.
pub(crate) const VPC_MTU: u32 = 1450;

/// The default route's destination.
pub(crate) const EVERYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

/// What a network namespace is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NetnsPlan {
    /// Paths below `/proc/sys/net` with their values.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// Links by name.
    pub(crate) links: BTreeMap<String, LinkPlan>,
    /// Routes by destination.
    pub(crate) routes: BTreeMap<Ipv4Net, RoutePlan>,
    /// Tables by family.
    pub(crate) tables: BTreeMap<&'static str, Table>,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkPlan {
    /// What it is.
    pub(crate) kind: LinkKind,
    /// Its Ethernet address.
    pub(crate) mac: MacAddress,
    /// Its MTU.
    pub(crate) mtu: u32,
    /// The bridge that it is a port of.
    pub(crate) master: Option<String>,
    /// Whether that bridge may send frames back by it.
    pub(crate) hairpin: bool,
    /// Whether other ports of that bridge are out of its reach.
    pub(crate) isolated: bool,
    /// Its addresses.
    pub(crate) addresses: BTreeSet<Ipv4Net>,
    /// Its IPv6 addresses.
    pub(crate) addresses6: BTreeSet<Ipv6Net>,
    /// Its own sysctls: `ipv4/conf/*/forwarding`, with its name for the star.
    pub(crate) sysctls: BTreeMap<&'static str, &'static str>,
    /// Neighbours that are known and never asked for.
    pub(crate) neighbours: BTreeMap<Ipv4Addr, MacAddress>,
}

/// Kinds of links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// `lo`: only addresses are ours.
    Loopback,
    /// A bridge.
    Bridge,
    /// A machine's.
    Tap,
    /// A pair; the other end is not known when the link was found in the kernel.
    Veth(Option<Box<PeerPlan>>),
}

/// The other end of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerPlan {
    /// File of the namespace that it is in.
    pub(crate) namespace: PathBuf,
    /// Inode of that namespace.
    pub(crate) inode: u64,
    /// Its name there.
    pub(crate) name: String,
    /// Its Ethernet address.
    pub(crate) mac: MacAddress,
    /// Its address.
    pub(crate) address: Ipv4Net,
    /// The next hop of its routes, if it has any.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// The gateway's Ethernet address, where it is known.
    pub(crate) gateway_mac: Option<MacAddress>,
    /// What is routed to the gateway.
    pub(crate) routes: BTreeSet<Ipv4Net>,
    /// Its IPv6 address; without one it has no IPv6.
    pub(crate) address6: Option<Ipv6Net>,
    /// The next hop of its IPv6 default route, if that is here.
    pub(crate) gateway6: Option<Ipv6Addr>,
    /// Where the namespace's questions to docker's name server go, if they go by this port.
    pub(crate) resolver: Option<Ipv4Addr>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RoutePlan {
    /// Out of a link; with the source address of what this namespace itself sends.
    Link(String, Option<Ipv4Addr>),
    /// Nowhere.
    Unreachable,
}

/// What a host is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// The host's namespace.
    pub(crate) host: NetnsPlan,
    /// The VPCs' namespaces by name of file.
    pub(crate) vpcs: BTreeMap<String, NetnsPlan>,
}

/// Names and paths that a plan is made with.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The cloud's options.
    pub(crate) options: NetworkOptions,
    /// The prefix of its names.
    pub(crate) prefix: String,
    /// Inodes of the VPCs' namespaces by file; 0 when not made yet.
    pub(crate) vpc_inodes: BTreeMap<String, u64>,
    /// Whether the kernel's packet filter sees what passes bridges.
    pub(crate) filters_bridges: bool,
}

impl Context {
    /// Makes a context without any VPC.
    pub(crate) fn new(options: NetworkOptions) -> Self {
        let prefix = names::prefix(&options.name);
        Self { options, prefix, vpc_inodes: BTreeMap::new(), filters_bridges: true }
    }

    /// Returns the directory of pinned namespaces.
    pub(crate) fn netns_dir(&self) -> PathBuf {
        self.options.run_dir.join("netns")
    }

    /// Returns the pods' gateway, an address of the host.
    pub(crate) fn pod_gateway(&self) -> Ipv4Addr {
        crate::ipam::first(self.options.pod_cidr)
    }
}

/// Plans the whole host. `services` is what [`services::plan`] made of the state's services.
pub(crate) fn plan(context: &Context, state: &State, services: &services::ServiceMaps) -> Plan {
    let vpcs = state.vpcs.iter();
    let places = places::Places::of(state);
    Plan {
        host: host::plan(context, state, &places, services),
        vpcs: vpcs
            .map(|(name, record)| (record.file.clone(), vpc::plan(context, state, &places, name, record)))
            .collect(),
    }
}

impl PeerPlan {
    /// Makes the other end without routes.
    pub(crate) fn new(namespace: PathBuf, inode: u64, name: &str, mac: MacAddress, address: Ipv4Net) -> Self {
        Self {
            namespace,
            inode,
            name: name.into(),
            mac,
            address,
            gateway: None,
            gateway_mac: None,
            routes: BTreeSet::new(),
            address6: None,
            gateway6: None,
            resolver: None,
        }
    }

    /// Tells whether only what can be changed in place differs.
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        let bare = |peer: &Self| Self {
            gateway: None,
            routes: BTreeSet::new(),
            gateway6: None,
            resolver: None,
            ..peer.clone()
        };
        bare(self) == bare(other)
    }
}

/// Derives a port's Ethernet address from its address, as docker does.
pub(crate) fn mac_of(address: Ipv4Addr) -> MacAddress {
    let [a, b, c, d] = address.octets();
    MacAddress([0x02, 0x42, a, b, c, d])
}

impl LinkPlan {
    /// Makes a link without addresses.
    pub(crate) fn new(kind: LinkKind, mac: MacAddress, mtu: u32) -> Self {
        Self {
            kind,
            mac,
            mtu,
            master: None,
            hairpin: false,
            isolated: false,
            addresses: BTreeSet::new(),
            addresses6: BTreeSet::new(),
            sysctls: BTreeMap::new(),
            neighbours: BTreeMap::new(),
        }
    }
}

/// Names of VPCs are pairs; for messages.
pub(crate) fn display_name(name: &ObjectName) -> String {
    format!("{}/{}", name.0, name.1)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "namespace host\n{}", self.host)?;
        for (name, netns) in &self.vpcs {
            write!(f, "namespace {name}\n{netns}")?;
        }
        Ok(())
    }
}

impl fmt::Display for NetnsPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, value) in &self.sysctls {
            writeln!(f, "sysctl {path} = {value}")?;
        }
        for (name, link) in &self.links {
            write!(f, "link {name}{link}")?;
        }
        for (destination, route) in &self.routes {
            match route {
                RoutePlan::Link(link, source) => {
                    let source = source.map(|source| format!(" from {source}")).unwrap_or_default();
                    writeln!(f, "route {destination} on {link}{source}")?;
                }
                RoutePlan::Unreachable => writeln!(f, "route {destination} unreachable")?,
            }
        }
        self.tables.values().try_for_each(|table| f.write_str(&table.replace()))
    }
}

impl fmt::Display for LinkPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            LinkKind::Loopback => "loopback",
            LinkKind::Bridge => "bridge",
            LinkKind::Tap => "tap",
            LinkKind::Veth(_) => "veth",
        };
        write!(f, " {kind} mac {} mtu {}", self.mac, self.mtu)?;
        if let Some(master) = &self.master {
            write!(f, " port of {master}{}", if self.hairpin { " hairpin" } else { "" })?;
            f.write_str(if self.isolated { " isolated" } else { "" })?;
        }
        writeln!(f)?;
        for address in &self.addresses {
            writeln!(f, "  address {address}")?;
        }
        for address in &self.addresses6 {
            writeln!(f, "  address {address}")?;
        }
        for (key, value) in &self.sysctls {
            writeln!(f, "  sysctl {key} = {value}")?;
        }
        for (address, mac) in &self.neighbours {
            writeln!(f, "  neighbour {address} at {mac}")?;
        }
        if let LinkKind::Veth(Some(peer)) = &self.kind {
            writeln!(
                f,
                "  peer {} in {} mac {} address {}",
                peer.name,
                peer.namespace.display(),
                peer.mac,
                peer.address
            )?;
            if let Some(gateway) = peer.gateway {
                let mac = peer.gateway_mac.map(|mac| format!(" at {mac}")).unwrap_or_default();
                let routes: Vec<_> = peer.routes.iter().map(ToString::to_string).collect();
                writeln!(f, "  peer gateway {gateway}{mac} for {}", routes.join(", "))?;
            }
            if let Some(address) = peer.address6 {
                let gateway = peer.gateway6.map(|gateway| format!(" gateway {gateway}")).unwrap_or_default();
                writeln!(f, "  peer address {address}{gateway}")?;
            }
            if let Some(resolver) = peer.resolver {
                writeln!(f, "  peer asks {resolver} for names")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
