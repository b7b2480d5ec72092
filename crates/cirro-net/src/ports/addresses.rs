//! Which address a port gets, and what else its subnet gives it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::error::NetError;
use crate::ipam::{self, Order};
use crate::model::{CreatePort, SubnetId};
use crate::plan::Context;
use crate::state::State;

/// What a port takes from its subnet.
pub(super) struct Place {
    pub(super) range: Ipv4Net,
    /// The part of the range that addresses nobody chose come from.
    pool: Ipv4Net,
    /// Addresses that are nobody's: the gateway's, and those that the user keeps.
    reserved: Vec<IpAddr>,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) range6: Option<Ipv6Net>,
    pool6: Option<Ipv6Net>,
    pub(super) gateway6: Option<Ipv6Addr>,
    pub(super) dns: Option<Ipv4Addr>,
    pub(super) dns_search: Vec<String>,
    pub(super) letter: char,
    lowest: bool,
    shown: String,
    /// Where ports are published that name no address.
    pub(super) binding_address: Option<IpAddr>,
}

impl Place {
    fn new(range: Ipv4Net, gateway: Ipv4Addr, shown: String) -> Self {
        Self {
            range,
            pool: range,
            reserved: vec![gateway.into()],
            gateway: Some(gateway),
            range6: None,
            pool6: None,
            gateway6: None,
            dns: None,
            dns_search: Vec::new(),
            letter: 'v',
            lowest: false,
            shown,
            binding_address: None,
        }
    }
}

/// Finds out what a subnet gives its ports.
pub(super) fn find_place(context: &Context, state: &State, subnet: &SubnetId) -> Result<Place, NetError> {
    match subnet {
        SubnetId::Docker(id) => {
            let network = state.networks.get(id);
            let network = network.ok_or_else(|| NetError::NotFound(format!("network {id} not found")))?;
            let mut place = Place::new(network.subnet, network.gateway, format!("{} ({id})", network.name));
            place.reserved.extend(network.gateway6.map(IpAddr::V6));
            place.reserved.extend(network.auxiliary.values());
            Ok(Place {
                pool: network.ip_range.unwrap_or(network.subnet),
                gateway: (!network.internal).then_some(network.gateway),
                range6: network.subnet6,
                pool6: network.ip_range6.or(network.subnet6),
                gateway6: network.gateway6.filter(|_| !network.internal),
                dns: (network.name != "bridge").then_some(network.gateway),
                lowest: true,
                binding_address: network.binding_address(),
                ..place
            })
        }
        SubnetId::Pods => Ok(Place {
            dns: Some(context.options.dns_address),
            letter: 'p',
            ..Place::new(context.options.pod_cidr.trunc(), context.pod_gateway(), "pods".into())
        }),
        SubnetId::Tenant { namespace, name } => {
            let record = state.subnets.get(&(namespace.clone(), name.clone()));
            let record =
                record.ok_or_else(|| NetError::NotFound(format!("subnet {namespace}/{name} not found")))?;
            let gateway = ipam::first(record.cidr);
            Ok(Place {
                dns: Some(gateway),
                dns_search: vec![format!("{name}.{}.internal", record.vpc)],
                ..Place::new(record.cidr, gateway, format!("{namespace}/{name}"))
            })
        }
    }
}

/// Chooses a port's IPv4 address.
pub(super) fn choose_address(
    state: &State,
    request: &CreatePort,
    place: &Place,
) -> Result<Ipv4Addr, NetError> {
    let used: HashSet<Ipv4Addr> = state.ports_of(&request.subnet).map(|record| record.port.address).collect();
    let taken = |address: Ipv4Addr| place.reserved.contains(&address.into()) || used.contains(&address);
    let shown = &place.shown;
    if let Some(address) = request.address {
        if !ipam::is_usable(place.range, address) {
            return Err(NetError::Invalid(format!(
                "invalid address {address}: it does not belong to {shown}"
            )));
        }
        return if taken(address) { Err(in_use()) } else { Ok(address) };
    }
    let order = if place.lowest {
        Order::Lowest
    } else {
        // The one after the highest in use has rested longest, until the range is through.
        Order::After(used.iter().max().copied().unwrap_or(Ipv4Addr::UNSPECIFIED))
    };
    // A part of the range has its first and last address too, but never those of the whole.
    let free = |address: Ipv4Addr| !taken(address) && ipam::is_usable(place.range, address);
    let found = if place.pool == place.range {
        ipam::next_address(place.range, order, |address| !free(address))
    } else {
        let (first, last) = (u32::from(place.pool.network()), u32::from(place.pool.broadcast()));
        (first..=last).map(Ipv4Addr::from).find(|address| free(*address))
    };
    found.ok_or_else(|| {
        NetError::Exhausted(format!("no available IPv4 addresses on this network's address pools: {shown}"))
    })
}

/// Chooses a port's IPv6 address, if its subnet has such.
pub(super) fn choose_address6(
    state: &State,
    request: &CreatePort,
    place: &Place,
) -> Result<Option<Ipv6Addr>, NetError> {
    let (Some(range), Some(pool)) = (place.range6, place.pool6) else {
        return match request.address6 {
            Some(address) => Err(NetError::Invalid(format!(
                "invalid endpoint settings:\nno configured subnet contains IP address {address}"
            ))),
            None => Ok(None),
        };
    };
    let used: HashSet<Ipv6Addr> = state
        .ports_of(&request.subnet)
        .filter_map(|record| record.port.address6.map(|(address, _)| address))
        .collect();
    let taken = |address: Ipv6Addr| place.reserved.contains(&address.into()) || used.contains(&address);
    if let Some(address) = request.address6 {
        if !range.contains(&address) {
            let text =
                format!("invalid endpoint settings:\nno configured subnet contains IP address {address}");
            return Err(NetError::Invalid(text));
        }
        return if taken(address) { Err(in_use()) } else { Ok(Some(address)) };
    }
    let found = ipam::next_address6(pool, taken);
    found.map(Some).ok_or_else(|| {
        let shown = &place.shown;
        NetError::Exhausted(format!("no available IPv6 addresses on this network's address pools: {shown}"))
    })
}

fn in_use() -> NetError {
    NetError::Forbidden("Address already in use".into())
}
