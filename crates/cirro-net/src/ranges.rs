//! Ranges of the host that are somebody else's.

use std::collections::BTreeMap;

use cirro_sys::netlink::{Netlink, NextHop};
use ipnet::Ipv4Net;

use crate::error::NetError;
use crate::ipam::overlap;
use crate::names;

/// Ranges that are routed or addressed on links that are not ours, with what holds them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ForeignRanges(Vec<(Ipv4Net, String)>);

impl ForeignRanges {
    /// Reads the calling thread's namespace.
    pub(crate) fn read(prefix: &str) -> Result<Self, NetError> {
        let failed = |error| NetError::kernel("read routes", error);
        let mut netlink = Netlink::open().map_err(failed)?;
        let links = netlink.links().map_err(failed)?;
        let links: BTreeMap<u32, String> = links.into_iter().map(|link| (link.index, link.name)).collect();
        let mut ranges = Vec::new();
        let mut add = |range: Ipv4Net, link: Option<&String>| {
            // The default route and loopback hold everything and nothing.
            let ours = link.is_some_and(|link| names::owns(prefix, link) || link == "lo");
            if range.prefix_len() > 0 && !ours {
                ranges.push((
                    range,
                    link.map_or_else(|| "an unreachable route".into(), |link| format!("link {link}")),
                ));
            }
        };
        for (index, address, prefix) in netlink.addresses().map_err(failed)? {
            if let Ok(range) = Ipv4Net::new(address, prefix) {
                add(range.trunc(), links.get(&index));
            }
        }
        for route in netlink.routes().map_err(failed)? {
            let link = match route.hop {
                NextHop::Link(index) | NextHop::Via(index, _) => links.get(&index),
                NextHop::Unreachable => None,
            };
            if let Ok(range) = Ipv4Net::new(route.destination, route.prefix) {
                add(range, link);
            }
        }
        Ok(Self(ranges))
    }

    /// Returns who holds a part of the range.
    pub(crate) fn holder(&self, range: Ipv4Net) -> Option<String> {
        let found = self.0.iter().find(|(other, _)| overlap(*other, range.trunc()));
        found.map(|(other, holder)| format!("{other} on {holder}"))
    }

    /// Tells whether nobody holds a part of the range.
    pub(crate) fn is_free(&self, range: Ipv4Net) -> bool {
        self.holder(range).is_none()
    }
}
