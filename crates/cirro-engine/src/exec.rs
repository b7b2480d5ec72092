//! Commands in running containers. Their records live in memory and go with their container.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use cirro_container::{ContainerError, ExecProcess, Stdio};
use cirro_seams::container::{Container, Phase};
use cirro_seams::node::{ExecRequest, Session};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::containers::is_active;
use crate::error::{EngineError, ended_early, io};
use crate::spec::document::exec_process;
use crate::spec::users::{self, User};
use crate::{Engine, names};

/// Ended instances are forgotten, the oldest first, beyond this many.
const KEPT: usize = 1024;
/// Clients start what they have made at once, so the user is looked up meanwhile. Who starts later gets the files as they are then.
const AT_ONCE: Duration = Duration::from_millis(200);

/// An exec instance.
#[derive(Debug, Clone)]
pub struct Exec {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its container.
    pub container: String,
    /// What it runs.
    pub request: ExecRequest,
    /// Whether it runs.
    pub running: bool,
    /// Once it ended.
    pub exit_code: Option<i32>,
    /// On the host.
    pub pid: Option<i32>,
}

/// An instance that is about to be started.
#[derive(Debug)]
pub struct ClaimedExec {
    exec: Exec,
    size: Option<(u16, u16)>,
    looked_up: Option<LookedUp>,
}

/// An instance and how to reach its terminal.
struct Entry {
    exec: Exec,
    number: u64,
    started: bool,
    resize: Option<mpsc::Sender<(u16, u16)>>,
    /// Size told before the start.
    size: Option<(u16, u16)>,
    /// Its user, for a start that follows at once.
    looked_up: Option<LookedUp>,
}

/// A user that is being looked up in a container.
#[derive(Debug)]
struct LookedUp {
    /// The container's first process.
    pid: i32,
    since: Instant,
    user: JoinHandle<Result<User, EngineError>>,
}

/// Every exec instance.
#[derive(Default)]
pub(crate) struct Execs {
    by_id: HashMap<String, Entry>,
    next: u64,
}

impl Execs {
    fn insert(&mut self, exec: Exec, looked_up: Option<LookedUp>) {
        if self.by_id.len() >= KEPT {
            let ended = self.by_id.values().filter(|entry| !entry.exec.running);
            let oldest = ended.min_by_key(|entry| entry.number).map(|entry| entry.exec.id.clone());
            if let Some(id) = oldest {
                self.by_id.remove(&id);
            }
        }
        self.next += 1;
        let number = self.next;
        let entry = Entry { number, started: false, resize: None, size: None, looked_up, exec };
        self.by_id.insert(entry.exec.id.clone(), entry);
    }
}

fn unknown(id: &str) -> EngineError {
    EngineError::NotFound(format!("No such exec instance: {id}"))
}

/// Refuses a container that cannot run a command now, in docker's words.
fn check_running(container: &Container) -> Result<i32, EngineError> {
    match (container.phase, container.pid) {
        (Phase::Paused, _) => Err(EngineError::Conflict(format!(
            "Container {} is paused, unpause the container before exec",
            container.id
        ))),
        (Phase::Restarting, _) => Err(EngineError::Conflict(format!(
            "Container {} is restarting, wait until the container is running",
            container.id
        ))),
        (phase, Some(pid)) if is_active(phase) => Ok(pid),
        _ => Err(EngineError::Conflict(format!("container {} is not running", container.id))),
    }
}

