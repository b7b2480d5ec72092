//! Makes one network namespace agree with its plan, changing only what differs.
//!
//! What the kernel holds is known from the last plan that was applied, or read from the kernel on start
//! ([`observe`]). Every step is idempotent: after a crash between two of them the same plan is simply
//! applied again. Runs on a thread inside the namespace.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cirro_sys::netlink::{Netlink, NewLink, NextHop, Route, VethPeer};
use cirro_sys::netns::Netns;
use cirro_types::MacAddress;
use ipnet::{Ipv4Net, Ipv6Net};

use crate::error::NetError;
use crate::plan::{LinkKind, LinkPlan, NetnsPlan, RoutePlan};

mod peer;

/// `rtm_protocol` of our routes; free in iproute2's list.
pub(crate) const PROTOCOL: u8 = 193;

/// How long a link may take to notice its carrier: the kernel promises a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// What went wrong with single links; the rest of the plan is applied.
pub(crate) type Failures = Vec<(String, NetError)>;

/// What came of a plan.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What went wrong.
    pub(crate) failures: Failures,
    /// The process that changed the rules, if they had to change.
    pub(crate) transaction: Option<u32>,
}

/// Makes the namespace of the calling thread agree with `wanted`; `applied` becomes what it then holds.
///
/// # Errors
/// When a rule set was refused; links are then untouched. Failures of single links are returned instead, and
/// those links are not in `applied`.
pub(crate) fn apply(applied: &mut NetnsPlan, wanted: &NetnsPlan) -> Result<Outcome, NetError> {
    let mut netlink = Netlink::open().map_err(|error| NetError::kernel("open netlink", error))?;
    for (path, value) in &wanted.sysctls {
        if applied.sysctls.get(path) != Some(value) {
            write_sysctl(path, value)?;
        }
    }
    applied.sysctls.clone_from(&wanted.sysctls);
    let transaction = apply_tables(applied, wanted)?;
    remove_routes(&mut netlink, applied, wanted)?;
    remove_links(&mut netlink, applied, wanted)?;
    let mut failures = Failures::new();
    // Bridges before their ports.
    let (masters, ports): (Vec<_>, Vec<_>) =
        wanted.links.iter().partition(|(_, link)| !matches!(link.kind, LinkKind::Veth(_) | LinkKind::Tap));
    for (name, link) in masters.into_iter().chain(ports) {
        if applied.links.get(name) == Some(link) {
            continue;
        }
        match ensure_link(&mut netlink, name, applied.links.get(name), link) {
            Ok(()) => {
                applied.links.insert(name.clone(), link.clone());
            }
            Err(error) => {
                // A link that was there before stays as it was; the next change tries again.
                if !applied.links.contains_key(name) {
                    forget_link(&mut netlink, applied, name);
                }
                failures.push((name.clone(), error));
            }
        }
    }
    add_routes(&mut netlink, applied, wanted, &mut failures);
    Ok(Outcome { failures, transaction })
}

/// Removes a link that could not be made as wanted, as far as it was made.
fn forget_link(netlink: &mut Netlink, applied: &mut NetnsPlan, name: &str) {
    if name != "lo" {
        let _ = delete_link(netlink, name);
    }
    forget(applied, name);
}

/// Forgets a link that is gone, with what went with it.
pub(crate) fn forget(applied: &mut NetnsPlan, name: &str) {
    applied.links.remove(name);
    applied.routes.retain(|_, route| !matches!(route, RoutePlan::Link(link, _) if link == name));
}

fn apply_tables(applied: &mut NetnsPlan, wanted: &NetnsPlan) -> Result<Option<u32>, NetError> {
    let whole = || -> String { wanted.tables.values().map(|table| table.replace()).collect() };
    let known = wanted.tables.keys().all(|family| applied.tables.contains_key(family));
    let change: String = if known {
        wanted.tables.iter().map(|(family, table)| table.change(&applied.tables[family])).collect()
    } else {
        whole()
    };
    if change.is_empty() {
        return Ok(None);
    }
    // Somebody may have changed our table; then only the whole of it helps.
    let result = run_nft(&change).or_else(|error| if known { run_nft(&whole()) } else { Err(error) });
    match result {
        Ok(_) => applied.tables.clone_from(&wanted.tables),
        Err(_) => applied.tables.clear(),
    }
    result.map(Some)
}

