//! The task that owns the connection to the supervisor.
//!
//! ```text
//!  handles ─ calls ─▶ link ─ frames ─▶ supervisor
//!                      │ ◀─ replies, events ─
//!                      └─▶ answers, events, exit codes
//! ```
//! When the connection is lost, calls that were sent and not answered fail, since nobody knows whether they were done; calls
//! that come meanwhile wait. It ends when the last handle is gone.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc, oneshot};
use tracing::{info, warn};

use super::starting::connect;
use crate::error::ContainerError;
use crate::guardian::empty_directory;
use crate::protocol::{Envelope, Message, Reply, Request, VERSION};
use crate::request::SupervisorOptions;
use crate::wire::{Inbox, Outbox};
use crate::workload::SupervisorEvent;

pub(super) type Answer = Result<(Reply, Vec<OwnedFd>), ContainerError>;

/// An exit code that could not be known, as a shell would say.
const UNKNOWN: i32 = 255;

/// Between one supervisor that did not answer the greeting and the next.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A request on its way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: Request,
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) watch: Option<Watch>,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// An exit code that is waited for from before the request on.
#[derive(Debug)]
pub(super) enum Watch {
    Workload { id: String, code: oneshot::Sender<i32> },
    Exec { id: String, exec: String, code: oneshot::Sender<i32> },
}

impl std::fmt::Debug for Request {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Request")
    }
}

struct Link {
    options: Arc<SupervisorOptions>,
    calls: mpsc::Receiver<Call>,
    events: broadcast::Sender<SupervisorEvent>,
    sequence: u64,
    pending: HashMap<u64, (oneshot::Sender<Answer>, Option<String>)>,
    workloads: HashMap<String, Vec<oneshot::Sender<i32>>>,
    execs: HashMap<String, (String, oneshot::Sender<i32>)>,
    /// It was shut down: it is not to be found again.
    finished: bool,
}

/// One connection.
struct Wire {
    socket: AsyncFd<OwnedFd>,
    inbox: Inbox,
    outbox: Outbox,
}

/// Connects for the first time and starts the task.
pub(super) async fn start(
    options: Arc<SupervisorOptions>,
    calls: mpsc::Receiver<Call>,
    events: broadcast::Sender<SupervisorEvent>,
) -> Result<(), ContainerError> {
    let wire = Wire::open(&options, true).await?;
    let link = Link {
        options,
        calls,
        events,
        sequence: 0,
        pending: HashMap::new(),
        workloads: HashMap::new(),
        execs: HashMap::new(),
        finished: false,
    };
    tokio::spawn(link.run(wire));
    Ok(())
}

impl Wire {
    /// Connects and greets. `fresh`: this daemon has just started; a supervisor of another build becomes ours first.
    async fn open(options: &SupervisorOptions, fresh: bool) -> Result<Self, ContainerError> {
        let (mut wire, mut version, theirs) = Self::meet(options, fresh).await?;
        let ours = crate::build::of(&options.executable).unwrap_or_default();
        if fresh && version <= VERSION && theirs != ours && !ours.is_empty() {
            match wire.upgrade(options).await {
                Ok(()) => {
                    info!(from = theirs, to = ours, "the supervisor goes on as another executable");
                    version = wire.greet(fresh).await?.0;
                }
                Err(error) => {
                    warn!(%error, "the supervisor is not upgraded");
                    // If it died of it, its guardian starts it again as it was.
                    (wire, version, _) = Self::meet(options, fresh).await?;
                }
            }
        }
        if version == VERSION {
            return Ok(wire);
        }
        Err(ContainerError::Unreachable(format!(
            "it speaks version {version} of the protocol, this executable version {VERSION}: use the executable that started it, \
             or end what runs with that one's `cirro down --workloads`"
        )))
    }