impl Engine {
    fn execs(&self) -> std::sync::MutexGuard<'_, Execs> {
        self.shared.execs.lock().expect("no panic while it is held")
    }

    /// Makes an exec instance; returns its id.
    pub async fn create_exec(&self, container: &str, request: ExecRequest) -> Result<String, EngineError> {
        let container = self.container(container)?;
        let pid = check_running(&container)?;
        if request.command.first().is_none_or(String::is_empty) {
            return Err(EngineError::Invalid("No exec command specified".into()));
        }
        let id = names::new_id()?;
        let looked_up = LookedUp { pid, since: Instant::now(), user: look_up(&container, &request, pid) };
        let action = format!("exec_create: {}", request.command.join(" "));
        let exec = Exec {
            id: id.clone(),
            container: container.id.clone(),
            request,
            running: false,
            exit_code: None,
            pid: None,
        };
        self.execs().insert(exec, Some(looked_up));
        self.emit_container(&action, &container, &[("execID", id.clone())]);
        Ok(id)
    }

    /// Starts it; the session carries its streams.
    pub async fn start_exec(&self, id: &str) -> Result<Session, EngineError> {
        self.run_claimed(self.claim_exec(id)?).await
    }

    /// Takes an instance for its one start, or says why it cannot be started.
    pub fn claim_exec(&self, id: &str) -> Result<ClaimedExec, EngineError> {
        let container = self.exec(id)?.container;
        self.look_at(&container, check_running)??;
        let mut execs = self.execs();
        let entry = execs.by_id.get_mut(id).ok_or_else(|| unknown(id))?;
        if entry.started {
            let text = format!("Error: Exec command {id} is already running or has already run");
            return Err(EngineError::Conflict(text));
        }
        entry.started = true;
        entry.exec.running = true;
        Ok(ClaimedExec { exec: entry.exec.clone(), size: entry.size, looked_up: entry.looked_up.take() })
    }

    /// Runs what was claimed. One that fails has ended with 126 or 127.
    pub async fn run_claimed(&self, claimed: ClaimedExec) -> Result<Session, EngineError> {
        let ClaimedExec { exec, size, looked_up } = claimed;
        self.run_exec(&exec, size, looked_up).await.map_err(|(error, code)| {
            self.note_exec_end(&exec.id, code);
            error
        })
    }

    async fn run_exec(
        &self,
        exec: &Exec,
        size: Option<(u16, u16)>,
        looked_up: Option<LookedUp>,
    ) -> Result<Session, (EngineError, i32)> {
        let failed = |error: EngineError| (error, 126);
        let container = self.container(&exec.container).map_err(failed)?;
        let pid = check_running(&container).map_err(failed)?;
        let fresh = |one: &LookedUp| one.pid == pid && one.since.elapsed() < AT_ONCE;
        let user = match looked_up.filter(fresh) {
            Some(one) => one.user,
            None => look_up(&container, &exec.request, pid),
        };
        let user = user.await.map_err(|error| failed(ended_early(&error)))?.map_err(failed)?;
        let process = exec_process(&container, &exec.request, &user, &self.shared.host).map_err(failed)?;
        let request = ExecProcess {
            process,
            stdio: Stdio { tty: exec.request.tty, stdin: exec.request.stdin, stdin_once: true, size },
        };
        let started = self.shared.supervisor.exec(&container.id, request).await;
        let (pid, mut session) = started.map_err(exec_failure)?;
        {
            let mut execs = self.execs();
            if let Some(entry) = execs.by_id.get_mut(&exec.id) {
                entry.exec.pid = Some(pid);
                entry.resize = Some(session.resize.clone());
            }
        }
        let action = format!("exec_start: {}", exec.request.command.join(" "));
        self.emit_container(&action, &container, &[("execID", exec.id.clone())]);
        session.exit = self.follow_exec(exec.id.clone(), container, session.exit);
        Ok(session)
    }

    /// Notes the end of a command before its session tells it.
    fn follow_exec(
        &self,
        id: String,
        container: Container,
        ended: oneshot::Receiver<i32>,
    ) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        let engine = self.clone();
        self.shared.tasks.spawn(async move {
            let ended = tokio::select! {
                code = ended => code.ok(),
                () = engine.shared.cancelled.cancelled() => return,
            };
            // A command that its container took with it tells nothing: it was killed.
            let code = ended.unwrap_or(137);
            engine.note_exec_end(&id, code);
            let attributes = [("execID", id), ("exitCode", code.to_string())];
            engine.emit_container("exec_die", &container, &attributes);
            let _ = sender.send(code);
        });
        receiver
    }

    fn note_exec_end(&self, id: &str, code: i32) {
        if let Some(entry) = self.execs().by_id.get_mut(id) {
            entry.exec.running = false;
            entry.exec.exit_code = Some(code);
            entry.resize = None;
        }
    }

    /// Sets the size of its terminal.
    pub async fn resize_exec(&self, id: &str, columns: u16, rows: u16) -> Result<(), EngineError> {
        let resize = {
            let mut execs = self.execs();
            let entry = execs.by_id.get_mut(id).ok_or_else(|| unknown(id))?;
            entry.size = Some((columns, rows));
            entry.resize.clone()
        };
        if let Some(resize) = resize {
            // A terminal that has just gone needs no size.
            let _ = resize.send((columns, rows)).await;
        }
        Ok(())
    }

    /// Returns it.
    pub fn exec(&self, id: &str) -> Result<Exec, EngineError> {
        self.execs().by_id.get(id).map(|entry| entry.exec.clone()).ok_or_else(|| unknown(id))
    }

    /// Lists the commands of a container that have not ended.
    pub fn execs_of(&self, container: &str) -> Vec<String> {
        let execs = self.execs();
        let open = |entry: &&Entry| entry.exec.exit_code.is_none() && entry.exec.container == container;
        let mut found: Vec<(u64, String)> =
            execs.by_id.values().filter(open).map(|entry| (entry.number, entry.exec.id.clone())).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// Forgets a command of our own.
    pub(crate) fn forget_exec(&self, id: &str) {
        self.execs().by_id.remove(id);
    }

    /// Kills a command of our own that takes too long; one that has ended is left alone.
    pub(crate) fn kill_exec(&self, id: &str) {
        let handle = self.execs().by_id.get(id).filter(|entry| entry.exec.running).and_then(|entry| {
            let pid = rustix::process::Pid::from_raw(entry.exec.pid?)?;
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
        });
        // Asked again with the handle in hand: as long as it runs its number is nobody else's.
        let runs = self.execs().by_id.get(id).is_some_and(|entry| entry.exec.running);
        if let Some(handle) = handle.filter(|_| runs) {
            let _ = rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::KILL);
        }
    }

    /// Forgets the commands of a container that is gone.
    pub(crate) fn forget_execs(&self, container: &str) {
        self.execs().by_id.retain(|_, entry| entry.exec.container != container);
    }
}

