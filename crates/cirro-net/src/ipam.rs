//! Hands out addresses and ranges: pure functions of what is taken.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// How the next address is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The lowest free one, as docker's users expect.
    Lowest,
    /// The next free one after this, so that an address rests before it is somebody else's.
    After(Ipv4Addr),
}

/// Returns the addresses of a range that a workload may have, lowest and highest; `None` if there is none.
///
/// The network's own and the broadcast address are nobody's.
pub(crate) fn usable(range: Ipv4Net) -> Option<(u32, u32)> {
    if range.prefix_len() > 30 {
        return None;
    }
    Some((u32::from(range.network()) + 1, u32::from(range.broadcast()) - 1))
}

/// Tells whether a workload may have the address.
pub(crate) fn is_usable(range: Ipv4Net, address: Ipv4Addr) -> bool {
    usable(range).is_some_and(|(first, last)| (first..=last).contains(&u32::from(address)))
}

/// Returns a range's customary gateway: its first address.
pub(crate) fn first(range: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()).saturating_add(1))
}

/// Returns a free address of the range.
pub(crate) fn next_address(
    range: Ipv4Net,
    order: Order,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let (first, last) = usable(range)?;
    let start = match order {
        Order::After(address) if is_usable(range, address) && u32::from(address) < last => {
            u32::from(address) + 1
        }
        _ => first,
    };
    (start..=last).chain(first..start).map(Ipv4Addr::from).find(|address| !taken(*address))
}

/// Addresses of an IPv6 range that are tried: more than this host has ports.
const MAX_TRIES6: u128 = 1 << 16;

/// Returns an IPv6 range's customary gateway: its first address.
pub(crate) fn first6(range: Ipv6Net) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(range.network()).saturating_add(1))
}

/// Returns the lowest free address of an IPv6 range; the first one is the subnet-router's (RFC 4291).
pub(crate) fn next_address6(range: Ipv6Net, taken: impl Fn(Ipv6Addr) -> bool) -> Option<Ipv6Addr> {
    let (first, last) = (u128::from(range.network()), u128::from(range.broadcast()));
    let last = last.min(first.saturating_add(MAX_TRIES6));
    (first.saturating_add(1)..=last).map(Ipv6Addr::from).find(|address| !taken(*address))
}

/// Tells whether two IPv6 ranges have an address in common.
pub(crate) fn overlap6(one: Ipv6Net, other: Ipv6Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// Returns the first range of the pools that overlaps none of `taken`. Pools larger than a /16 are cut into /16s.
pub(crate) fn next_range(pools: &[Ipv4Net], taken: impl Fn(Ipv4Net) -> bool) -> Option<Ipv4Net> {
    pools
        .iter()
        .flat_map(|pool| {
            let length = pool.prefix_len().max(16);
            pool.subnets(length).expect("not shorter than the pool")
        })
        .find(|range| !taken(*range))
}

/// Returns the first /31 of the pool that is not `taken`.
pub(crate) fn next_pair(pool: Ipv4Net, taken: impl Fn(Ipv4Net) -> bool) -> Option<Ipv4Net> {
    let length = pool.prefix_len().max(31);
    pool.subnets(length)
        .expect("not shorter than the pool")
        .filter(|pair| pair.prefix_len() == 31)
        .find(|pair| !taken(*pair))
}

/// Tells whether two ranges have an address in common.
pub(crate) fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn pools_are_cut_and_what_is_taken_is_skipped() {
        let pools = [net("172.17.0.0/16"), net("172.18.0.0/15"), net("10.1.1.0/24")];
        let mut taken = vec![net("172.17.4.0/24"), net("172.18.0.0/14")];
        let free =
            |taken: &[Ipv4Net]| next_range(&pools, |range| taken.iter().any(|other| overlap(range, *other)));
        assert_eq!(free(&taken), Some(net("10.1.1.0/24")));
        taken.pop();
        assert_eq!(free(&taken), Some(net("172.18.0.0/16")));
        taken.push(net("0.0.0.0/0"));
        assert_eq!(free(&taken), None);
    }

    #[test]
    fn an_address_rests_before_it_is_given_again() {
        let range = net("10.0.0.0/29");
        let next = |after: &str, taken: &str| {
            let taken: Ipv4Addr = taken.parse().unwrap();
            next_address(range, Order::After(after.parse().unwrap()), |address| address == taken)
        };
        assert_eq!(next("10.0.0.3", "10.0.0.4"), Some("10.0.0.5".parse().unwrap()));
        assert_eq!(next("10.0.0.6", "10.0.0.1"), Some("10.0.0.2".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn every_usable_address_is_given_once_and_no_other(prefix in 24_u8..=32, lowest: bool, start: u32) {
            let range = Ipv4Net::new(Ipv4Addr::from(start), prefix).unwrap().trunc();
            let mut taken = BTreeSet::new();
            let mut last = range.network();
            loop {
                let order = if lowest { Order::Lowest } else { Order::After(last) };
                let Some(address) = next_address(range, order, |address| taken.contains(&address)) else { break };
                prop_assert!(range.contains(&address));
                prop_assert!(address != range.network() && address != range.broadcast());
                prop_assert!(taken.insert(address));
                last = address;
            }
            let expected = if prefix > 30 { 0 } else { (1_usize << (32 - prefix)) - 2 };
            prop_assert_eq!(taken.len(), expected);
        }

        #[test]
        fn ranges_never_overlap(taken in proptest::collection::vec((any::<u32>(), 8_u8..=32), 0..20)) {
            let taken: Vec<Ipv4Net> = taken.iter()
                .map(|(address, prefix)| Ipv4Net::new(Ipv4Addr::from(*address), *prefix).unwrap().trunc()).collect();
            let pools = [net("10.0.0.0/8"), net("172.16.0.0/12")];
            if let Some(range) = next_range(&pools, |range| taken.iter().any(|other| overlap(range, *other))) {
                prop_assert!(taken.iter().all(|other| !overlap(range, *other)));
                prop_assert!(pools.iter().any(|pool| pool.contains(&range)));
            }
        }
    }
}