/// Runs one transaction in the calling thread's namespace; returns the id of the process that did.
pub(crate) fn run_nft(text: &str) -> Result<u32, NetError> {
    let failed = |error| NetError::kernel("run nft", error);
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let sender = child.id();
    // nft reads everything before it writes, so this cannot block on its output.
    let written = child.stdin.take().expect("stdin is piped").write_all(text.as_bytes());
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return written.map(|()| sender).map_err(failed);
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message: String = message.lines().take(4).collect::<Vec<_>>().join("; ");
    Err(NetError::Kernel(format!("nft refused: {message}")))
}

/// Whether this kernel's packet filter sees what passes bridges; on one that was built without that it does not.
pub(crate) fn filters_bridges(prefix: &str) -> bool {
    let table = format!("bridge {prefix}-probe");
    let chain = "{ type filter hook prerouting priority -300; }";
    let made =
        run_nft(&format!("add table {table}\nadd chain {table} probe {chain}\ndelete table {table}\n"));
    if let Err(error) = &made {
        tracing::warn!(%error, "containers of one network are not kept from taking each other's addresses");
    }
    made.is_ok()
}

fn write_sysctl(path: &str, value: &str) -> Result<(), NetError> {
    let file = Path::new("/proc/sys/net").join(path);
    let failed = |error| NetError::kernel(format!("set sysctl net/{path}"), error);
    match std::fs::read_to_string(&file) {
        Ok(present) if present.trim() == value => return Ok(()),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.starts_with("ipv6/") => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(_) => {}
    }
    std::fs::write(&file, value).map_err(failed)
}

fn remove_routes(netlink: &mut Netlink, applied: &mut NetnsPlan, wanted: &NetnsPlan) -> Result<(), NetError> {
    let gone: Vec<_> = applied
        .routes
        .iter()
        .filter(|(destination, route)| wanted.routes.get(destination) != Some(*route))
        .map(|(destination, route)| (*destination, route.clone()))
        .collect();
    for (destination, route) in gone {
        if let Ok(Some(route)) = kernel_route(netlink, destination, &route) {
            match netlink.delete_route(&route) {
                Err(error) if error.raw_os_error() != Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                    return Err(NetError::kernel(format!("delete route {destination}"), error));
                }
                _ => {}
            }
        }
        applied.routes.remove(&destination);
    }
    Ok(())
}

fn remove_links(netlink: &mut Netlink, applied: &mut NetnsPlan, wanted: &NetnsPlan) -> Result<(), NetError> {
    let gone = |(name, link): (&String, &LinkPlan)| {
        let remake = wanted.links.get(name).is_none_or(|wanted| must_remake(link, wanted));
        (remake && link.kind != LinkKind::Loopback).then(|| name.clone())
    };
    let names: Vec<String> = applied.links.iter().filter_map(gone).collect();
    for name in names {
        delete_link(netlink, &name)?;
        forget(applied, &name);
    }
    Ok(())
}

/// Deletes a link by name; no error when there is none.
pub(crate) fn delete_link(netlink: &mut Netlink, name: &str) -> Result<(), NetError> {
    let failed = |error| NetError::kernel(format!("delete link {name}"), error);
    let Some(link) = netlink.link(name).map_err(failed)? else { return Ok(()) };
    match netlink.delete_link(link.index) {
        // Its namespace may be on its way out, and the link with it.
        Err(error) if netlink.link(name).map_err(failed)?.is_some() => Err(failed(error)),
        _ => Ok(()),
    }
}

fn must_remake(old: &LinkPlan, new: &LinkPlan) -> bool {
    match (&old.kind, &new.kind) {
        (LinkKind::Veth(Some(old)), LinkKind::Veth(Some(new))) => !old.is_same_place(new),
        (old, new) => std::mem::discriminant(old) != std::mem::discriminant(new),
    }
}

