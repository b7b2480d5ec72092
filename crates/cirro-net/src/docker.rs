//! Making and removing docker networks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cirro_sys::netlink::Netlink;
use ipnet::{Ipv4Net, Ipv6Net};

use crate::error::NetError;
use crate::ipam;
use crate::model::{CreateDockerNetwork, DockerNetwork, SubnetId};
use crate::names;
use crate::plan::Context;
use crate::random_id;
use crate::ranges::ForeignRanges;
use crate::state::State;
use crate::worker::Worker;

/// IPv6 ranges that are made up before giving up.
const MAX_RANGES6: u64 = 4096;

impl Worker {
    /// Makes a docker network.
    pub(crate) fn create_docker_network(
        &mut self,
        request: CreateDockerNetwork,
    ) -> Result<DockerNetwork, NetError> {
        if self.state.networks.values().any(|network| network.name == request.name) {
            return Err(NetError::Conflict(format!("network with name {} already exists", request.name)));
        }
        let has_own_range = request.subnet.is_some() || request.subnet6.is_some();
        let mut network = DockerNetwork {
            id: random_id()?,
            name: request.name,
            bridge: String::new(),
            subnet: Ipv4Net::default(),
            gateway: std::net::Ipv4Addr::UNSPECIFIED,
            ip_range: request.ip_range.map(|range| range.trunc()),
            subnet6: None,
            gateway6: None,
            ip_range6: request.ip_range6.map(|range| range.trunc()),
            auxiliary: request.auxiliary,
            has_own_range,
            internal: request.internal,
            attachable: request.attachable,
            created_at: jiff::Timestamp::now().to_string(),
            labels: request.labels,
            options: request.options,
        };
        network.check_options()?;
        let foreign = ForeignRanges::read(&self.context.prefix)?;
        network.subnet = choose_range(&self.context, &self.state, &foreign, request.subnet)?;
        let auxiliary: Vec<IpAddr> = network.auxiliary.values().copied().collect();
        network.gateway = match request.gateway {
            Some(gateway) => gateway,
            None => ipam::next_address(
                network.ip_range.unwrap_or(network.subnet),
                ipam::Order::Lowest,
                |address| auxiliary.contains(&address.into()),
            )
            .unwrap_or_else(|| ipam::first(network.subnet)),
        };
        if request.ipv6 || request.subnet6.is_some() {
            let subnet = choose_range6(&self.context, &self.state, request.subnet6)?;
            network.subnet6 = Some(subnet);
            network.gateway6 = Some(request.gateway6.unwrap_or_else(|| ipam::first6(subnet)));
        }
        check_addresses(&network)?;
        self.name_bridge(&mut network)?;
        let mut next = self.state.clone();
        next.networks.insert(network.id.clone(), Arc::new(network.clone()));
        self.commit(next)?;
        Ok(network)
    }

    /// Names the bridge as its user wants it, or draws ids until the name, which holds only a part, is nobody's.
    fn name_bridge(&self, network: &mut DockerNetwork) -> Result<(), NetError> {
        let taken = |bridge: &str| self.state.networks.values().any(|network| network.bridge == bridge);
        if let Some(bridge) = network.wanted_bridge().map(str::to_owned) {
            let there = Netlink::open().and_then(|mut netlink| netlink.link(&bridge));
            let there = there.map_err(|error| NetError::kernel("look for the bridge", error))?;
            if taken(&bridge) || there.is_some() {
                return Err(NetError::Forbidden(format!(
                    "cannot create network {} ({bridge}): bridge name already in use",
                    network.id
                )));
            }
            network.bridge = bridge;
            return Ok(());
        }
        loop {
            network.bridge = names::bridge(&self.context.prefix, &network.id);
            if !taken(&network.bridge) {
                return Ok(());
            }
            network.id = random_id()?;
        }
    }

