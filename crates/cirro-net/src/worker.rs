//! The thread that owns the records and the kernel's state of one host's network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cirro_seams::network::ServicePort;
use cirro_store::NodeDb;
use cirro_sys::netlink::watch::Watch;
use cirro_sys::netns::{Netns, unpin};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::apply::{self, Failures, Outcome};
use crate::dhcp::DhcpServers;
use crate::dns::DnsServers;
use crate::error::NetError;
use crate::flows;
use crate::hostports::HostPorts;
use crate::leaks;
use crate::model::{NetworkOptions, Tenants};
use crate::names;
use crate::network::Shared;
use crate::plan::services::{self, ServiceMaps};
use crate::plan::vpc::OUTSIDE;
use crate::plan::{Context, NetnsPlan, Plan, RoutePlan, plan};
use crate::ranges::ForeignRanges;
use crate::relay::Relays;
use crate::restore::{self, Memory};
use crate::state::State;
use crate::tenants;

/// A call.
pub(crate) type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// Owner of everything that changes.
pub(crate) struct Worker {
    pub(crate) context: Context,
    pub(crate) state: State,
    pub(crate) host_ports: HostPorts,
    /// Links of ports whose workloads' ends could not be reached on start; left out of plans until asked for again.
    pub(crate) broken: BTreeSet<String>,
    db: Arc<dyn NodeDb>,
    shared: Arc<Shared>,
    services: ServiceMaps,
    /// What the kernel holds.
    pub(crate) applied: Plan,
    /// Tells our own changes of the kernel from others'.
    pub(crate) memory: Memory,
    dns: DnsServers,
    dhcp: DhcpServers,
    relays: Relays,
    watching: Option<JoinHandle<()>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop_watching();
    }
}

impl Worker {
    /// Loads the records and makes the kernel agree; `jobs` is where calls to the worker are put.
    pub(crate) fn start(
        options: NetworkOptions,
        db: Arc<dyn NodeDb>,
        shared: Arc<Shared>,
        runtime: Handle,
        jobs: mpsc::WeakSender<Job>,
    ) -> Result<Self, NetError> {
        let context = Context::new(options);
        std::fs::create_dir_all(context.netns_dir())
            .map_err(|error| NetError::kernel("make the directory of namespaces", error))?;
        let recorded = State::load(db.as_ref())?;
        let foreign = ForeignRanges::read(&context.prefix)?;
        check_fixed_ranges(&context, &foreign)?;
        let mut state = recorded.clone();
        crate::docker::ensure_default_network(&context, &mut state, &foreign)?;
        tenants::settle(&context, &mut state, &foreign);
        state.save(&recorded, db.as_ref())?;
        let host_ports = HostPorts::restore(&context.prefix, &state);
        let names = shared.names.clone();
        let mut worker = Self {
            services: services::plan(&context, &state.services),
            context,
            state,
            host_ports,
            broken: BTreeSet::new(),
            db,
            shared,
            applied: Plan::default(),
            memory: Memory::default(),
            dns: DnsServers::new(runtime.clone(), names),
            dhcp: DhcpServers::new(runtime.clone()),
            relays: Relays::new(runtime.clone()),
            watching: None,
        };
        // Before the kernel is read, so that nothing comes between.
        let watch = Watch::open(&worker.context.prefix);
        let watch = watch.map_err(|error| NetError::kernel("watch the network", error))?;
        worker.adopt()?;
        worker.watching = Some(restore::follow(&runtime, watch, jobs));
        Ok(worker)
    }

