//! A simulated engine: what the kubelet needs of a host, in memory, for tests only.
//!
//! Time is `tokio::time`'s, so that tests can pause it; delays between steps and random faults come from a
//! seed. It keeps these rules of the real engine (`cirro-engine`, `src/node`):
//!
//! * A sandbox is made once; asked for again, it is found with its address. Host ports that another sandbox
//!   has are a conflict, and nothing is left of a sandbox that could not be made.
//! * A container needs its sandbox, its image and a name that no other has. One that could not be started
//!   leaves nothing behind.
//! * `pid` is there while it runs, `exit_code` and `finished_at` when it has ended.
//! * A stop returns when the container has ended; of an ended container it does nothing. After the grace the
//!   exit code is 137.
//! * A container that runs cannot be removed. What ended stays until it is removed.
//! * Removing a sandbox ends and removes what runs in it, and what ended there stays; removing what is not
//!   there is no error.
//! * Events say that something changed, never what; they come after the change.
//! * A machine that runs is found, one that ended is started again; stopping and removing what is not there
//!   is no error.

mod containers;
mod engine;
mod faults;
mod machines;
mod random;
mod script;
mod state;
mod streams;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cirro_seams::container::Container;
use cirro_seams::network::{NameRecord, ServicePort};
use cirro_seams::node::{InstanceState, NodeEngine, NodeError, NodeEvent, Sandbox, TenantNetworks};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::broadcast;
use tokio::time::Instant;

pub use faults::Operation;
pub use script::{Answer, Run, Script};

use state::State;

/// More changes than a kubelet leaves unread.
const EVENTS: usize = 1024;

/// A simulated host. Cheap to clone; every clone is the same host.
#[derive(Clone)]
pub struct SimEngine {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    events: broadcast::Sender<NodeEvent>,
    began: Instant,
    epoch: Timestamp,
}

impl SimEngine {
    /// Makes an empty host; the seed decides the delays of its operations.
    ///
    /// Must be called inside a runtime, whose clock is the host's.
    pub fn new(seed: u64) -> Self {
        let shared = Shared {
            state: Mutex::new(State::new(seed)),
            events: broadcast::Sender::new(EVENTS),
            began: Instant::now(),
            epoch: Timestamp::now(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the seam that the kubelet uses.
    pub fn node(&self) -> Arc<dyn NodeEngine> {
        Arc::new(self.clone())
    }

    /// Puts an image into the library.
    pub fn add_image(&self, name: &str) {
        self.state().images.insert(script::whole_name(name));
    }

    /// Takes an image out of the library; what runs from it runs on.
    pub fn remove_image(&self, name: &str) {
        self.state().images.remove(&script::whole_name(name));
    }

    /// Says how containers of an image behave from now on.
    pub fn script_image(&self, image: &str, script: Script) {
        self.state().image_scripts.insert(script::whole_name(image), script);
    }

    /// Says how containers of this name in their pod behave from now on; goes before the image's script.
    pub fn script_container(&self, container: &str, script: Script) {
        self.state().container_scripts.insert(container.to_owned(), script);
    }

    /// Says how a command (its first word) answers in every container from now on.
    pub fn answer(&self, command: &str, answer: Answer) {
        self.state().answers.insert(command.to_owned(), answer);
    }

    /// Lets the next `times` calls of an operation fail.
    pub fn fail_next(&self, operation: Operation, times: u32, error: NodeError) {
        self.state().faults.fail_next(operation, times, error);
    }

    /// Lets each call fail with a chance of one in `chance`, by the seed; 0: never.
    pub fn fail_randomly(&self, chance: u64) {
        self.state().faults.chance = chance;
    }

    /// Swallows the events of what happens from now on, or no longer.
    pub fn lose_events(&self, lose: bool) {
        self.state().loses_events = lose;
    }

    /// Says that everything must be looked at again.
    pub fn announce_everything(&self) {
        let _ = self.shared.events.send(NodeEvent::Everything);
    }

    /// Ends a running container at once with this exit code; returns whether it ran.
    pub fn kill_container(&self, id: &str, exit_code: i32) -> bool {
        self.end_container(id, exit_code)
    }

    /// Ends a machine's process; returns whether it ran.
    pub fn kill_machine(&self, uid: &str, message: &str) -> bool {
        self.end_machine(uid, Some(message.to_owned()))
    }

    /// Says how long a machine takes to start.
    pub fn set_machine_start(&self, delay: Duration) {
        self.state().machine_start = delay;
    }

    /// Returns all containers, in the order of their making.
    pub fn containers(&self) -> Vec<Container> {
        self.state().containers.iter().map(|entry| entry.container.clone()).collect()
    }

    /// Returns the running containers.
    pub fn running(&self) -> Vec<Container> {
        self.containers().into_iter().filter(|container| container.pid.is_some()).collect()
    }

    /// Returns all sandboxes.
    pub fn sandboxes(&self) -> Vec<Sandbox> {
        self.state().sandboxes.values().map(state::SandboxEntry::sandbox).collect()
    }

    /// Returns all machines.
    pub fn machines(&self) -> Vec<InstanceState> {
        self.state().machines.values().cloned().collect()
    }

    /// Returns the services that the proxy was told last.
    pub fn services(&self) -> Vec<ServicePort> {
        self.state().services.clone()
    }

    /// Returns the names that the DNS was told last.
    pub fn names(&self) -> Vec<NameRecord> {
        self.state().names.clone()
    }

    /// Returns the tenants' networks that were told last.
    pub fn networks(&self) -> TenantNetworks {
        self.state().networks.clone()
    }

    /// Returns how often an operation was called, failures included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.state().faults.calls(operation)
    }

    /// Returns the host's time.
    pub fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.shared.began.elapsed()).unwrap_or(SignedDuration::MAX);
        self.shared.epoch.checked_add(passed).unwrap_or(Timestamp::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: NodeEvent) {
        if !self.state().loses_events {
            let _ = self.shared.events.send(event);
        }
    }
}