    /// Connects and greets. A supervisor that dies before it answers leaves the connection to nobody: the guardian starts it
    /// again, and the one that follows is met.
    async fn meet(options: &SupervisorOptions, fresh: bool) -> Result<(Self, u32, String), ContainerError> {
        let mut pause = PAUSE;
        loop {
            let mut wire = Self::connect(options).await?;
            match wire.greet(fresh).await {
                Ok((version, build)) => return Ok((wire, version, build)),
                Err(ContainerError::Unreachable(_)) if pause <= LONGEST_PAUSE => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn connect(options: &SupervisorOptions) -> Result<Self, ContainerError> {
        let socket = connect(options).await?;
        socket.set_nonblocking(true).map_err(lost)?;
        let socket = cirro_sys::readiness::watch(socket).map_err(lost)?;
        Ok(Self { socket, inbox: Inbox::default(), outbox: Outbox::default() })
    }

    /// Returns what it speaks and which executable it is.
    async fn greet(&mut self, fresh: bool) -> Result<(u32, String), ContainerError> {
        match self.ask(Request::Hello { version: VERSION, fresh }, Vec::new()).await? {
            Reply::Hello { version, build } => Ok((version, build)),
            other => Err(super::unexpected(&other)),
        }
    }

    /// Has it become our executable.
    async fn upgrade(&mut self, options: &SupervisorOptions) -> Result<(), ContainerError> {
        let (executable, empty) = (options.executable.clone(), empty_directory(&options.run_dir));
        let view = tokio::task::spawn_blocking(move || {
            cirro_sys::mounts::open_executable_read_only(&executable, &empty)
        });
        let view = view.await.map_err(io::Error::other).flatten().map_err(lost)?;
        match self.ask(Request::Upgrade, vec![view]).await? {
            Reply::Done => Ok(()),
            other => Err(super::unexpected(&other)),
        }
    }

    /// Asks one thing before anything else is asked; events that come meanwhile are made up for by a list.
    async fn ask(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Result<Reply, ContainerError> {
        self.outbox.push(&Envelope { sequence: 0, request }, descriptors).map_err(lost)?;
        loop {
            while let Some((message, _)) = self.inbox.next::<Message>().map_err(lost)? {
                if let Message::Reply { sequence: 0, reply } = message {
                    return reply;
                }
            }
            self.turn().await.map_err(lost)?;
        }
    }

    /// Sends or receives something.
    async fn turn(&mut self) -> io::Result<()> {
        let interest = if self.outbox.size() > 0 {
            tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE
        } else {
            tokio::io::Interest::READABLE
        };
        let mut ready = self.socket.ready(interest).await?;
        let state = ready.ready();
        if state.is_writable() && self.outbox.size() > 0 && !self.outbox.flush(ready.get_inner())? {
            ready.clear_ready_matching(tokio::io::Ready::WRITABLE);
        }
        if state.is_readable() || state.is_read_closed() {
            match self.inbox.fill(ready.get_inner()) {
                Ok(true) => {}
                Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready_matching(tokio::io::Ready::READABLE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn lost(error: io::Error) -> ContainerError {
    ContainerError::Unreachable(format!("greet: {error}"))
}

impl Link {
    async fn run(mut self, mut wire: Wire) {
        loop {
            match self.serve(&mut wire).await {
                Ok(()) => return,
                Err(_) if self.finished => return,
                Err(error) => warn!(%error, "the supervisor is lost"),
            }
            for (_, (answer, _)) in self.pending.drain() {
                let _ = answer.send(Err(ContainerError::Unreachable(
                    "it was lost on the way; look and ask again".to_owned(),
                )));
            }
            let Some(again) = self.reconnect().await else { return };
            wire = again;
            info!("the supervisor is found again");
        }
    }

    /// Serves until the connection breaks (an error), or the last handle is gone.
    async fn serve(&mut self, wire: &mut Wire) -> io::Result<()> {
        loop {
            while let Some((message, descriptors)) = wire.inbox.next::<Message>()? {
                self.hear(wire, message, descriptors)?;
            }
            tokio::select! {
                turned = wire.turn() => turned?,
                call = self.calls.recv() => match call {
                    Some(call) => self.send(wire, call)?,
                    None => return Ok(()),
                },
            }
        }
    }

    fn send(&mut self, wire: &mut Wire, call: Call) -> io::Result<()> {
        self.sequence += 1;
        let mut exec_id = None;
        match call.watch {
            Some(Watch::Workload { id, code }) => self.workloads.entry(id).or_default().push(code),
            Some(Watch::Exec { id, exec, code }) => {
                exec_id = Some(exec.clone());
                self.execs.insert(exec, (id, code));
            }
            None => {}
        }
        let envelope = Envelope { sequence: self.sequence, request: call.request };
        match wire.outbox.push(&envelope, call.descriptors) {
            Ok(()) => drop(self.pending.insert(self.sequence, (call.answer, exec_id))),
            Err(error) => drop(call.answer.send(Err(ContainerError::runtime("send request", &error)))),
        }
        Ok(())
    }

    fn hear(&mut self, wire: &mut Wire, message: Message, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        match message {
            Message::Reply { sequence, reply } => {
                if let Some((answer, exec)) = self.pending.remove(&sequence) {
                    if let (Some(exec), Err(_)) = (exec, &reply) {
                        self.execs.remove(&exec);
                    }
                    let _ = answer.send(reply.map(|reply| (reply, descriptors)));
                }
            }
            Message::Exited { id, exit } => {
                for code in self.workloads.remove(&id).unwrap_or_default() {
                    let _ = code.send(exit.code.unwrap_or(UNKNOWN));
                }
                let _ = self.events.send(SupervisorEvent::Exited(id, exit));
            }
            Message::ExecExited { exec, code } => self.exec_ended(wire, exec, code)?,
            Message::ShuttingDown => self.finished = true,
        }
        Ok(())
    }

    fn exec_ended(&mut self, wire: &mut Wire, exec: String, code: i32) -> io::Result<()> {
        let Some((id, sender)) = self.execs.remove(&exec) else { return Ok(()) };
        let _ = sender.send(code);
        self.sequence += 1;
        let request = Request::ForgetExec { id, exec };
        wire.outbox.push(&Envelope { sequence: self.sequence, request }, Vec::new())
    }

    /// Connects again and finds out what ended meanwhile. `None` when nobody wants it any more.
    async fn reconnect(&mut self) -> Option<Wire> {
        loop {
            match self.try_to_reconnect().await {
                Ok(wire) => return Some(wire),
                Err(error) => warn!(%error, "connecting to the supervisor failed"),
            }
            // Long enough: tell those who wait.
            loop {
                match self.calls.try_recv() {
                    Ok(call) => drop(
                        call.answer.send(Err(ContainerError::Unreachable("it cannot be started".to_owned()))),
                    ),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return None,
                }
            }
            if self.calls.is_closed() {
                return None;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn try_to_reconnect(&mut self) -> Result<Wire, ContainerError> {
        let lost = |error: io::Error| ContainerError::Unreachable(format!("list: {error}"));
        let mut wire = Wire::open(&self.options, false).await?;
        self.sequence += 1;
        let sequence = self.sequence;
        wire.outbox.push(&Envelope { sequence, request: Request::List }, Vec::new()).map_err(lost)?;
        loop {
            match wire.inbox.next::<Message>().map_err(lost)? {
                Some((Message::Reply { sequence: answered, reply }, _)) if answered == sequence => {
                    if let Reply::List { workloads, execs } = reply? {
                        self.catch_up(&mut wire, &workloads, execs).map_err(lost)?;
                    }
                    let _ = self.events.send(SupervisorEvent::Reconnected);
                    return Ok(wire);
                }
                Some((message, descriptors)) => self.hear(&mut wire, message, descriptors).map_err(lost)?,
                None => wire.turn().await.map_err(lost)?,
            }
        }
    }

    fn catch_up(
        &mut self,
        wire: &mut Wire,
        workloads: &[crate::workload::WorkloadState],
        execs: Vec<crate::protocol::ExecState>,
    ) -> io::Result<()> {
        for state in workloads {
            if let Some(exit) = &state.exit {
                for code in self.workloads.remove(&state.id).unwrap_or_default() {
                    let _ = code.send(exit.code.unwrap_or(UNKNOWN));
                }
            }
        }
        let known = |id: &String| workloads.iter().any(|state| state.id == *id);
        self.workloads.retain(|id, _| known(id));
        let lost: Vec<String> =
            self.execs.keys().filter(|exec| execs.iter().all(|one| one.exec != **exec)).cloned().collect();
        for exec in lost {
            // Its container is gone, or it was never made.
            if let Some((_, code)) = self.execs.remove(&exec) {
                let _ = code.send(UNKNOWN);
            }
        }
        for exec in execs {
            if let Some(code) = exec.code {
                self.exec_ended(wire, exec.exec, code)?;
            }
        }
        Ok(())
    }
}