fn ensure_link(
    netlink: &mut Netlink,
    name: &str,
    old: Option<&LinkPlan>,
    link: &LinkPlan,
) -> Result<(), NetError> {
    let failed = |error| NetError::kernel(format!("set up link {name}"), error);
    if old.is_none() && link.kind != LinkKind::Loopback {
        create_link(netlink, name, link)?;
    }
    let index = netlink.index(name).map_err(failed)?;
    let differs = old.is_some_and(|old| (old.mac, old.mtu) != (link.mac, link.mtu));
    let tap_is_new = old.is_none() && link.kind == LinkKind::Tap;
    if (differs || tap_is_new) && link.kind != LinkKind::Loopback {
        netlink.set_mac_and_mtu(index, link.mac.0, link.mtu).map_err(failed)?;
    }
    if let Some(master) = link.master.as_ref().filter(|_| old.is_some_and(|old| old.master != link.master)) {
        let master = netlink.index(master).map_err(failed)?;
        netlink.set_master(index, master).map_err(failed)?;
    }
    if old.is_some_and(|old| old.hairpin) != link.hairpin {
        netlink.set_hairpin(index, link.hairpin).map_err(failed)?;
    }
    if old.is_some_and(|old| old.isolated) != link.isolated {
        netlink.set_isolated(index, link.isolated).map_err(failed)?;
    }
    for (key, value) in &link.sysctls {
        if old.is_none_or(|old| old.sysctls.get(key) != Some(value)) {
            write_sysctl(&key.replace('*', name), value)?;
        }
    }
    for address in old.iter().flat_map(|old| old.addresses.difference(&link.addresses)) {
        netlink.delete_address(index, address.addr(), address.prefix_len()).map_err(failed)?;
    }
    for address in
        link.addresses.iter().filter(|address| old.is_none_or(|old| !old.addresses.contains(address)))
    {
        netlink.add_address(index, address.addr(), address.prefix_len()).map_err(failed)?;
    }
    for address in old.iter().flat_map(|old| old.addresses6.difference(&link.addresses6)) {
        netlink.delete_address6(index, address.addr(), address.prefix_len()).map_err(failed)?;
    }
    for address in
        link.addresses6.iter().filter(|address| old.is_none_or(|old| !old.addresses6.contains(address)))
    {
        netlink.add_address6(index, address.addr(), address.prefix_len()).map_err(failed)?;
    }
    // The workload's end first: ours being up is the sign that the port is whole.
    let peer = match (old.map(|old| &old.kind), &link.kind) {
        (None, LinkKind::Veth(Some(peer))) => Some((peer::configure(peer)?, &peer.name)),
        (Some(LinkKind::Veth(old)), LinkKind::Veth(Some(new))) => {
            peer::update(old.as_deref(), new)?;
            None
        }
        _ => None,
    };
    if old.is_none() {
        netlink.set_up(index, true).map_err(failed)?;
    }
    for (address, mac) in &link.neighbours {
        if old.is_none_or(|old| old.neighbours.get(address) != Some(mac)) {
            netlink.set_neighbour(index, *address, mac.0).map_err(failed)?;
        }
    }
    if let Some((mut inside, peer)) = peer {
        wait_until_running(&mut inside, peer).map_err(failed)?;
        if let Some(master) = &link.master {
            wait_until_running(netlink, master).map_err(failed)?;
        }
    }
    Ok(())
}

/// Waits for a link that got its carrier by another link's coming up. The kernel notices in a work queue of
/// its own; until then the link drops what it is given, and the first packet would be lost.
fn wait_until_running(netlink: &mut Netlink, name: &str) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    while !netlink.link(name)?.is_some_and(|link| link.running) {
        if Instant::now() > until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{name} has no carrier")));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn create_link(netlink: &mut Netlink, name: &str, link: &LinkPlan) -> Result<(), NetError> {
    let failed = |error| NetError::kernel(format!("make link {name}"), error);
    let master = link.master.as_ref().map(|master| netlink.index(master)).transpose().map_err(failed)?;
    let mut add = |kind| netlink.add_link(name, kind, link.mac.0, link.mtu, master).map_err(failed);
    match &link.kind {
        LinkKind::Loopback => Ok(()),
        LinkKind::Bridge => add(NewLink::Bridge),
        LinkKind::Tap => cirro_sys::tap::open(name, true).map(drop).map_err(failed),
        LinkKind::Veth(None) => unreachable!("plans know the other end of their pairs"),
        LinkKind::Veth(Some(peer)) => {
            let netns = open_namespace(&peer.namespace)?;
            add(NewLink::Veth(VethPeer { name: &peer.name, mac: peer.mac.0, namespace: Some(netns.as_fd()) }))
        }
    }
}