/// Puts the supervisor's refusal into docker's words, with docker's exit code.
fn exec_failure(error: ContainerError) -> (EngineError, i32) {
    let text = |why: String| {
        EngineError::Invalid(format!(
            "OCI runtime exec failed: exec failed: unable to start container process: {why}: unknown"
        ))
    };
    match error {
        ContainerError::CommandNotFound(why) => (text(why), 127),
        ContainerError::CommandNotExecutable(why) => (text(why), 126),
        error => (error.into(), 126),
    }
}

/// Finds a command's user, on a thread that may block.
fn look_up(container: &Container, request: &ExecRequest, pid: i32) -> JoinHandle<Result<User, EngineError>> {
    let wanted = request.user.clone().filter(|user| !user.is_empty());
    let wanted = wanted.unwrap_or_else(|| container.user.clone());
    let (ids, groups) = (container.spec.additional_gids.clone(), container.spec.additional_groups.clone());
    tokio::task::spawn_blocking(move || user_inside(pid, &wanted, &ids, &groups))
}

/// Finds a user by the files that a running container has now.
fn user_inside(pid: i32, user: &str, ids: &[u32], groups: &[String]) -> Result<User, EngineError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty())
        .map_err(|error| io("open the container's root")(error.into()))?;
    let read = |path: &str| -> Result<String, EngineError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
            Err(error) => return Err(io(format!("open {path} in the container"))(error.into())),
        };
        let mut bytes = Vec::new();
        if file.metadata().is_ok_and(|meta| meta.is_file()) {
            file.take(users::MAX_FILE).read_to_end(&mut bytes).map_err(io(format!("read {path}")))?;
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let group = read("etc/group")?;
    let mut found = users::resolve(user, ids, &read("etc/passwd")?, &group)?;
    users::add_groups(&mut found, groups, &group)?;
    Ok(found)
}
