//! Making and removing ports and docker networks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cirro_sys::netlink::Netlink;
use ipnet::Ipv4Net;

use crate::apply::open_namespace;
use crate::error::NetError;
use crate::ipam::{self, Order};
use crate::model::{CreateDockerNetwork, CreatePort, DockerNetwork, Port, PortTarget, SubnetId};
use crate::names;
use crate::plan::{Context, VPC_MTU, mac_of};
use crate::ranges::ForeignRanges;
use crate::state::{PortRecord, State};
use crate::tenants;
use crate::worker::Worker;

/// Ports per host: what the links' names and one /16 hold with room to spare.
const MAX_PORTS: usize = 16_384;

/// What a port takes from its subnet.
struct Place {
    range: Ipv4Net,
    /// The address that answers as the subnet's gateway; nobody else's.
    reserved: Ipv4Addr,
    gateway: Option<Ipv4Addr>,
    dns: Option<Ipv4Addr>,
    dns_search: Vec<String>,
    letter: char,
    lowest: bool,
    shown: String,
}

impl Worker {
    /// Makes a port, or makes sure of one.
    pub(crate) fn create_port(&mut self, request: CreatePort) -> Result<Port, NetError> {
        if let Some(record) = self.state.ports.get(&request.id).cloned() {
            return self.renew_port(&record, request);
        }
        if request.id.is_empty() || request.id.len() > 256 {
            return Err(NetError::Invalid(format!("invalid port id {:?}", request.id)));
        }
        if self.state.ports.len() >= MAX_PORTS {
            return Err(NetError::Exhausted(format!("this host has {MAX_PORTS} ports")));
        }
        let place = find_place(&self.context, &self.state, &request.subnet)?;
        let tenant = matches!(request.subnet, SubnetId::Tenant { .. });
        if request.target == PortTarget::Tap && !tenant {
            return Err(NetError::Invalid("a machine's port must be on a tenant's subnet".into()));
        }
        let address = choose_address(&self.state, &request, &place)?;
        let namespace_inode = target_inode(&request.target)?;
        let shown = request.names.first().unwrap_or(&request.id);
        let endpoint = format!("{shown} ({})", request.id);
        let publish = self.host_ports.take(&request.publish, &endpoint, &self.state.services)?;
        let used = self.state.link_names();
        let link = names::link(&self.context.prefix, place.letter, &request.id, |link| used.contains(link));
        let port = Port {
            id: request.id.clone(),
            subnet: request.subnet,
            address,
            prefix: place.range.prefix_len(),
            gateway: place.gateway,
            mac: mac_of(address),
            dns: place.dns,
            dns_search: place.dns_search,
            publish: publish.clone(),
        };
        let record = PortRecord {
            port: port.clone(),
            link,
            target: request.target,
            namespace_inode,
            names: request.names,
            groups: request.groups,
        };
        let mut next = self.state.clone();
        next.ports.insert(request.id, Arc::new(record));
        self.commit(next).inspect_err(|_| self.host_ports.release(&publish))?;
        Ok(port)
    }

    /// The same request again: the link may have gone with its namespace, which may be another one now.
    fn renew_port(&mut self, record: &Arc<PortRecord>, request: CreatePort) -> Result<Port, NetError> {
        if record.port.subnet != request.subnet {
            return Err(NetError::Conflict(format!("port {} is on another subnet", request.id)));
        }
        let namespace_inode = target_inode(&request.target)?;
        if namespace_inode != record.namespace_inode || !self.link_exists(record)? {
            self.forget_link(&record.link);
            // An old namespace on its way out may still hold the other end.
            self.delete_stale_link(record)?;
        }
        let renewed = PortRecord {
            target: request.target,
            namespace_inode,
            names: request.names,
            groups: request.groups,
            ..record.as_ref().clone()
        };
        let port = renewed.port.clone();
        let mut next = self.state.clone();
        next.ports.insert(request.id, Arc::new(renewed));
        self.commit(next)?;
        Ok(port)
    }

    fn link_exists(&self, record: &PortRecord) -> Result<bool, NetError> {
        self.on_link(record, |netlink, link| netlink.link(link).map(|link| link.is_some()))
    }

    fn delete_stale_link(&self, record: &PortRecord) -> Result<(), NetError> {
        self.on_link(record, |netlink, link| Ok(crate::apply::delete_link(netlink, link)))?
    }

    /// Runs `work` in the namespace where our end of the port is.
    fn on_link<T: Send>(
        &self,
        record: &PortRecord,
        work: impl FnOnce(&mut Netlink, &str) -> std::io::Result<T> + Send,
    ) -> Result<T, NetError> {
        let failed = |error| NetError::kernel(format!("look for link {}", record.link), error);
        let work = || Netlink::open().and_then(|mut netlink| work(&mut netlink, &record.link));
        match self.state.vpc_of(&record.port.subnet) {
            None => work().map_err(failed),
            Some((_, vpc)) => {
                let netns = open_namespace(&self.context.netns_dir().join(&vpc.file))?;
                netns.run(work).and_then(|result| result).map_err(failed)
            }
        }
    }

