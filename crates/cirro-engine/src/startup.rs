//! Starting the engine and ending it: the parts, the records, the tasks that follow the supervisor.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cirro_container::{Supervisor, SupervisorEvent, SupervisorOptions};
use cirro_image::{Library, Registry};
use cirro_net::Network;
use cirro_seams::node::NodeEvent;
use cirro_store::{NodeDb, RedbNodeDb};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::build::caches::BuildCaches;
use crate::build::step;
use crate::build::traces::BuildTraces;
use crate::containers::{Containers, Entry, KeyedLocks, Record};
use crate::error::{EngineError, blocking, io};
use crate::events::EventLog;
use crate::images::registry::HostNames;
use crate::journal::{CONTAINERS, INSTANCES, Journal, SANDBOXES, VOLUMES};
use crate::pressure::Pressure;
use crate::spec::host::HostFacts;
use crate::{Engine, EngineOptions, Shared, instances};

const NODE_EVENTS: usize = 1024;
/// How long the engine's own tasks may take to end.
const LAST_TASKS: Duration = Duration::from_secs(10);

/// What the records say.
struct Records {
    containers: Containers,
    sandboxes: BTreeMap<String, crate::node::sandboxes::SandboxRecord>,
    instances: BTreeMap<String, instances::InstanceRecord>,
    volumes: BTreeMap<String, crate::Volume>,
}

impl Engine {
    /// Opens the records, reaches the supervisor, brings the host to what the records say.
    pub async fn start(options: EngineOptions) -> Result<Self, EngineError> {
        make_directories(&options)?;
        let database = options.data_dir.join("node.redb");
        let db: Arc<dyn NodeDb> = blocking(move || Ok(Arc::new(RedbNodeDb::open(&database)?))).await?;
        let (library_dir, library_db) = (options.data_dir.clone(), db.clone());
        let supervisor = SupervisorOptions {
            run_dir: options.run_dir.clone(),
            name: options.name.clone(),
            executable: options.executable.clone(),
        };
        let (supervisor, network, library, host) = tokio::join!(
            Supervisor::connect(supervisor),
            Network::start(options.network.clone(), db.clone()),
            blocking(move || Ok(Library::open(&library_dir, library_db)?)),
            blocking(|| Ok(HostFacts::look())),
        );
        let (supervisor, network, library, host) = (supervisor?, network?, library?, host?);
        // From before the comparison with reality, so that nothing falls between the two.
        let events = supervisor.events();
        let journal = Journal::new(db);
        let loading = journal.clone();
        let records = blocking(move || load(&loading)).await?;
        let build_caches = Arc::new(BuildCaches::new(options.data_dir.join("build-caches")));
        let build_traces = BuildTraces::new(options.data_dir.join("build-traces"));
        let registry = Registry::new(options.registries.clone(), Arc::new(HostNames));
        let engine = Self {
            shared: Arc::new(Shared {
                options,
                host,
                library,
                build_caches,
                build_traces,
                registry,
                network,
                supervisor,
                machines: OnceLock::new(),
                distribution: OnceLock::new(),
                journal,
                containers: Mutex::new(records.containers),
                sandboxes: Mutex::new(records.sandboxes),
                instances: Mutex::new(records.instances),
                volumes: Mutex::new(records.volumes),
                volume_users: Mutex::default(),
                execs: Mutex::default(),
                keyed: KeyedLocks::default(),
                pressure: Pressure::default(),
                collection: Notify::new(),
                events: EventLog::new(),
                node_events: broadcast::channel(NODE_EVENTS).0,
                tasks: TaskTracker::new(),
                cancelled: CancellationToken::new(),
                journal_ended: CancellationToken::new(),
            }),
        };
        let journal = engine.shared.journal.clone().run(engine.shared.journal_ended.clone());
        tokio::spawn(journal);
        engine.reconcile().await?;
        engine.shared.tasks.spawn(engine.clone().follow(events));
        engine.shared.tasks.spawn(engine.clone().watch_disk());
        engine.shared.tasks.spawn(engine.clone().collect_in_background());
        Ok(engine)
    }

    /// Ends what belongs to the daemon; workloads go on.
    pub async fn stop(&self) {
        if self.shared.journal_ended.is_cancelled() {
            return;
        }
        self.shared.cancelled.cancel();
        self.shared.tasks.close();
        // An exit that is just being handled may finish; a client that does not read must not keep us.
        if tokio::time::timeout(LAST_TASKS, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.shared.tasks.len(), "tasks left behind at the end");
        }
        if let Err(error) = self.shared.journal.flush().await {
            tracing::error!(%error, "records not written at the end");
        }
        self.shared.journal_ended.cancel();
        self.shared.network.stop().await;
    }

    /// Reads the supervisor's events until the engine stops.
    async fn follow(self, mut events: broadcast::Receiver<SupervisorEvent>) {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = self.shared.cancelled.cancelled() => return,
            };
            match event {
                Ok(SupervisorEvent::Exited(id, exit)) => {
                    // The step that it belongs to follows it by itself.
                    if id.starts_with(step::PREFIX) {
                        continue;
                    }
                    let engine = self.clone();
                    self.shared.tasks.spawn(async move {
                        if id.starts_with(instances::PREFIX) {
                            engine.handle_instance_exit(&id, exit).await;
                        } else {
                            engine.handle_exit(&id, exit).await;
                        }
                    });
                }
                Ok(SupervisorEvent::Reconnected) | Err(RecvError::Lagged(_)) => {
                    if let Err(error) = self.compare_workloads().await {
                        tracing::error!(%error, "workloads not compared with the supervisor's");
                    }
                    self.tell_node(NodeEvent::Everything);
                }
                Err(RecvError::Closed) => {
                    tracing::error!("the supervisor's events have ended");
                    return;
                }
            }
        }
    }
}

fn make_directories(options: &EngineOptions) -> Result<(), EngineError> {
    use std::os::unix::fs::DirBuilderExt;
    for dir in [
        options.data_dir.clone(),
        options.run_dir.clone(),
        options.containers_dir(),
        options.volumes_dir(),
        options.scratch_dir(),
    ] {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o711);
        builder.create(&dir).map_err(io(format!("make {}", dir.display())))?;
    }
    Ok(())
}

fn load(journal: &Journal) -> Result<Records, EngineError> {
    let mut containers = Containers::default();
    for (_, record) in table::<Record>(journal, CONTAINERS)? {
        containers.insert(Entry::new(record));
    }
    Ok(Records {
        containers,
        sandboxes: table(journal, SANDBOXES)?,
        instances: table(journal, INSTANCES)?,
        volumes: table(journal, VOLUMES)?,
    })
}

/// Reads a table; a record that cannot be read is left alone and told about, since the rest can still be used.
fn table<T: DeserializeOwned>(
    journal: &Journal,
    name: &'static str,
) -> Result<BTreeMap<String, T>, EngineError> {
    let mut records = BTreeMap::new();
    for (key, bytes) in journal.load(name)? {
        match serde_json::from_slice(&bytes) {
            Ok(record) => drop(records.insert(key, record)),
            Err(error) => tracing::error!(table = name, key, %error, "record not understood"),
        }
    }
    Ok(records)
}