/// Opens a namespace by its file.
pub(crate) fn open_namespace(path: &Path) -> Result<Netns, NetError> {
    Netns::open(path).map_err(|error| NetError::kernel(format!("open namespace {}", path.display()), error))
}

fn kernel_route(netlink: &mut Netlink, destination: Ipv4Net, route: &RoutePlan) -> io::Result<Option<Route>> {
    let (hop, source) = match route {
        RoutePlan::Unreachable => (NextHop::Unreachable, None),
        RoutePlan::Link(name, source) => match netlink.link(name)? {
            Some(link) => (NextHop::Link(link.index), *source),
            None => return Ok(None),
        },
    };
    let (destination, prefix) = (destination.network(), destination.prefix_len());
    Ok(Some(Route { destination, prefix, hop, source, protocol: PROTOCOL }))
}

fn add_routes(netlink: &mut Netlink, applied: &mut NetnsPlan, wanted: &NetnsPlan, failures: &mut Failures) {
    for (destination, route) in &wanted.routes {
        if applied.routes.get(destination) == Some(route) {
            continue;
        }
        let set = kernel_route(netlink, *destination, route)
            .and_then(|route| route.map_or(Ok(false), |route| netlink.set_route(&route).map(|()| true)));
        match set {
            Ok(true) => {
                applied.routes.insert(*destination, route.clone());
            }
            // Its link could not be made; that is told already.
            Ok(false) => {}
            Err(error) => {
                let name = if let RoutePlan::Link(link, _) = route { link.clone() } else { String::new() };
                failures.push((name, NetError::kernel(format!("set route {destination}"), error)));
            }
        }
    }
}

/// Reads what the calling thread's namespace holds of ours. Links that were left half-made are removed.
pub(crate) fn observe(owns: impl Fn(&str) -> bool) -> Result<NetnsPlan, NetError> {
    let failed = |error| NetError::kernel("read links", error);
    let mut netlink = Netlink::open().map_err(failed)?;
    let mut plan = NetnsPlan::default();
    let links = netlink.links().map_err(failed)?;
    let names: BTreeMap<u32, String> = links.iter().map(|link| (link.index, link.name.clone())).collect();
    for link in links.iter().filter(|link| owns(&link.name)) {
        let kind = match link.kind.as_str() {
            "bridge" => LinkKind::Bridge,
            "tun" => LinkKind::Tap,
            "veth" => LinkKind::Veth(None),
            _ if link.name == "lo" => LinkKind::Loopback,
            _ => continue,
        };
        if !link.up && kind != LinkKind::Loopback {
            netlink.delete_link(link.index).map_err(failed)?;
            continue;
        }
        if link.up {
            let mut seen = LinkPlan::new(kind, MacAddress(link.mac.unwrap_or_default()), link.mtu);
            seen.master = link.master.and_then(|index| names.get(&index).cloned());
            plan.links.insert(link.name.clone(), seen);
        }
    }
    for (index, address, prefix) in netlink.addresses().map_err(failed)? {
        let link = names.get(&index).and_then(|name| plan.links.get_mut(name));
        if let Some(link) = link.filter(|_| address != Ipv4Addr::LOCALHOST) {
            link.addresses.extend(Ipv4Net::new(address, prefix));
        }
    }
    for (index, address, prefix) in netlink.addresses6().map_err(failed)? {
        if let Some(link) = names.get(&index).and_then(|name| plan.links.get_mut(name)) {
            link.addresses6.extend(Ipv6Net::new(address, prefix));
        }
    }
    for route in netlink.routes().map_err(failed)?.iter().filter(|route| route.protocol == PROTOCOL) {
        let Ok(destination) = Ipv4Net::new(route.destination, route.prefix) else { continue };
        match route.hop {
            NextHop::Link(index) => {
                if let Some(name) = names.get(&index).filter(|name| plan.links.contains_key(*name)) {
                    plan.routes.insert(destination, RoutePlan::Link(name.clone(), route.source));
                }
            }
            NextHop::Unreachable => {
                plan.routes.insert(destination, RoutePlan::Unreachable);
            }
            NextHop::Via(..) => {}
        }
    }
    Ok(plan)
}
