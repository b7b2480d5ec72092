//! Which remembered UDP flows a change of published ports makes stale.
//!
//! TCP needs nothing of this: a new connection is a new decision. A UDP client that keeps sending from one port stays with
//! the old one: with a workload that is gone, or, if it began too early, with the host itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cirro_seams::network::Protocol;
use cirro_sys::netlink::Netlink;
use cirro_sys::netlink::conntrack::{self, Flow};
use tracing::{debug, warn};

use crate::apply::open_namespace;
use crate::plan::Context;
use crate::plan::places::Places;
use crate::state::State;

/// A namespace's file, `None` for the host's, and a UDP port in it.
type Place = (Option<String>, u16);

/// What is stale of the flows to one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stale {
    place: Place,
    /// They were led to these.
    gone: BTreeSet<IpAddr>,
    /// Whether there is a new target: flows that were led nowhere must find it.
    fresh: bool,
}

/// Compares two states of the records.
pub(crate) fn stale(old: &State, new: &State) -> Vec<Stale> {
    let (old, new) = (targets(old), targets(new));
    let places: BTreeSet<&Place> = old.keys().chain(new.keys()).collect();
    let none = BTreeSet::new();
    let compare = |place: &Place| {
        let (old, new) = (old.get(place).unwrap_or(&none), new.get(place).unwrap_or(&none));
        let gone = old.difference(new).copied().collect();
        let fresh = new.difference(old).next().is_some();
        (old != new).then(|| Stale { place: place.clone(), gone, fresh })
    };
    places.into_iter().filter_map(compare).collect()
}

/// Where each published UDP port leads.
fn targets(state: &State) -> BTreeMap<Place, BTreeSet<IpAddr>> {
    let mut targets: BTreeMap<Place, BTreeSet<IpAddr>> = BTreeMap::new();
    let places = Places::of(state);
    for published in places.published(state) {
        let (publish, Some(port)) = (published.publish, published.publish.host_port) else { continue };
        if publish.protocol != Protocol::Udp {
            continue;
        }
        let mut add = |place: Option<&str>, target: IpAddr| {
            targets.entry((place.map(str::to_owned), port)).or_default().insert(target);
        };
        if let Some(record) = published.target {
            match state.vpc_of(&record.port.subnet) {
                None => add(None, record.port.address.into()),
                Some((_, vpc)) => {
                    add(None, vpc.own_address().into());
                    add(Some(&vpc.file), record.port.address.into());
                }
            }
        }
        if let Some((address, _)) = published.target6.and_then(|record| record.port.address6) {
            add(None, address.into());
        }
    }
    targets
}

/// Makes the kernel forget. What cannot be forgotten is told; it ends by itself when its client pauses.
pub(crate) fn forget(context: &Context, stale: &[Stale]) {
    for stale in stale {
        let forgotten = match &stale.place.0 {
            None => forget_here(stale),
            Some(file) => match open_namespace(&context.netns_dir().join(file)) {
                Ok(netns) => netns.run(|| forget_here(stale)).and_then(|result| result),
                // The VPC is gone with all that it remembered.
                Err(_) => continue,
            },
        };
        match forgotten {
            Ok(0) => {}
            Ok(flows) => debug!(port = stale.place.1, flows, "stale UDP flows forgotten"),
            Err(error) => warn!(port = stale.place.1, %error, "stale UDP flows are not forgotten"),
        }
    }
}

fn forget_here(stale: &Stale) -> std::io::Result<usize> {
    let own = if stale.fresh { own_addresses()? } else { BTreeSet::new() };
    conntrack::forget_udp(stale.place.1, |flow| stale.concerns(flow, &own))
}

impl Stale {
    /// `own` are the addresses of the namespace itself.
    fn concerns(&self, flow: &Flow, own: &BTreeSet<IpAddr>) -> bool {
        let untranslated = flow.answerer == flow.destination;
        self.gone.contains(&flow.answerer)
            || self.fresh
                && untranslated
                && (own.contains(&flow.destination) || flow.destination.is_loopback())
    }
}

fn own_addresses() -> std::io::Result<BTreeSet<IpAddr>> {
    let mut netlink = Netlink::open()?;
    let mut own: BTreeSet<IpAddr> =
        netlink.addresses()?.into_iter().map(|(_, address, _)| address.into()).collect();
    own.extend(netlink.addresses6()?.into_iter().map(|(_, address, _)| IpAddr::from(address)));
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(destination: &str, answerer: &str) -> Flow {
        let parse = |text: &str| text.parse().unwrap();
        Flow { source: parse("203.0.113.9"), destination: parse(destination), answerer: parse(answerer) }
    }

    #[test]
    fn flows_to_what_is_gone_and_flows_that_were_led_nowhere_are_stale() {
        let own = ["203.0.113.1".parse().unwrap()].into();
        let gone = ["172.17.0.2".parse().unwrap()].into();
        let moved = Stale { place: (None, 53), gone, fresh: true };
        assert!(moved.concerns(&flow("203.0.113.1", "172.17.0.2"), &own));
        assert!(moved.concerns(&flow("203.0.113.1", "203.0.113.1"), &own));
        assert!(moved.concerns(&flow("127.0.0.1", "127.0.0.1"), &own));
        // Another workload's, and one that only passes through.
        assert!(!moved.concerns(&flow("203.0.113.1", "172.17.0.3"), &own));
        assert!(!moved.concerns(&flow("198.51.100.7", "198.51.100.7"), &own));
        let ended = Stale { fresh: false, ..moved };
        assert!(!ended.concerns(&flow("203.0.113.1", "203.0.113.1"), &own));
    }

    #[test]
    fn without_published_udp_ports_nothing_is_stale() {
        assert_eq!(stale(&State::default(), &State::default()), []);
    }
}