    /// Removes a port.
    pub(crate) fn delete_port(&mut self, id: &str) -> Result<(), NetError> {
        let Some(record) = self.state.ports.get(id).cloned() else { return Ok(()) };
        let mut next = self.state.clone();
        next.ports.remove(id);
        if matches!(record.port.subnet, SubnetId::Tenant { .. }) {
            tenants::settle(&self.context, &mut next, &ForeignRanges::read(&self.context.prefix)?);
        }
        self.commit(next)?;
        self.host_ports.release(&record.port.publish);
        self.broken.remove(&record.link);
        Ok(())
    }

    /// Opens a machine's end of a tap.
    pub(crate) fn open_tap(&mut self, id: &str) -> Result<(OwnedFd, u32), NetError> {
        let record = self.state.ports.get(id).filter(|record| record.target == PortTarget::Tap).cloned();
        let record = record.ok_or_else(|| NetError::NotFound(format!("no tap port {id}")))?;
        if !self.link_exists(&record)? {
            self.forget_link(&record.link);
            self.commit(self.state.clone())?;
        }
        let (_, vpc) = self.state.vpc_of(&record.port.subnet).expect("taps are on tenants' subnets");
        let netns = open_namespace(&self.context.netns_dir().join(&vpc.file))?;
        let opened = netns.run(|| cirro_sys::tap::open(&record.link, true)).and_then(|result| result);
        match opened {
            Ok(tap) => Ok((tap, VPC_MTU)),
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                Err(NetError::Conflict(format!("the tap of {id} is open in another process")))
            }
            Err(error) => Err(NetError::kernel(format!("open the tap of {id}"), error)),
        }
    }

    /// Makes a docker network.
    pub(crate) fn create_docker_network(
        &mut self,
        request: CreateDockerNetwork,
    ) -> Result<DockerNetwork, NetError> {
        if self.state.networks.values().any(|network| network.name == request.name) {
            return Err(NetError::Conflict(format!("network with name {} already exists", request.name)));
        }
        if let Some(option) = request.options.keys().next() {
            return Err(NetError::Invalid(format!("driver option {option} is not supported")));
        }
        let foreign = ForeignRanges::read(&self.context.prefix)?;
        let subnet = choose_range(&self.context, &self.state, &foreign, request.subnet)?;
        let gateway = request.gateway.unwrap_or_else(|| ipam::first(subnet));
        if !ipam::is_usable(subnet, gateway) {
            return Err(NetError::Invalid(format!("no matching subnet for gateway {gateway}")));
        }
        let (id, bridge) = self.fresh_bridge()?;
        let network = DockerNetwork {
            id: id.clone(),
            name: request.name,
            bridge,
            subnet,
            gateway,
            internal: request.internal,
            created_at: jiff::Timestamp::now().to_string(),
            labels: request.labels,
            options: request.options,
        };
        let mut next = self.state.clone();
        next.networks.insert(id, Arc::new(network.clone()));
        self.commit(next)?;
        Ok(network)
    }

    /// Draws ids until the bridge's name, which holds only a part of it, is nobody's.
    fn fresh_bridge(&self) -> Result<(String, String), NetError> {
        loop {
            let id = random_id()?;
            let bridge = names::bridge(&self.context.prefix, &id);
            if self.state.networks.values().all(|network| network.bridge != bridge) {
                return Ok((id, bridge));
            }
        }
    }

    /// Removes a docker network.
    pub(crate) fn delete_docker_network(&mut self, id: &str) -> Result<(), NetError> {
        let network = self.state.networks.get(id).cloned();
        let network = network.ok_or_else(|| NetError::NotFound(format!("network {id} not found")))?;
        if network.name == "bridge" {
            return Err(NetError::Invalid("bridge is a pre-defined network and cannot be removed".into()));
        }
        if self.state.ports_of(&SubnetId::Docker(id.into())).next().is_some() {
            let name = &network.name;
            return Err(NetError::Conflict(format!(
                "error while removing network: network {name} id {id} has active endpoints"
            )));
        }
        let mut next = self.state.clone();
        next.networks.remove(id);
        self.commit(next)
    }
}

/// Makes the record of docker's default network when there is none.
pub(crate) fn ensure_default_network(
    context: &Context,
    state: &mut State,
    foreign: &ForeignRanges,
) -> Result<(), NetError> {
    if state.networks.values().any(|network| network.name == "bridge") {
        return Ok(());
    }
    let subnet = choose_range(context, state, foreign, None)?;
    let id = random_id()?;
    let network = DockerNetwork {
        id: id.clone(),
        name: "bridge".into(),
        bridge: names::default_bridge(&context.prefix),
        subnet,
        gateway: ipam::first(subnet),
        internal: false,
        created_at: jiff::Timestamp::now().to_string(),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    };
    state.networks.insert(id, Arc::new(network));
    Ok(())
}

