//! The daemon's handle on the supervisor.

mod attached;
mod cgroups;
mod executed;
mod link;
mod starting;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use cirro_seams::node::Session;
use serde_json::value::RawValue;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::cgroup::Hierarchies;
use crate::error::ContainerError;
use crate::protocol::{Reply, Request};
use crate::request::{CreateContainer, CreateProcess, ExecProcess, SupervisorOptions};
use crate::workload::{SupervisorEvent, WorkloadState};

use link::{Answer, Call, Watch};

/// A handle on the host's supervisor; reconnects by itself.
#[derive(Debug, Clone)]
pub struct Supervisor {
    options: Arc<SupervisorOptions>,
    calls: mpsc::Sender<Call>,
    events: broadcast::Sender<SupervisorEvent>,
    hierarchies: Arc<Hierarchies>,
}

impl Supervisor {
    /// Connects to the supervisor of this cloud; starts guardian and supervisor when there is none.
    ///
    /// # Errors
    /// [`ContainerError::Unreachable`] when they cannot be started or speak another version.
    pub async fn connect(options: SupervisorOptions) -> Result<Self, ContainerError> {
        let options = Arc::new(options);
        let (calls, waiting) = mpsc::channel(256);
        let (events, _) = broadcast::channel(1024);
        let hierarchies = Hierarchies::detect()
            .map_err(|error| ContainerError::Unreachable(format!("find cgroups: {error}")))?;
        link::start(options.clone(), waiting, events.clone()).await?;
        Ok(Self { options, calls, events, hierarchies: Arc::new(hierarchies) })
    }

    /// Returns events from now on.
    pub fn events(&self) -> broadcast::Receiver<SupervisorEvent> {
        self.events.subscribe()
    }

    /// Makes a container; its process waits for `start`.
    ///
    /// # Errors
    /// [`ContainerError::CommandNotFound`] and [`ContainerError::CommandNotExecutable`] for its command; nothing is left behind.
    pub async fn create(&self, request: CreateContainer) -> Result<WorkloadState, ContainerError> {
        let CreateContainer { id, spec, rootfs, stdio, log, cgroup_parent } = request;
        let spec = raw(&spec)?;
        self.make(Request::Create { id, spec, rootfs, stdio, log, cgroup_parent }, Vec::new()).await
    }

    /// Makes and starts a plain process; `fds` become the numbers in `fd_numbers`.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn spawn(
        &self,
        request: CreateProcess,
        fds: Vec<OwnedFd>,
    ) -> Result<WorkloadState, ContainerError> {
        self.make(Request::Spawn(request), fds).await
    }

    async fn make(
        &self,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<WorkloadState, ContainerError> {
        match self.call(request, descriptors, None).await?.0 {
            Reply::Workload(state) => Ok(state),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts a made container.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`], or [`ContainerError::State`] when it was started before.
    pub async fn start(&self, id: &str) -> Result<(), ContainerError> {
        self.ask(Request::Start { id: id.to_owned() }).await
    }

    /// Sends a signal to its first process (or to every process).
    ///
    /// # Errors
    /// [`ContainerError::NotFound`], or [`ContainerError::State`] when it has ended.
    pub async fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), ContainerError> {
        self.ask(Request::Kill { id: id.to_owned(), signal, all }).await
    }

    /// Freezes or thaws it.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`], or [`ContainerError::State`] when it is not running (or not frozen).
    pub async fn set_paused(&self, id: &str, paused: bool) -> Result<(), ContainerError> {
        self.ask(Request::SetPaused { id: id.to_owned(), paused }).await
    }

    /// Removes an ended (or, by force, a living) workload with its cgroups and bundle; acknowledges its exit.
    ///
    /// A container that was never started counts as ended.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`], or [`ContainerError::State`] when it runs and `force` is not set.
    pub async fn delete(&self, id: &str, force: bool) -> Result<(), ContainerError> {
        self.ask(Request::Delete { id: id.to_owned(), force }).await
    }

    /// Lists every workload.
    ///
    /// # Errors
    /// [`ContainerError::Unreachable`].
    pub async fn list(&self) -> Result<Vec<WorkloadState>, ContainerError> {
        match self.call(Request::List, Vec::new(), None).await?.0 {
            Reply::List { workloads, .. } => Ok(workloads),
            other => Err(unexpected(&other)),
        }
    }

    /// Runs a command in a container; the session carries its streams and exit code. Also returns its pid.
    ///
    /// Its bytes do not pass the supervisor. When the session's output is dropped what the command says is read and thrown
    /// away, so that it goes on (`docker exec -d`).
    ///
    /// # Errors
    /// [`ContainerError::CommandNotFound`], [`ContainerError::CommandNotExecutable`], or [`ContainerError::State`] when the
    /// container does not run.
    pub async fn exec(&self, id: &str, request: ExecProcess) -> Result<(i32, Session), ContainerError> {
        executed::exec(self, id, request).await
    }

    /// Attaches to a workload's own streams from now on (before `start`: from its first byte).
    ///
    /// A session that is not read stalls the workload after 1 MiB, as docker's does; one that is dropped leaves.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`].
    pub async fn attach(&self, id: &str, stdin: bool) -> Result<Session, ContainerError> {
        attached::attach(self, id, stdin).await
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`], or [`ContainerError::State`] when it has no terminal.
    pub async fn resize(&self, id: &str, columns: u16, rows: u16) -> Result<(), ContainerError> {
        self.ask(Request::Resize { id: id.to_owned(), columns, rows }).await
    }

    /// Lists cgroups and directories of workloads that do not exist; removes them, with their processes, if asked to.
    ///
    /// # Errors
    /// [`ContainerError::Unreachable`].
    pub async fn strays(&self, remove: bool) -> Result<Vec<String>, ContainerError> {
        match self.call(Request::Strays { remove }, Vec::new(), None).await?.0 {
            Reply::Strays(found) => Ok(found),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the supervisor and the guardian; nothing may run any more. Returns when both are gone with all their files.
    ///
    /// # Errors
    /// [`ContainerError::State`] when something still runs.
    pub async fn shut_down(&self) -> Result<(), ContainerError> {
        let gone = starting::watch_end(&self.options.run_dir)?;
        self.ask(Request::ShutDown).await?;
        gone.await
    }

    async fn ask(&self, request: Request) -> Result<(), ContainerError> {
        match self.call(request, Vec::new(), None).await?.0 {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn call(&self, request: Request, descriptors: Vec<OwnedFd>, watch: Option<Watch>) -> Answer {
        let (answer, answered) = oneshot::channel();
        let gone = |_| ContainerError::Unreachable("the link to it has ended".to_owned());
        self.calls.send(Call { request, descriptors, watch, answer }).await.map_err(|_| gone(()))?;
        answered.await.map_err(|_| gone(()))?
    }
}

fn raw(value: &impl serde::Serialize) -> Result<Box<RawValue>, ContainerError> {
    serde_json::value::to_raw_value(value).map_err(|error| ContainerError::runtime("write request", &error))
}

fn unexpected(reply: &Reply) -> ContainerError {
    ContainerError::Unreachable(format!("unexpected answer {reply:?}"))
}