    /// Removes a docker network.
    pub(crate) fn delete_docker_network(&mut self, id: &str) -> Result<(), NetError> {
        let network = self.state.networks.get(id).cloned();
        let network = network.ok_or_else(|| NetError::NotFound(format!("network {id} not found")))?;
        if network.name == "bridge" {
            return Err(NetError::Forbidden("bridge is a pre-defined network and cannot be removed".into()));
        }
        if self.state.ports_of(&SubnetId::Docker(id.into())).next().is_some() {
            let name = &network.name;
            return Err(NetError::Forbidden(format!(
                "error while removing network: network {name} has active endpoints"
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
        ip_range: None,
        subnet6: None,
        gateway6: None,
        ip_range6: None,
        auxiliary: BTreeMap::new(),
        has_own_range: false,
        internal: false,
        attachable: false,
        created_at: jiff::Timestamp::now().to_string(),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    };
    state.networks.insert(id, Arc::new(network));
    Ok(())
}

/// Refuses gateways, ranges and auxiliary addresses that are not of the network's ranges.
fn check_addresses(network: &DockerNetwork) -> Result<(), NetError> {
    let outside = |text: String| Err(NetError::Invalid(format!("invalid network config:\n{text}")));
    if !ipam::is_usable(network.subnet, network.gateway) {
        return outside(format!("invalid gateway {}: parent subnet is {}", network.gateway, network.subnet));
    }
    if let Some(range) = network.ip_range.filter(|range| !network.subnet.contains(range)) {
        return outside(format!("invalid ip-range {range}: parent subnet is {}", network.subnet));
    }
    if let Some((subnet, gateway)) = network.subnet6.zip(network.gateway6)
        && !subnet.contains(&gateway)
    {
        return outside(format!("invalid gateway {gateway}: parent subnet is {subnet}"));
    }
    if let Some(range) =
        network.ip_range6.filter(|range| !network.subnet6.is_some_and(|net| net.contains(range)))
    {
        return outside(format!("invalid ip-range {range}: no parent subnet"));
    }
    for (name, address) in &network.auxiliary {
        let inside = match address {
            IpAddr::V4(address) => network.subnet.contains(address),
            IpAddr::V6(address) => network.subnet6.is_some_and(|subnet| subnet.contains(address)),
        };
        if !inside {
            return outside(format!("invalid auxiliary address {name}: parent subnet is {}", network.subnet));
        }
        if *address == IpAddr::V4(network.gateway) || Some(*address) == network.gateway6.map(IpAddr::V6) {
            return Err(NetError::Forbidden(format!(
                "failed to allocate gateway ({address}): Address already in use"
            )));
        }
    }
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
            return Err(overlaps());
        }
        if let Some(holder) = foreign.holder(range) {
            return Err(NetError::Forbidden(format!(
                "invalid pool request: Pool overlaps with other one on this address space: {holder}"
            )));
        }
        return Ok(range);
    }
    let range = ipam::next_range(&options.docker_subnets, |range| own(range) || !foreign.is_free(range));
    range.ok_or_else(|| NetError::Exhausted("all predefined address pools have been fully subnetted".into()))
}

fn overlaps() -> NetError {
    NetError::Forbidden("invalid pool request: Pool overlaps with other one on this address space".into())
}

/// Returns the wanted IPv6 range, or a /64 of this cloud's own unique local range (RFC 4193).
fn choose_range6(context: &Context, state: &State, wanted: Option<Ipv6Net>) -> Result<Ipv6Net, NetError> {
    let taken = |range: Ipv6Net| {
        state
            .networks
            .values()
            .filter_map(|network| network.subnet6)
            .any(|other| ipam::overlap6(other, range))
    };
    if let Some(range) = wanted.map(|range| range.trunc()) {
        if range.prefix_len() > 126 {
            return Err(NetError::Invalid(format!("subnet {range} has no room for workloads")));
        }
        return if taken(range) { Err(overlaps()) } else { Ok(range) };
    }
    let seed = names::hash(&format!("{} {}", context.options.name, context.options.run_dir.display()));
    let global = u128::from(seed & 0xff_ffff_ffff);
    let range = |number: u64| {
        let bits = (0xfd_u128 << 120) | (global << 80) | (u128::from(number) << 64);
        Ipv6Net::new(bits.into(), 64).expect("64 is a prefix")
    };
    (0..MAX_RANGES6)
        .map(range)
        .find(|range| !taken(*range))
        .ok_or_else(|| NetError::Exhausted("all predefined address pools have been fully subnetted".into()))
}
