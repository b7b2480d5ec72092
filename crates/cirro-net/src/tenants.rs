//! Which tenants' VPCs and subnets are on this host: those asked for, and those that still have ports.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use tracing::warn;

use crate::ipam;
use crate::model::SubnetId;
use crate::names;
use crate::plan::{Context, display_name};
use crate::ranges::ForeignRanges;
use crate::state::{ObjectName, State, SubnetRecord, VpcRecord};

/// Makes the state's VPCs and subnets agree with what its tenants ask for.
///
/// A VPC or subnet whose range changes under its ports keeps the old one until they are gone.
pub(crate) fn settle(context: &Context, state: &mut State, foreign: &ForeignRanges) {
    let tenants = state.tenants.clone();
    let wanted: BTreeMap<ObjectName, Ipv4Net> = tenants.vpcs.iter().cloned().collect();
    let used = used_subnets(state);
    let used_vpcs: Vec<ObjectName> = used
        .iter()
        .filter_map(|name| state.subnets.get(name).map(|subnet| (name.0.clone(), subnet.vpc.clone())))
        .collect();
    state.vpcs.retain(|name, vpc| wanted.get(name) == Some(&vpc.cidr) || used_vpcs.contains(name));
    for (name, cidr) in wanted {
        if !state.vpcs.contains_key(&name) {
            match new_vpc(context, state, foreign, &name, cidr) {
                Some(vpc) => {
                    state.vpcs.insert(name, vpc);
                }
                None => warn!(vpc = display_name(&name), "no transit addresses left"),
            }
        }
    }
    let wanted: BTreeMap<ObjectName, SubnetRecord> = tenants
        .subnets
        .iter()
        .map(|(name, (vpc, cidr))| (name.clone(), SubnetRecord { vpc: vpc.clone(), cidr: cidr.trunc() }))
        .filter(|(name, subnet)| is_sound(state, name, subnet))
        .collect();
    state.subnets.retain(|name, subnet| wanted.get(name) == Some(subnet) || used.contains(name));
    for (name, subnet) in wanted {
        state.subnets.entry(name).or_insert(subnet);
    }
}

fn used_subnets(state: &State) -> Vec<ObjectName> {
    let ports = state.ports.values();
    ports
        .filter_map(|record| match &record.port.subnet {
            SubnetId::Tenant { namespace, name } => Some((namespace.clone(), name.clone())),
            _ => None,
        })
        .collect()
}

fn new_vpc(
    context: &Context,
    state: &State,
    foreign: &ForeignRanges,
    name: &ObjectName,
    cidr: Ipv4Net,
) -> Option<VpcRecord> {
    let taken = |pair: Ipv4Net| state.vpcs.values().any(|vpc| vpc.transit == pair) || !foreign.is_free(pair);
    let transit = ipam::next_pair(context.options.transit_cidr, taken)?;
    let used = state.link_names();
    let link = names::link(&context.prefix, 't', &display_name(name), |link| used.contains(link));
    Some(VpcRecord { cidr: cidr.trunc(), transit, link, file: names::vpc_file(&name.0, &name.1) })
}

fn is_sound(state: &State, name: &ObjectName, subnet: &SubnetRecord) -> bool {
    let vpc = state.vpcs.get(&(name.0.clone(), subnet.vpc.clone()));
    let sound = vpc.is_some_and(|vpc| vpc.cidr.contains(&subnet.cidr)) && ipam::usable(subnet.cidr).is_some();
    if !sound {
        warn!(subnet = display_name(name), vpc = subnet.vpc, range = %subnet.cidr, "subnet does not fit its VPC");
    }
    sound
}
