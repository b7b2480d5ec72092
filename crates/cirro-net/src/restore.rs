//! What somebody else took from the host's namespace is put back at once.
//!
//! ```text
//! kernel ─▶ watch (a task) ─▶ notice (the worker) ─▶ forget what is gone ─▶ apply the records again
//! ```
//!
//! The kernel tells when a link went or was set down, when an address or a route of ours went, and when our table
//! was changed, so nothing is asked for in between. Our own changes are told too: of links only what the records want
//! and the kernel lacks counts, of tables only other senders' transactions. Who fights with us for a table
//! wins after a few rounds: a loop would help nobody.

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use cirro_sys::netlink::Netlink;
use cirro_sys::netlink::watch::{Change, Watch};
use cirro_types::MacAddress;
use ipnet::{Ipv4Net, Ipv6Net};
use tokio::runtime::Handle;
use tokio::sync::mpsc::WeakSender;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::apply::{self, PROTOCOL};
use crate::error::NetError;
use crate::plan::{LinkKind, NetnsPlan, RoutePlan};
use crate::worker::{Job, Worker};

/// Own transactions that are remembered until the kernel has told of them.
const REMEMBERED: usize = 64;
/// Times that one thing is tried.
const ATTEMPTS: usize = 3;
/// Times that things are put back within [`ROUND`].
const ROUNDS: usize = 40;
const ROUND: Duration = Duration::from_secs(60);

/// Tells own changes from others', and how often things were put back.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    senders: VecDeque<u32>,
    restored: VecDeque<Instant>,
}

impl Memory {
    /// Remembers a transaction of ours by the process that made it.
    pub(crate) fn remember(&mut self, sender: u32) {
        self.senders.push_back(sender);
        if self.senders.len() > REMEMBERED {
            self.senders.pop_front();
        }
    }

    fn is_own(&self, sender: u32) -> bool {
        self.senders.contains(&sender)
    }

    /// Counts one more time; `false` if it was done too often lately.
    fn may_restore(&mut self, now: Instant) -> bool {
        while self.restored.front().is_some_and(|then| now.duration_since(*then) > ROUND) {
            self.restored.pop_front();
        }
        if self.restored.len() >= ROUNDS {
            return false;
        }
        self.restored.push_back(now);
        true
    }
}

/// Hands the kernel's messages to the worker as long as there is one.
pub(crate) fn follow(runtime: &Handle, watch: Watch, jobs: WeakSender<Job>) -> JoinHandle<()> {
    runtime.spawn(async move {
        let told = |changes: BTreeSet<Change>| {
            let jobs = jobs.upgrade();
            async move {
                let Some(jobs) = jobs else { return false };
                jobs.send(Box::new(move |worker| worker.notice(&changes))).await.is_ok()
            }
        };
        if let Err(error) = watch.follow(told).await {
            warn!(%error, "what others change in the network is not noticed any more");
        }
    })
}

impl Worker {
    /// Looks whether something of ours is gone, and puts it back.
    pub(crate) fn notice(&mut self, changes: &BTreeSet<Change>) {
        match self.find_lost(changes) {
            Ok(lost) if lost.is_empty() => {}
            Ok(lost) => self.restore(&lost),
            Err(error) => warn!(%error, "what others changed in the network could not be read"),
        }
    }

    /// Forgets what is gone of what was applied; returns what that is.
    fn find_lost(&mut self, changes: &BTreeSet<Change>) -> Result<Vec<String>, NetError> {
        let mut netlink = None;
        let mut links = BTreeSet::new();
        let mut lost = Vec::new();
        for change in changes {
            match change {
                Change::Link(name) if self.applied.host.links.contains_key(name) => {
                    links.insert(name.clone());
                }
                Change::Link(_) => {}
                Change::Address(index) => {
                    let link = open(&mut netlink)?.link_at(*index).map_err(failed)?;
                    let name = link.map(|link| link.name);
                    links.extend(name.filter(|name| self.applied.host.links.contains_key(name)));
                }
                Change::Route(destination, prefix, protocol) => {
                    if *protocol == PROTOCOL {
                        lost.extend(self.look_at_route(*destination, *prefix, open(&mut netlink)?)?);
                    }
                }
                Change::Table(sender) => {
                    if !self.memory.is_own(*sender) && !self.applied.host.tables.is_empty() {
                        self.applied.host.tables.clear();
                        lost.push("the packet filter's table".into());
                    }
                }
                Change::Lost => {
                    links.extend(self.applied.host.links.keys().cloned());
                    let gone = crate::drift::find(self.applied.host.tables.values())?;
                    if !gone.is_empty() {
                        self.applied.host.tables.clear();
                        lost.extend(gone);
                    }
                }
            }
        }
        for name in links {
            if look_at_link(&mut self.applied.host, &name, open(&mut netlink)?).map_err(failed)? {
                lost.push(format!("link {name}"));
            }
        }
        Ok(lost)
    }

