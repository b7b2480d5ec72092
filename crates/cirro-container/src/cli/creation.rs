//! Making a container from a bundle: what `create` and `run` have in common.
//!
//! ```text
//!  record "creating" ─▶ runtime makes it ─▶ record "created" ─▶ terminal to its socket ─▶ pid file
//! ```
//! The record is there before anything else is, so that a call that dies halfway leaves what `delete --force` finds. A step that
//! fails takes back all before it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::bundle::Bundle;
use super::context::{Context, absolute, hierarchies};
use super::error::CliError;
use super::flags::Parsed;
use super::foreground::Helper;
use super::record::{Record, Status};
use super::store::{Locked, write_atomically};
use super::{destruction, hooks};
use crate::cgroup::Hierarchies;
use crate::made::Report;
use crate::runtime::{Made, Native, NewContainer, Root, RootChange, Runtime, Streams};

/// What the flags of `create` and `run` ask for.
#[derive(Debug)]
pub(super) struct Order {
    id: String,
    bundle: PathBuf,
    console_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    root_change: RootChange,
    session_keyring: bool,
    preserved: u32,
    /// Whether this process ends before the container does.
    pub(super) detached: bool,
}

impl Order {
    pub(super) fn of(parsed: &Parsed, detached: bool) -> Result<Self, CliError> {
        let path = |name| parsed.value(name).filter(|value| !value.is_empty()).map(absolute).transpose();
        Ok(Self {
            id: parsed.id()?.to_owned(),
            bundle: path("bundle")?.unwrap_or(absolute(".")?),
            console_socket: path("console-socket")?,
            pid_file: path("pid-file")?,
            root_change: if parsed.has("no-pivot") { RootChange::Move } else { RootChange::Pivot },
            session_keyring: !parsed.has("no-new-keyring"),
            preserved: preserved(parsed)?,
            detached,
        })
    }
}

/// How many descriptors the caller hands on: those it names and those of socket activation.
pub(super) fn preserved(parsed: &Parsed) -> Result<u32, CliError> {
    let named: u32 = parsed.number("preserve-fds")?.unwrap_or(0);
    let listening = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<u32>().ok()).unwrap_or(0);
    let count = named.saturating_add(listening);
    if count > 1024 {
        return Err(CliError::Usage(format!("cannot preserve {count} descriptors")));
    }
    Ok(count)
}

/// A container that waits for its start, and is still locked.
#[derive(Debug)]
pub(super) struct Creation {
    pub(super) locked: Locked,
    pub(super) record: Record,
    pub(super) hierarchies: Hierarchies,
    /// The terminal's master, for a terminal that nobody else takes.
    pub(super) terminal: Option<OwnedFd>,
}

/// Makes a container that waits for its start.
pub(super) fn make(context: &Context, order: &Order) -> Result<Creation, CliError> {
    let bundle = Bundle::load(&order.bundle)?;
    let terminal = bundle.spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    check_console(terminal, order.detached, order.console_socket.is_some())?;
    if context.store.load(&order.id).is_ok() {
        return Err(CliError::Exists);
    }
    let cgroup = bundle.cgroup(&order.id)?;
    let hierarchies = hierarchies()?;
    let others = hierarchies.group(&cgroup).processes().len();
    if others > 0 {
        return Err(CliError::State(format!("container's cgroup is not empty: {others} process(es) found")));
    }
    let locked = context.store.make(&order.id)?;
    let record = Record {
        oci_version: bundle.spec.version().clone(),
        id: order.id.clone(),
        rootfs: bundle.rootfs.clone(),
        created: crate::log::clock::now(),
        annotations: bundle.spec.annotations().clone().unwrap_or_default(),
        cgroup,
        process: None,
        started: false,
        owner: owner(),
        own_pid_namespace: bundle.has_own_pid_namespace(),
        poststart: bundle.poststart.clone(),
        poststop: bundle.poststop.clone(),
        bundle: bundle.path.clone(),
    };
    let mut creation = Creation { locked, record, hierarchies, terminal: None };
    match creation.complete(order, &bundle, terminal) {
        Ok(()) => Ok(creation),
        Err(error) => {
            let Creation { locked, record, hierarchies, .. } = creation;
            // Making it has put this process there, and everything there is ended now.
            hierarchies.group(&record.cgroup).leave();
            if let Err(failure) = destruction::destroy(locked, &record, &hierarchies) {
                context.report.warning(&format!("clean up: {}", crate::error::chain(&failure)));
            }
            Err(error)
        }
    }
}

fn owner() -> String {
    match rustix::process::geteuid().as_raw() {
        0 => "root".to_owned(),
        // Names would want the host's name service.
        uid => uid.to_string(),
    }
}

pub(super) fn check_console(terminal: bool, detached: bool, socket: bool) -> Result<(), CliError> {
    let text = match (terminal, detached, socket) {
        (true, true, false) => {
            "cannot allocate tty if the runtime will detach without setting console socket"
        }
        (false, _, true) | (_, false, true) => {
            "cannot use console socket if the runtime will not detach or allocate tty"
        }
        _ => return Ok(()),
    };
    Err(CliError::Usage(text.to_owned()))
}