fn choose_range(
    context: &Context,
    state: &State,
    foreign: &ForeignRanges,
    wanted: Option<Ipv4Net>,
) -> Result<Ipv4Net, NetError> {
    let options = &context.options;
    let own = |range: Ipv4Net| {
        let networks = state.networks.values().map(|network| network.subnet);
        networks
            .chain([options.pod_cidr, options.service_cidr, options.transit_cidr])
            .any(|other| ipam::overlap(other.trunc(), range))
    };
    if let Some(range) = wanted.map(|range| range.trunc()) {
        if ipam::usable(range).is_none() {
            return Err(NetError::Invalid(format!("subnet {range} has no room for workloads")));
        }
        if own(range) {
            return Err(NetError::Conflict("Pool overlaps with other one on this address space".into()));
        }
        if let Some(holder) = foreign.holder(range) {
            return Err(NetError::Conflict(format!("subnet {range} is taken by {holder}")));
        }
        return Ok(range);
    }
    let range = ipam::next_range(&options.docker_subnets, |range| own(range) || !foreign.is_free(range));
    range.ok_or_else(|| {
        NetError::Exhausted("all predefined address pools have been fully subnetted or are taken".into())
    })
}

fn find_place(context: &Context, state: &State, subnet: &SubnetId) -> Result<Place, NetError> {
    let not_found = |text: String| NetError::NotFound(text);
    match subnet {
        SubnetId::Docker(id) => {
            let network =
                state.networks.get(id).ok_or_else(|| not_found(format!("network {id} not found")))?;
            Ok(Place {
                range: network.subnet,
                reserved: network.gateway,
                gateway: (!network.internal).then_some(network.gateway),
                dns: (network.name != "bridge").then_some(network.gateway),
                dns_search: Vec::new(),
                letter: 'v',
                lowest: true,
                shown: format!("{} ({id})", network.name),
            })
        }
        SubnetId::Pods => Ok(Place {
            range: context.options.pod_cidr.trunc(),
            reserved: context.pod_gateway(),
            gateway: Some(context.pod_gateway()),
            dns: Some(context.options.dns_address),
            dns_search: Vec::new(),
            letter: 'p',
            lowest: false,
            shown: "pods".into(),
        }),
        SubnetId::Tenant { namespace, name } => {
            let record = state.subnets.get(&(namespace.clone(), name.clone()));
            let record = record.ok_or_else(|| not_found(format!("subnet {namespace}/{name} not found")))?;
            let gateway = ipam::first(record.cidr);
            Ok(Place {
                range: record.cidr,
                reserved: gateway,
                gateway: Some(gateway),
                dns: Some(gateway),
                dns_search: vec![format!("{name}.{}.internal", record.vpc)],
                letter: 'v',
                lowest: false,
                shown: format!("{namespace}/{name}"),
            })
        }
    }
}

fn choose_address(state: &State, request: &CreatePort, place: &Place) -> Result<Ipv4Addr, NetError> {
    let taken: std::collections::HashSet<Ipv4Addr> =
        state.ports_of(&request.subnet).map(|record| record.port.address).collect();
    let taken = |address: Ipv4Addr| address == place.reserved || taken.contains(&address);
    let shown = &place.shown;
    if let Some(address) = request.address {
        if !ipam::is_usable(place.range, address) {
            return Err(NetError::Invalid(format!(
                "invalid address {address}: it does not belong to {shown}"
            )));
        }
        if taken(address) {
            return Err(NetError::Conflict(format!("Address already in use: {address} on {shown}")));
        }
        return Ok(address);
    }
    let order = if place.lowest { Order::Lowest } else { Order::After(newest(state, &request.subnet)) };
    ipam::next_address(place.range, order, taken).ok_or_else(|| {
        NetError::Exhausted(format!("no available IPv4 addresses on this network's address pools: {shown}"))
    })
}

/// Returns the highest address in use: the next one after it has rested longest, until the range is through.
fn newest(state: &State, subnet: &SubnetId) -> Ipv4Addr {
    let addresses = state.ports_of(subnet).map(|record| record.port.address);
    addresses.max().unwrap_or(Ipv4Addr::UNSPECIFIED)
}

fn target_inode(target: &PortTarget) -> Result<u64, NetError> {
    match target {
        PortTarget::Tap => Ok(0),
        PortTarget::Namespace { path, interface } => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if interface.is_empty() || interface.len() > 15 || !interface.chars().all(plain) {
                return Err(NetError::Invalid(format!("invalid interface name {interface:?}")));
            }
            let netns = open_namespace(path)?;
            netns.inode().map_err(|error| NetError::kernel("read namespace", error))
        }
    }
}

/// Returns 64 random hexadecimal digits, as docker's ids are.
fn random_id() -> Result<String, NetError> {
    let mut bytes = [0_u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| NetError::kernel("read /dev/urandom", error))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