    fn look_at_route(
        &mut self,
        destination: Ipv4Addr,
        prefix: u8,
        netlink: &mut Netlink,
    ) -> Result<Option<String>, NetError> {
        let Ok(destination) = Ipv4Net::new(destination, prefix) else { return Ok(None) };
        if !self.applied.host.routes.contains_key(&destination) {
            return Ok(None);
        }
        let routes = netlink.routes().map_err(failed)?;
        let is_there = routes.iter().any(|route| {
            (route.destination, route.prefix, route.protocol) == (destination.addr(), prefix, PROTOCOL)
        });
        if is_there {
            return Ok(None);
        }
        self.applied.host.routes.remove(&destination);
        Ok(Some(format!("route {destination}")))
    }

    fn restore(&mut self, lost: &[String]) {
        if !self.memory.may_restore(Instant::now()) {
            warn!(
                ?lost,
                "somebody keeps changing the network of this cloud; `cirro doctor --fix` puts it back"
            );
            return;
        }
        warn!(?lost, "somebody changed the network of this cloud; it is put back");
        let mut failures = Vec::new();
        for _ in 0..ATTEMPTS {
            match self.apply(&self.state.clone()) {
                Ok(left) if left.is_empty() => return info!("the network is whole again"),
                Ok(left) => failures = left,
                Err(error) => return warn!(%error, "the network could not be put back"),
            }
            // What a link rests on (its bridge) may have gone as well, and the kernel is about to tell.
            if let Err(error) = self.look_at_links() {
                return warn!(%error, "the network could not be read");
            }
        }
        for (link, error) in failures {
            warn!(link, %error, "a link could not be put back");
            self.give_up(&link);
        }
    }

    fn look_at_links(&mut self) -> Result<(), NetError> {
        let mut netlink = Netlink::open().map_err(failed)?;
        let names: Vec<String> = self.applied.host.links.keys().cloned().collect();
        for name in names {
            look_at_link(&mut self.applied.host, &name, &mut netlink).map_err(failed)?;
        }
        Ok(())
    }
}

fn open(netlink: &mut Option<Netlink>) -> Result<&mut Netlink, NetError> {
    let opened = match netlink.take() {
        Some(open) => open,
        None => Netlink::open().map_err(failed)?,
    };
    Ok(netlink.insert(opened))
}

fn failed(error: std::io::Error) -> NetError {
    NetError::kernel("read the network", error)
}

/// Compares one link with what was applied and forgets of that what is gone. Returns whether something is.
fn look_at_link(applied: &mut NetnsPlan, name: &str, netlink: &mut Netlink) -> std::io::Result<bool> {
    let Some(mut plan) = applied.links.get(name).cloned() else { return Ok(false) };
    let Some(link) = netlink.link(name)? else {
        apply::forget(applied, name);
        if plan.kind == LinkKind::Bridge {
            release_ports(applied, name);
        }
        return Ok(true);
    };
    let before = plan.clone();
    if !link.up && plan.kind != LinkKind::Loopback {
        netlink.set_up(link.index, true)?;
        // They go with the carrier, addresses of IPv4 stay.
        plan.neighbours.clear();
        applied.routes.retain(|_, route| !matches!(route, RoutePlan::Link(link, _) if link == name));
    }
    if plan.kind != LinkKind::Loopback {
        plan.mac = link.mac.map_or(plan.mac, MacAddress);
        plan.mtu = link.mtu;
    }
    let master = link.master.map(|index| netlink.link_at(index)).transpose()?.flatten().map(|link| link.name);
    if plan.master != master {
        // A port's flags are its bridge's memory of it.
        (plan.master, plan.hairpin, plan.isolated) = (master, false, false);
    }
    let seen: BTreeSet<Ipv4Net> = netlink
        .addresses()?
        .into_iter()
        .filter(|(index, ..)| *index == link.index)
        .filter_map(|(_, address, prefix)| Ipv4Net::new(address, prefix).ok())
        .collect();
    plan.addresses.retain(|address| seen.contains(address));
    let seen: BTreeSet<Ipv6Net> = netlink
        .addresses6()?
        .into_iter()
        .filter(|(index, ..)| *index == link.index)
        .filter_map(|(_, address, prefix)| Ipv6Net::new(address, prefix).ok())
        .collect();
    plan.addresses6.retain(|address| seen.contains(address));
    let changed = plan != before || !link.up && plan.kind != LinkKind::Loopback;
    applied.links.insert(name.into(), plan);
    Ok(changed)
}

/// A bridge that went left its ports to themselves.
fn release_ports(applied: &mut NetnsPlan, bridge: &str) {
    for link in applied.links.values_mut().filter(|link| link.master.as_deref() == Some(bridge)) {
        (link.master, link.hairpin, link.isolated) = (None, false, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_transactions_are_known_and_old_ones_forgotten() {
        let mut memory = Memory::default();
        (0..200).for_each(|sender| memory.remember(sender));
        assert!(memory.is_own(199) && !memory.is_own(1));
        assert_eq!(memory.senders.len(), REMEMBERED);
    }

    #[test]
    fn a_fight_ends() {
        let mut memory = Memory::default();
        let now = Instant::now();
        assert!((0..ROUNDS).all(|_| memory.may_restore(now)));
        assert!(!memory.may_restore(now));
        assert!(memory.may_restore(now + ROUND + Duration::from_secs(1)));
    }
}
