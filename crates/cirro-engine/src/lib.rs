//! Owner of all that lives on one host; the only thing faces and kubelet talk to.
//!
//! ## Theory of operation
//! One [`Engine`] owns the records of containers, sandboxes, volumes and machines, and drives the parts that make them
//! real: the image library (roots), the network (namespaces and ports), the supervisor (processes).
//!
//! - Memory is the truth while the engine runs; `journal` carries it to the node's database behind the calls.
//! - Every container has a lock of its own that is held for the length of one operation; the table of
//!   containers has a lock that guards plain memory and is never held across an await.
//! - The supervisor's events are read by one task (`follow`), which handles each exit in a task of its own under that
//!   container's lock; so an exit is never handled in the middle of a start.
//! - Every step of a start has its undo; what a crash leaves half-done is put right by `reconcile`, which compares the
//!   records with the supervisor, the network and the disk at the next start.

#![forbid(unsafe_code)]

mod build;
mod clock;
mod collect;
mod containers;
mod disk;
mod distribution;
mod doctor;
mod error;
mod events;
mod exec;
mod fail;
mod images;
mod instances;
mod journal;
mod layers;
mod names;
mod networks;
mod node;
mod options;
mod pressure;
mod reconcile;
mod signals;
mod spec;
mod startup;
mod tear_down;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};

use cirro_container::Supervisor;
use cirro_image::distribution::Distribution;
use cirro_image::{Library, Registry};
use cirro_machine::Machines;
use cirro_net::Network;
use cirro_seams::node::NodeEvent;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use crate::build::{BuildContext, OwnDirectory};
pub use crate::containers::archive::PutArchive;
pub use crate::containers::changes::{Change, ChangeKind};
pub use crate::containers::commit::Commit;
pub use crate::containers::stats::{InterfaceCounts, Sample};
pub use crate::containers::wait::WaitCondition;
pub use crate::disk::{DiskKind, DiskUsage};
pub use crate::doctor::Fault;
pub use crate::error::EngineError;
pub use crate::events::Event;
pub use crate::exec::{ClaimedExec, Exec};
pub use crate::options::EngineOptions;
pub use crate::pressure::DiskOptions;
pub use crate::spec::cdi::{cdi_devices, cdi_directories};
pub use crate::spec::health::{health_check_document, parse_health_check};
pub use crate::spec::host::default_cgroup_namespace;
pub use crate::spec::mounts::system_paths;
pub use crate::volumes::Volume;

use crate::build::caches::BuildCaches;
use crate::build::traces::BuildTraces;
use crate::containers::Containers;
use crate::events::EventLog;
use crate::exec::Execs;
use crate::instances::InstanceRecord;
use crate::journal::Journal;
use crate::node::sandboxes::SandboxRecord;
use crate::pressure::Pressure;
use crate::spec::host::HostFacts;

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What every clone of an engine shares.
struct Shared {
    options: EngineOptions,
    host: HostFacts,
    library: Library,
    build_caches: Arc<BuildCaches>,
    build_traces: BuildTraces,
    registry: Registry,
    network: Network,
    supervisor: Supervisor,
    /// Opened when the first machine is asked for; many hosts have none.
    machines: OnceLock<Machines>,
    /// What this host's registry keeps; opened with the rules of its configuration.
    distribution: OnceLock<Distribution>,
    journal: Arc<Journal>,
    containers: Mutex<Containers>,
    sandboxes: Mutex<BTreeMap<String, SandboxRecord>>,
    instances: Mutex<BTreeMap<String, InstanceRecord>>,
    volumes: Mutex<BTreeMap<String, Volume>>,
    /// Who has had a volume mounted, by the volume.
    volume_users: Mutex<BTreeMap<String, BTreeSet<String>>>,
    execs: Mutex<Execs>,
    /// One at a time per pod and per machine: their operations have no record to lock before they begin.
    keyed: containers::KeyedLocks,
    /// What the watch of the disk shares with the rest.
    pressure: Pressure,
    /// Asks for a collection soon.
    collection: Notify,
    events: EventLog,
    node_events: broadcast::Sender<NodeEvent>,
    tasks: TaskTracker,
    cancelled: CancellationToken,
    /// Ends the journal, after everything else has ended.
    journal_ended: CancellationToken,
}

impl Engine {
    /// Returns events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// Returns kept events since a time (nanoseconds since 1970), the newest few hundred.
    pub fn past_events(&self, since: i64) -> Vec<Event> {
        self.shared.events.past(since)
    }

    /// Returns the options it was started with.
    pub fn options(&self) -> &EngineOptions {
        &self.shared.options
    }

    /// Returns how many clients listen to the events.
    pub fn event_listeners(&self) -> usize {
        self.shared.events.listeners()
    }

    /// Returns what the host's kernel can limit: swap, and processes that wait for memory instead of being killed.
    pub fn limits_of_host(&self) -> (bool, bool) {
        (self.shared.host.swap_limit, self.shared.host.limits.oom_kill_disable)
    }

    /// Tells the kubelet; nobody listening is no error.
    pub(crate) fn tell_node(&self, event: NodeEvent) {
        let _ = self.shared.node_events.send(event);
    }
}
