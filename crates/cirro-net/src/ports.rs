//! Making and removing ports.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cirro_seams::network::PortPublish;
use cirro_sys::netlink::Netlink;

use crate::apply::open_namespace;
use crate::error::NetError;
use crate::model::{CreatePort, Port, PortTarget, SubnetId};
use crate::names;
use crate::plan::{VPC_MTU, mac_of};
use crate::ranges::ForeignRanges;
use crate::state::{PortRecord, State};
use crate::tenants;
use crate::worker::Worker;

mod addresses;

use addresses::{Place, choose_address, choose_address6, find_place};

/// Ports per host: what the links' names and one /16 hold with room to spare.
const MAX_PORTS: usize = 16_384;

impl Worker {
    /// Makes ports, or makes sure of them, in one change: all or none.
    pub(crate) fn create_ports(&mut self, requests: Vec<CreatePort>) -> Result<Vec<Port>, NetError> {
        let mut next = self.state.clone();
        let mut taken: Vec<PortPublish> = Vec::new();
        let mut ports = Vec::new();
        for request in requests {
            match self.add_port(&mut next, request, &mut taken) {
                Ok(port) => ports.push(port),
                Err(error) => {
                    self.host_ports.release(&taken);
                    return Err(error);
                }
            }
        }
        self.commit(next).inspect_err(|_| self.host_ports.release(&taken))?;
        Ok(ports)
    }

    /// Puts a port into the next state; `taken` gets the host's ports that it took.
    fn add_port(
        &mut self,
        next: &mut State,
        request: CreatePort,
        taken: &mut Vec<PortPublish>,
    ) -> Result<Port, NetError> {
        if let Some(record) = next.ports.get(&request.id).cloned() {
            return self.renew_port(next, &record, request);
        }
        if request.id.is_empty() || request.id.len() > 256 {
            return Err(NetError::Invalid(format!("invalid port id {:?}", request.id)));
        }
        if next.ports.len() >= MAX_PORTS {
            return Err(NetError::Exhausted(format!("this host has {MAX_PORTS} ports")));
        }
        let place = find_place(&self.context, next, &request.subnet)?;
        let tenant = matches!(request.subnet, SubnetId::Tenant { .. });
        if request.target == PortTarget::Tap && !tenant {
            return Err(NetError::Invalid("a machine's port must be on a tenant's subnet".into()));
        }
        let address = choose_address(next, &request, &place)?;
        let address6 = choose_address6(next, &request, &place)?;
        let namespace_inode = target_inode(&request.target)?;
        let publish = self.take_host_ports(&request, &place, address)?;
        taken.extend(publish.iter().cloned());
        let used = next.link_names();
        let link = names::link(&self.context.prefix, place.letter, &request.id, |link| used.contains(link));
        let record = new_record(request, place, link, namespace_inode, (address, address6), publish);
        let port = record.port.clone();
        next.ports.insert(port.id.clone(), Arc::new(record));
        Ok(port)
    }

    fn take_host_ports(
        &mut self,
        request: &CreatePort,
        place: &Place,
        address: Ipv4Addr,
    ) -> Result<Vec<PortPublish>, NetError> {
        let mut publish = request.publish.clone();
        for publish in publish.iter_mut().filter(|publish| publish.host_address.is_none()) {
            publish.host_address = place.binding_address;
        }
        let shown = request.names.first().unwrap_or(&request.id);
        let endpoint = format!("{shown} ({})", Port::endpoint_id(&request.id));
        self.host_ports.take(&publish, &endpoint, address, &self.state.services)
    }

    /// The same request again: the link may have gone with its namespace, which may be another one now.
    fn renew_port(
        &mut self,
        next: &mut State,
        record: &Arc<PortRecord>,
        request: CreatePort,
    ) -> Result<Port, NetError> {
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
            links: request.links,
            resolvers: request.resolvers,
            gateway_priority: request.gateway_priority,
            groups: request.groups,
            ..record.as_ref().clone()
        };
        let port = renewed.port.clone();
        next.ports.insert(request.id, Arc::new(renewed));
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

    /// Removes ports in one change. Published ports of one that goes pass to one of its namespace that stays.
    pub(crate) fn delete_ports(&mut self, ids: &[String]) -> Result<(), NetError> {
        let mut next = self.state.clone();
        let gone: Vec<Arc<PortRecord>> = ids.iter().filter_map(|id| next.ports.remove(id)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let mut released = Vec::new();
        for record in gone.iter().filter(|record| !record.port.publish.is_empty()) {
            match heir(&next, record) {
                Some(heir) => {
                    let mut changed = next.ports[&heir].as_ref().clone();
                    changed.port.publish.extend(record.port.publish.iter().cloned());
                    next.ports.insert(heir, Arc::new(changed));
                }
                None => released.extend(record.port.publish.iter().cloned()),
            }
        }
        if gone.iter().any(|record| matches!(record.port.subnet, SubnetId::Tenant { .. })) {
            tenants::settle(&self.context, &mut next, &ForeignRanges::read(&self.context.prefix)?);
        }
        self.commit(next)?;
        self.host_ports.release(&released);
        for record in gone {
            self.broken.remove(&record.link);
        }
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
}

fn new_record(
    request: CreatePort,
    place: Place,
    link: String,
    namespace_inode: u64,
    (address, address6): (Ipv4Addr, Option<Ipv6Addr>),
    publish: Vec<PortPublish>,
) -> PortRecord {
    let interface = match &request.target {
        PortTarget::Namespace { interface, .. } => interface.clone(),
        PortTarget::Tap => String::new(),
    };
    PortRecord {
        port: Port {
            id: request.id,
            subnet: request.subnet,
            address,
            prefix: place.range.prefix_len(),
            gateway: place.gateway,
            address6: address6.zip(place.range6.map(|range| range.prefix_len())),
            gateway6: place.gateway6.filter(|_| address6.is_some()),
            mac: request.mac.unwrap_or_else(|| mac_of(address)),
            interface,
            dns: place.dns,
            dns_search: place.dns_search,
            publish,
        },
        link,
        target: request.target,
        namespace_inode,
        names: request.names,
        links: request.links,
        resolvers: request.resolvers,
        gateway_priority: request.gateway_priority,
        groups: request.groups,
    }
}

/// Finds another port of the namespace that a port was in.
fn heir(state: &State, record: &PortRecord) -> Option<String> {
    let PortTarget::Namespace { path, .. } = &record.target else { return None };
    let here = |other: &&Arc<PortRecord>| matches!(&other.target, PortTarget::Namespace { path: other, .. } if other == path);
    state.ports.values().find(here).map(|other| other.port.id.clone())
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