impl Creation {
    fn complete(&mut self, order: &Order, bundle: &Bundle, terminal: bool) -> Result<(), CliError> {
        self.locked.save(&self.record)?;
        let work = || self.call_runtime(order, bundle, terminal);
        let (report, master) = if order.detached {
            let made = work()?;
            (Report::of(&made).map_err(CliError::Start)?, made.terminal)
        } else {
            Helper::run(work)?
        };
        self.record.process = Some((report.pid, report.start_time));
        self.locked.save(&self.record)?;
        self.terminal = master;
        if let Some(socket) = &order.console_socket {
            send_terminal(socket, self.terminal.take())?;
        }
        write_pid_file(order.pid_file.as_deref(), report.pid)
    }

    fn call_runtime(&self, order: &Order, bundle: &Bundle, terminal: bool) -> Result<Made, CliError> {
        if order.session_keyring {
            join_keyring(&self.record.id);
        }
        let spec = serde_json::to_string(&bundle.spec).expect("a spec is plain data");
        let container = NewContainer {
            id: &self.record.id,
            cgroup: &self.record.cgroup,
            hierarchies: &self.hierarchies,
            directory: &self.locked.directory,
            bundle: Some(&self.record.bundle),
            spec: &spec,
            root: Root::Directory(&self.record.rootfs),
            root_change: order.root_change,
            preserved: order.preserved,
            tty: terminal,
            size: bundle.spec.process().as_ref().and_then(size_of),
            streams: if terminal { Streams::default() } else { own_streams() },
        };
        Native::default().create(container).map_err(CliError::Start)
    }

    /// Lets the container's process go.
    pub(super) fn start(&mut self, context: &Context) -> Result<(), CliError> {
        start(context, &self.locked, &mut self.record, &self.hierarchies)
    }
}

/// Lets a made container's process go, and runs the hooks that wait for it.
pub(super) fn start(
    context: &Context,
    locked: &Locked,
    record: &mut Record,
    hierarchies: &Hierarchies,
) -> Result<(), CliError> {
    match record.status(hierarchies) {
        Status::Created => {}
        Status::Stopped => {
            return Err(CliError::State("cannot start a container that has stopped".to_owned()));
        }
        Status::Running => {
            return Err(CliError::State("cannot start an already running container".to_owned()));
        }
        other => {
            return Err(CliError::State(format!("cannot start a container in the {} state", other.name())));
        }
    }
    // Written first: a call that dies in between has started it, as far as anyone can tell.
    record.started = true;
    locked.save(record)?;
    if let Err(error) = Native::default().start(&record.id, &locked.directory) {
        record.started = false;
        locked.save(record)?;
        return Err(CliError::Start(error));
    }
    if !record.poststart.is_empty() {
        for failure in hooks::run(&record.poststart, &record.state(Status::Running)) {
            context.report.warning(&format!("poststart {failure}"));
        }
    }
    Ok(())
}

/// Leaves the caller's session keyring, whose keys are none of the container's business. Kernels without keyrings have none to
/// leave.
pub(super) fn join_keyring(id: &str) {
    let _ = cirro_sys::process::join_session_keyring(&format!("_ses.{id}"));
}

/// Copies of this process' own standard streams; one that is closed stays away.
pub(super) fn own_streams() -> Streams {
    let copy = |number| {
        let copied = rustix::io::fcntl_dupfd_cloexec(number, 3);
        copied.ok()
    };
    Streams {
        stdin: copy(rustix::stdio::stdin()),
        stdout: copy(rustix::stdio::stdout()),
        stderr: copy(rustix::stdio::stderr()),
    }
}

/// Columns and rows that a process asks for.
pub(super) fn size_of(process: &oci_spec::runtime::Process) -> Option<(u16, u16)> {
    let size = process.console_size()?;
    Some((u16::try_from(size.width()).ok()?, u16::try_from(size.height()).ok()?))
}

/// Sends a terminal's master to whoever listens, as runc does: its name with the descriptor.
pub(super) fn send_terminal(socket: &Path, terminal: Option<OwnedFd>) -> Result<(), CliError> {
    let terminal =
        terminal.ok_or_else(|| CliError::Bundle("console socket without a terminal".to_owned()))?;
    let flags = rustix::fs::fcntl_getfl(&terminal);
    // As callers expect it from runc: whoever reads it waits.
    flags
        .and_then(|flags| rustix::fs::fcntl_setfl(&terminal, flags - OFlags::NONBLOCK))
        .map_err(|error| CliError::system("prepare terminal")(error.into()))?;
    UnixStream::connect(socket)
        .and_then(|socket| cirro_sys::descriptors::send(&socket, b"/dev/ptmx", &[terminal.as_fd()]))
        .map(drop)
        .map_err(CliError::system("send terminal to console socket"))
}

/// Writes a pid where the caller wants it, whole or not at all.
pub(super) fn write_pid_file(path: Option<&Path>, pid: i32) -> Result<(), CliError> {
    let Some(path) = path else { return Ok(()) };
    write_atomically(path, pid.to_string().as_bytes())
        .map_err(|source| CliError::Write { path: path.to_owned(), source })
}