    /// Runs calls until every handle is gone.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            job(&mut self);
        }
    }

    /// Applies the records to whatever the kernel holds; links of ours that they do not know go, tables are made anew.
    pub(crate) fn adopt(&mut self) -> Result<(), NetError> {
        let prefix = self.context.prefix.clone();
        let chosen: BTreeSet<&str> =
            self.state.networks.values().map(|network| network.bridge.as_str()).collect();
        let ours = |link: &str| names::owns(&prefix, link) || chosen.contains(link);
        self.applied.host = apply::observe(ours)?;
        self.ensure_vpc_namespaces(&self.state.clone())?;
        let mut applied = self.apply(&self.state.clone());
        if applied.is_err() && self.context.filters_bridges {
            // Only who was refused asks why: it costs a run of nft.
            self.context.filters_bridges = apply::filters_bridges(&self.context.prefix);
            if !self.context.filters_bridges {
                applied = self.apply(&self.state.clone());
            }
        }
        for (link, error) in applied? {
            // Without a workload's link the rest goes on; without one of our own nothing does.
            if !self.give_up(&link) {
                return Err(error);
            }
            warn!(link, %error, "a port is not as it should be");
        }
        self.publish();
        info!(ports = self.state.ports.len(), networks = self.state.networks.len(), "network is up");
        Ok(())
    }

    /// Leaves a link out of plans until it is asked for again; `false` if it is no workload's.
    pub(crate) fn give_up(&mut self, link: &str) -> bool {
        let is_port = self.state.ports.values().any(|record| record.link == link);
        if is_port {
            self.broken.insert(link.to_owned());
        }
        is_port
    }

    /// Makes `next` the state, or leaves everything as it was.
    pub(crate) fn commit(&mut self, next: State) -> Result<(), NetError> {
        next.save(&self.state, self.db.as_ref())?;
        let applied = self.ensure_vpc_namespaces(&next).and_then(|()| self.apply(&next));
        let error = match applied {
            Ok(failures) => failures.into_iter().next().map(|(_, error)| error),
            Err(error) => Some(error),
        };
        match error {
            None => {
                let stale = flows::stale(&self.state, &next);
                self.state = next;
                flows::forget(&self.context, &stale);
                self.publish();
                Ok(())
            }
            Some(error) => {
                self.roll_back(&next);
                Err(error)
            }
        }
    }

    fn roll_back(&mut self, next: &State) {
        let state = self.state.clone();
        if let Err(error) = state.save(next, self.db.as_ref()) {
            warn!(%error, "records of a failed change could not be taken back");
        }
        match self.apply(&state) {
            Ok(failures) => {
                failures.iter().for_each(|(link, error)| warn!(link, %error, "undo of a failed change"))
            }
            Err(error) => warn!(%error, "undo of a failed change"),
        }
    }

    /// Tells readers, DNS and DHCP.
    fn publish(&mut self) {
        self.dns.follow(&self.context, &self.state);
        self.dhcp.follow(&self.context, &self.state);
        self.relays.follow(&self.state, &self.host_ports);
        *self.shared.state.write().expect("nothing panics while it reads the state") = self.state.clone();
    }

    fn ensure_vpc_namespaces(&mut self, state: &State) -> Result<(), NetError> {
        for vpc in state.vpcs.values() {
            let path = self.context.netns_dir().join(&vpc.file);
            let failed = |error| NetError::kernel(format!("make namespace {}", path.display()), error);
            let found = Netns::open(&path);
            let netns = match found {
                Ok(netns) => netns,
                Err(_) => {
                    unpin(&path).map_err(failed)?;
                    Netns::create_pinned(&path).map_err(failed)?
                }
            };
            let inode = netns.inode().map_err(failed)?;
            if self.context.vpc_inodes.insert(vpc.file.clone(), inode) != Some(inode) {
                let seen = netns.run(|| apply::observe(|link| link != OUTSIDE)).map_err(failed)??;
                self.applied.vpcs.insert(vpc.file.clone(), seen);
            }
        }
        Ok(())
    }

    /// Makes the kernel agree with a state.
    pub(crate) fn apply(&mut self, state: &State) -> Result<Failures, NetError> {
        let mut wanted = plan(&self.context, state, &self.services);
        for netns in std::iter::once(&mut wanted.host).chain(wanted.vpcs.values_mut()) {
            leave_out(netns, &self.broken);
        }
        let mut failures = Failures::new();
        if self.applied.host != wanted.host {
            let Outcome { failures: failed, transaction } =
                apply::apply(&mut self.applied.host, &wanted.host)?;
            failures.extend(failed);
            transaction.into_iter().for_each(|sender| self.memory.remember(sender));
        }
        for (file, wanted) in &wanted.vpcs {
            let applied = self.applied.vpcs.entry(file.clone()).or_default();
            if applied != wanted {
                let netns = apply::open_namespace(&self.context.netns_dir().join(file))?;
                let result = netns.run(|| apply::apply(applied, wanted));
                let outcome = result.map_err(|error| NetError::kernel("enter a VPC", error))??;
                failures.extend(outcome.failures);
            }
        }
        self.remove_vpc_namespaces(&wanted)?;
        Ok(failures)
    }

    fn remove_vpc_namespaces(&mut self, wanted: &Plan) -> Result<(), NetError> {
        let gone: Vec<String> =
            self.applied.vpcs.keys().filter(|file| !wanted.vpcs.contains_key(*file)).cloned().collect();
        for file in gone {
            unpin(&self.context.netns_dir().join(&file))
                .map_err(|error| NetError::kernel(format!("remove namespace {file}"), error))?;
            self.applied.vpcs.remove(&file);
            self.context.vpc_inodes.remove(&file);
        }
        Ok(())
    }

    /// Forgets that a link was applied, so that it is made again.
    pub(crate) fn forget_link(&mut self, link: &str) {
        self.broken.remove(link);
        apply::forget(&mut self.applied.host, link);
        self.applied.vpcs.values_mut().for_each(|netns| apply::forget(netns, link));
    }

    /// Makes tenants' networks agree.
    pub(crate) fn set_tenants(&mut self, tenants: Tenants) -> Result<(), NetError> {
        let mut next = self.state.clone();
        next.tenants = Arc::new(tenants);
        tenants::settle(&self.context, &mut next, &ForeignRanges::read(&self.context.prefix)?);
        if next == self.state { Ok(()) } else { self.commit(next) }
    }

    /// Makes the service proxy agree.
    pub(crate) fn set_services(&mut self, mut list: Vec<ServicePort>) -> Result<(), NetError> {
        list.sort_unstable();
        if *self.state.services == list {
            return Ok(());
        }
        let next = State { services: Arc::new(list), ..self.state.clone() };
        let maps = services::plan(&self.context, &next.services);
        let old = std::mem::replace(&mut self.services, maps);
        self.commit(next).inspect_err(|_| self.services = old)
    }

    /// Ends DNS, DHCP and what comes by IPv6.
    pub(crate) fn stop(&mut self) -> Result<(), NetError> {
        self.stop_watching();
        self.dns.stop();
        self.dhcp.stop();
        self.relays.stop();
        Ok(())
    }

    fn stop_watching(&mut self) {
        if let Some(task) = self.watching.take() {
            task.abort();
        }
    }

    /// Removes everything from the kernel; the records of ports go, those of networks stay.
    pub(crate) fn tear_down(&mut self) -> Result<(), NetError> {
        self.stop()?;
        let next = State { ports: BTreeMap::new(), ..self.state.clone() };
        next.save(&self.state, self.db.as_ref())?;
        self.state = next;
        self.host_ports = HostPorts::restore(&self.context.prefix, &self.state);
        let bridges = self.state.networks.values().map(|network| network.bridge.clone()).collect();
        leaks::remove_all(&self.context, &bridges)?;
        self.applied = Plan::default();
        self.context.vpc_inodes.clear();
        *self.shared.state.write().expect("nothing panics while it reads the state") = self.state.clone();
        Ok(())
    }

    /// Finds what is not of the records; `is_bare` knows the namespaces whose workloads want no port.
    pub(crate) fn leaks(&mut self, is_bare: &dyn Fn(&str) -> bool) -> Result<Vec<String>, NetError> {
        let planned = plan(&self.context, &self.state, &self.services);
        leaks::find(&self.context, &planned, &self.applied, &self.state, is_bare)
    }
}

fn check_fixed_ranges(context: &Context, foreign: &ForeignRanges) -> Result<(), NetError> {
    let options = &context.options;
    for (what, range) in [("pod", options.pod_cidr), ("service", options.service_cidr)] {
        if let Some(holder) = foreign.holder(range) {
            return Err(NetError::Conflict(format!("{what} range {range} is taken by {holder}")));
        }
    }
    Ok(())
}

fn leave_out(netns: &mut NetnsPlan, broken: &BTreeSet<String>) {
    netns.links.retain(|name, _| !broken.contains(name));
    netns.routes.retain(|_, route| !matches!(route, RoutePlan::Link(link, _) if broken.contains(link)));
}
