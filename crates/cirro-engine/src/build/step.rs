//! A build step as a container that is in no list.

use cirro_container::{CreateContainer, Rootfs, Stdio};
use cirro_seams::Pending;
use cirro_seams::build::{BuildFault, Step, StepRunner};
use cirro_seams::container::{Container, ContainerSpec, LogConfig, NetworkMode, Owner, Phase};
use cirro_seams::node::{Output, Session};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::mounts::Contents;
use super::targets::MountTargets;
use crate::containers::Record;
use crate::containers::create::remove_dir;
use crate::error::{EngineError, blocking, io};
use crate::{Engine, clock, names, signals};

/// Marks the workloads of steps, whose exits are nobody else's business.
pub(crate) const PREFIX: &str = "build-";

/// Runs steps on this host.
pub(super) struct EngineSteps(pub Engine);

impl StepRunner for EngineSteps {
    fn run(&self, step: Step, output: mpsc::Sender<Output>) -> Pending<'_, Result<i32, BuildFault>> {
        let engine = self.0.clone();
        Box::pin(async move {
            let cancelled = CancellationToken::new();
            // The step runs in a task of its own, so that a dropped future cannot stop it in the middle of making something.
            let _guard = cancelled.clone().drop_guard();
            let task =
                self.0.shared.tasks.spawn(async move { engine.run_step(step, output, cancelled).await });
            match task.await {
                Ok(result) => result.map_err(BuildFault::from),
                Err(error) => Err(BuildFault(format!("build step ended early: {error}"))),
            }
        })
    }
}

impl Engine {
    async fn run_step(
        &self,
        step: Step,
        output: mpsc::Sender<Output>,
        cancelled: CancellationToken,
    ) -> Result<i32, EngineError> {
        let mounts = step.mounts.clone();
        let mut record = record_of(step)?;
        let id = record.container.id.clone();
        let root = record.root.clone();
        let dir = self.shared.options.container_dir(&id);
        let mut contents = Contents::new(self.shared.options.run_dir.join("build").join(&id));
        let (targets, resolved, contents) = blocking(move || {
            std::fs::create_dir_all(&dir).map_err(io(format!("make {}", dir.display())))?;
            let resolved = contents.resolve(&mounts)?;
            let targets = MountTargets::look(&root, mounts.iter().map(|mount| mount.target.as_str()));
            Ok((targets.map_err(io("look at the layer of the step"))?, resolved, contents))
        })
        .await?;
        (record.container.spec.mounts, record.container.mounts) = resolved;
        let running = self.shared.pressure.run_step(&id, record.root.upper.clone());
        let result = self.run_task(&record, output, cancelled).await;
        let stopped = running.stopped();
        drop(running);
        drop(contents);
        self.acknowledge(&id).await;
        let left = self.leave_network(&record.container).await;
        let (root, dir) = (record.root, self.shared.options.container_dir(&id));
        let cleaned = blocking(move || {
            remove_dir(&dir)?;
            targets.clean(&root).map_err(io("clean the layer of the step"))
        });
        let cleaned = cleaned.await;
        let code = result?;
        left?;
        cleaned?;
        match stopped {
            Some(why) => Err(EngineError::Failed(why)),
            None => Ok(code),
        }
    }

    /// Makes the process and follows it to its end.
    async fn run_task(
        &self,
        record: &Record,
        output: mpsc::Sender<Output>,
        cancelled: CancellationToken,
    ) -> Result<i32, EngineError> {
        let request: CreateContainer = self.prepare_task(record).await?;
        let id = &record.container.id;
        self.shared.supervisor.create(CreateContainer { stdio: Stdio::default(), ..request }).await?;
        let session = self.shared.supervisor.attach(id, false).await?;
        self.shared.supervisor.start(id).await?;
        tokio::select! {
            code = follow(session, output) => code,
            () = cancelled.cancelled() => {
                // A process that has just ended needs no signal; the workload is deleted anyway.
                let _ = self.shared.supervisor.kill(id, signals::KILL, true).await;
                Err(EngineError::Failed("the build was cancelled".into()))
            }
        }
    }
}

/// Passes on what a step writes; returns its exit code.
async fn follow(mut session: Session, output: mpsc::Sender<Output>) -> Result<i32, EngineError> {
    while let Some(chunk) = session.output.recv().await {
        // The step goes on when nobody reads.
        let _ = output.send(chunk).await;
    }
    session.exit.await.map_err(|_| EngineError::Failed("the exit code of a build step was lost".into()))
}

fn network(name: &str) -> NetworkMode {
    match name {
        "" | "default" | "bridge" => NetworkMode::Default,
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        other => NetworkMode::Network(other.to_owned()),
    }
}

fn record_of(step: Step) -> Result<Record, EngineError> {
    let mut extra_hosts = Vec::new();
    for line in &step.extra_hosts {
        let (name, address) = line.split_once([':', '=']).unwrap_or((line, ""));
        let address =
            address.parse().map_err(|_| EngineError::Invalid(format!("invalid extra host: {line}")))?;
        extra_hosts.push((name.to_owned(), address));
    }
    let spec = ContainerSpec {
        network: network(&step.network),
        extra_hosts,
        resources: step.limits.resources,
        shm_size: step.limits.shm_size,
        ulimits: step.limits.ulimits,
        cgroup_parent: step.limits.cgroup_parent,
        log: LogConfig { keep: false, ..LogConfig::default() },
        owner: Owner::Build,
        ..ContainerSpec::default()
    };
    let id = format!("{PREFIX}{}", &names::new_id()?[..32]);
    let container = Container {
        name: id.clone(),
        spec: ContainerSpec { hostname: Some("build".into()), ..spec },
        id,
        image_id: String::new(),
        args: step.args,
        env: step.env,
        working_dir: if step.working_dir.is_empty() { "/".into() } else { step.working_dir },
        user: step.user,
        labels: Default::default(),
        exposed_ports: Vec::new(),
        phase: Phase::Created,
        pid: None,
        exit_code: None,
        oom_killed: false,
        error: None,
        created_at: clock::now(),
        started_at: None,
        finished_at: None,
        health_check: None,
        health: None,
        restart_count: 0,
        endpoints: Vec::new(),
        ports: Vec::new(),
        log_path: Default::default(),
        mounts: Vec::new(),
    };
    let root = Rootfs { lower: step.layer.lower, upper: step.layer.upper, work: step.layer.work };
    Ok(Record {
        container,
        root,
        stop_signal: signals::TERM,
        stopped_by_hand: false,
        anonymous_volumes: Vec::new(),
        shell: Vec::new(),
    })
}
