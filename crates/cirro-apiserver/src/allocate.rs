//! Service addresses and node ports: what is taken, and what is free.
//!
//! An allocation is a key of its own in the store, written in the same transaction as the object that
//! owns it and guarded by its absence; so two servers never give one address twice. The pool here is
//! a snapshot: a race is found by the transaction, and the write is tried again.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use crate::identity;

/// Prefix of all claims.
pub(crate) const CLAIMS: &str = "/allocations/";
const ADDRESSES: &str = "/allocations/clusterips/";
const PORTS: &str = "/allocations/nodeports/";

/// Returns the claim of a service address.
pub(crate) fn address_claim(address: Ipv4Addr) -> String {
    format!("{ADDRESSES}{address}")
}

/// Returns the claim of a node port.
pub(crate) fn port_claim(port: u16) -> String {
    format!("{PORTS}{port}")
}

/// A snapshot of what is taken.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    addresses: Ipv4Net,
    ports: RangeInclusive<u16>,
    taken_addresses: HashSet<Ipv4Addr>,
    taken_ports: HashSet<u16>,
}

impl Pool {
    /// Reads the claims in the store.
    pub(crate) fn new<'a>(
        addresses: Ipv4Net,
        ports: RangeInclusive<u16>,
        claims: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut pool =
            Self { addresses, ports, taken_addresses: HashSet::new(), taken_ports: HashSet::new() };
        for claim in claims {
            if let Some(address) = claim.strip_prefix(ADDRESSES).and_then(|text| text.parse().ok()) {
                pool.taken_addresses.insert(address);
            } else if let Some(port) = claim.strip_prefix(PORTS).and_then(|text| text.parse().ok()) {
                pool.taken_ports.insert(port);
            }
        }
        pool
    }

    /// Takes a free service address. The lower part of the range is kept for addresses that people
    /// choose, as upstream does (KEP-3070), until the rest is full.
    pub(crate) fn take_free_address(&mut self) -> Option<Ipv4Addr> {
        let (first, last) = self.bounds();
        let band = ((last - first) / 16).clamp(16, 256).min(last - first);
        let free = |number: &u32| !self.taken_addresses.contains(&Ipv4Addr::from(*number));
        let upper = first + band..=last;
        let size = last - (first + band) + 1;
        let start = first + band + identity::below(size);
        let address = (start..=last).chain(upper).find(free).or_else(|| (first..first + band).find(free))?;
        self.taken_addresses.insert(address.into());
        Some(address.into())
    }

    /// Takes a service address that was asked for; says why it cannot be had.
    pub(crate) fn take_address(&mut self, address: Ipv4Addr) -> Result<(), String> {
        let (first, last) = self.bounds();
        if !(first..=last).contains(&u32::from(address)) {
            return Err(format!(
                "the provided IP is not in the valid range. The range of valid IPs is {}",
                self.addresses
            ));
        }
        if self.taken_addresses.insert(address) {
            Ok(())
        } else {
            Err("provided IP is already allocated".into())
        }
    }

    /// Takes a free node port.
    pub(crate) fn take_free_port(&mut self) -> Option<u16> {
        let (first, last) = (*self.ports.start(), *self.ports.end());
        let start = first + identity::below(u32::from(last - first) + 1) as u16;
        let port = (start..=last).chain(first..=last).find(|port| !self.taken_ports.contains(port))?;
        self.taken_ports.insert(port);
        Some(port)
    }

    /// Takes a node port that was asked for; says why it cannot be had.
    pub(crate) fn take_port(&mut self, port: u16) -> Result<(), String> {
        if !self.ports.contains(&port) {
            let (first, last) = (self.ports.start(), self.ports.end());
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            ));
        }
        if self.taken_ports.insert(port) { Ok(()) } else { Err("provided port is already allocated".into()) }
    }

    /// Gives an address back to this snapshot.
    pub(crate) fn release_address(&mut self, address: Ipv4Addr) {
        self.taken_addresses.remove(&address);
    }

    /// Gives a port back to this snapshot.
    pub(crate) fn release_port(&mut self, port: u16) {
        self.taken_ports.remove(&port);
    }

    /// First and last usable address: neither the network's own nor the broadcast one.
    fn bounds(&self) -> (u32, u32) {
        (u32::from(self.addresses.network()) + 1, u32::from(self.addresses.broadcast()) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(claims: &[String]) -> Pool {
        Pool::new("10.96.0.0/27".parse().unwrap(), 30000..=30002, claims.iter().map(String::as_str))
    }

    #[test]
    fn every_address_is_given_once_and_the_lower_ones_last() {
        let mut pool = pool(&[address_claim(Ipv4Addr::new(10, 96, 0, 1))]);
        let given: Vec<_> = std::iter::from_fn(|| pool.take_free_address()).collect();
        assert_eq!(given.len(), 29);
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), 29);
        assert!(given[0].octets()[3] > 16 && given[28].octets()[3] < 17);
    }

    #[test]
    fn ports_are_checked_against_range_and_claims() {
        let mut pool = pool(&[port_claim(30001)]);
        assert!(pool.take_port(80).unwrap_err().contains("30000-30002"));
        assert_eq!(pool.take_port(30001), Err("provided port is already allocated".into()));
        let mut rest = [pool.take_free_port(), pool.take_free_port()];
        rest.sort();
        assert_eq!((rest, pool.take_free_port()), ([Some(30000), Some(30002)], None));
        assert!(pool.take_address(Ipv4Addr::new(10, 97, 0, 1)).is_err());
    }
}
