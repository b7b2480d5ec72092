//! What a simulated host has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use cirro_seams::container::Container;
use cirro_seams::network::{NameRecord, ServicePort};
use cirro_seams::node::{InstanceState, NodeError, Sandbox, SandboxSpec, TenantNetworks};
use ipnet::Ipv4Net;
use tokio::sync::Notify;

use crate::faults::Faults;
use crate::random::Random;
use crate::script::{Answer, Script};

/// Where pods' addresses come from.
const PODS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 42, 0, 0), 16);
/// Where machines' addresses come from.
const MACHINES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 7, 0, 0), 24);

pub(crate) struct State {
    pub(crate) random: Random,
    pub(crate) faults: Faults,
    pub(crate) loses_events: bool,
    pub(crate) images: BTreeSet<String>,
    pub(crate) image_scripts: HashMap<String, Script>,
    pub(crate) container_scripts: HashMap<String, Script>,
    pub(crate) answers: HashMap<String, Answer>,
    /// In the order of their making.
    pub(crate) containers: Vec<ContainerEntry>,
    /// How many were ever made.
    pub(crate) made: u64,
    pub(crate) sandboxes: BTreeMap<String, SandboxEntry>,
    pub(crate) machines: BTreeMap<String, InstanceState>,
    pub(crate) machine_start: Duration,
    pub(crate) services: Vec<ServicePort>,
    pub(crate) names: Vec<NameRecord>,
    pub(crate) networks: TenantNetworks,
}

pub(crate) struct ContainerEntry {
    pub(crate) container: Container,
    pub(crate) script: Script,
    pub(crate) log: Vec<String>,
    /// Notified when it ends.
    pub(crate) ended: Arc<Notify>,
}

pub(crate) struct SandboxEntry {
    spec: SandboxSpec,
    address: Ipv4Addr,
}

impl SandboxEntry {
    pub(crate) fn sandbox(&self) -> Sandbox {
        Sandbox { uid: self.spec.uid.clone(), address: self.address }
    }
}

impl State {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            faults: Faults::default(),
            loses_events: false,
            images: BTreeSet::new(),
            image_scripts: HashMap::new(),
            container_scripts: HashMap::new(),
            answers: HashMap::new(),
            containers: Vec::new(),
            made: 0,
            sandboxes: BTreeMap::new(),
            machines: BTreeMap::new(),
            machine_start: Duration::ZERO,
            services: Vec::new(),
            names: Vec::new(),
            networks: TenantNetworks::default(),
        }
    }

    pub(crate) fn find(&mut self, id: &str) -> Result<&mut ContainerEntry, NodeError> {
        let found = self.containers.iter_mut().find(|entry| entry.container.id == id);
        found.ok_or_else(|| NodeError::NotFound(format!("no such container: {id}")))
    }

    /// Makes or finds a sandbox.
    pub(crate) fn ensure_sandbox(&mut self, spec: SandboxSpec) -> Result<Sandbox, NodeError> {
        if let Some(found) = self.sandboxes.get(&spec.uid) {
            return Ok(found.sandbox());
        }
        for wanted in &spec.publish {
            let taken = |entry: &&SandboxEntry| {
                entry
                    .spec
                    .publish
                    .iter()
                    .any(|port| (port.host_port, port.protocol) == (wanted.host_port, wanted.protocol))
            };
            if let Some(holder) = self.sandboxes.values().find(taken) {
                let port = wanted.host_port.unwrap_or(0);
                let text = format!("host port {port} is already allocated to pod {}", holder.spec.name);
                return Err(NodeError::Conflict(text));
            }
        }
        let taken: BTreeSet<Ipv4Addr> = self.sandboxes.values().map(|entry| entry.address).collect();
        let entry = SandboxEntry { address: free(PODS, &taken)?, spec };
        let sandbox = entry.sandbox();
        self.sandboxes.insert(sandbox.uid.clone(), entry);
        Ok(sandbox)
    }

    /// Returns an address for a machine that no other has.
    pub(crate) fn machine_address(&self) -> Result<Ipv4Addr, NodeError> {
        free(MACHINES, &self.machines.values().filter_map(|machine| machine.address).collect())
    }
}

/// Returns the first free address of a range; the first two are the network's and the gateway's.
fn free(range: Ipv4Net, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, NodeError> {
    let found = range.hosts().skip(1).find(|address| !taken.contains(address));
    found.ok_or_else(|| NodeError::Conflict(format!("no free address in {range}")))
}

#[cfg(test)]
mod tests {
    use cirro_seams::network::{PortPublish, Protocol};

    use super::*;

    fn spec(uid: &str, host_port: Option<u16>) -> SandboxSpec {
        let publish = PortPublish {
            host_address: None,
            host_port,
            last_host_port: None,
            port: 80,
            protocol: Protocol::Tcp,
        };
        let publish = if host_port.is_some() { vec![publish] } else { Vec::new() };
        SandboxSpec { uid: uid.into(), name: uid.into(), publish, ..SandboxSpec::default() }
    }

    #[test]
    fn a_sandbox_is_made_once_and_gives_its_address_and_ports_back() {
        let mut state = State::new(1);
        let first = state.ensure_sandbox(spec("a", Some(8080))).unwrap();
        assert_eq!(state.ensure_sandbox(spec("a", Some(8080))).unwrap(), first);
        assert!(matches!(state.ensure_sandbox(spec("b", Some(8080))), Err(NodeError::Conflict(_))));
        assert_ne!(state.ensure_sandbox(spec("c", None)).unwrap().address, first.address);
        state.sandboxes.remove("a");
        assert_eq!(state.ensure_sandbox(spec("b", Some(8080))).unwrap().address, first.address);
    }
}
