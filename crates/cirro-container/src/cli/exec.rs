//! `exec`: runs a command in a container.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};

use super::context::{Context, absolute, hierarchies};
use super::creation::{own_streams, preserved, send_terminal, size_of, write_pid_file};
use super::error::CliError;
use super::flags::{Flag, Parsed};
use super::foreground::{self, Helper};
use super::record::{Record, Status};
use super::store::read_bounded;
use crate::cgroup::Hierarchies;
use crate::made::Report;
use crate::runtime::{Made, Native, NewExec, Runtime, Streams, WorkloadDirectory};

const MAX_PROCESS: u64 = 16 << 20;

pub(super) const FLAGS: &[Flag] = &[
    Flag::value("console-socket", "PATH", "path to a socket that receives the console's pseudoterminal"),
    Flag::value("cwd", "DIR", "current working directory in the container"),
    Flag::value("env", "NAME=VALUE", "set environment variables, may be repeated").short("e"),
    Flag::switch("tty", "allocate a pseudo-TTY").short("t"),
    Flag::value("user", "UID[:GID]", "user and group ids").short("u"),
    Flag::value("additional-gids", "GID", "additional group ids, may be repeated").short("g"),
    Flag::value("process", "FILE", "path to the process.json").short("p"),
    Flag::switch("detach", "detach from the container's process").short("d"),
    Flag::value("pid-file", "FILE", "file to write the process id to"),
    Flag::value("process-label", "LABEL", "set the asm process label for the process"),
    Flag::value("apparmor", "PROFILE", "set the apparmor profile for the process"),
    Flag::switch("no-new-privs", "set the no new privileges value for the process"),
    Flag::value("cap", "CAPABILITY", "add a capability to the bounding set, may be repeated").short("c"),
    Flag::value("preserve-fds", "N", "pass N additional file descriptors to the process"),
    Flag::value("cgroup", "PATH", "not supported: the process runs in the container's own cgroup"),
    Flag::switch("ignore-paused", "allow exec in a paused container"),
];

pub(super) fn run(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    let order = Order::of(context, parsed)?;
    if order.detached {
        let made = order.call_runtime()?;
        let report = Report::of(&made).map_err(CliError::Start)?;
        order.hand_out(report.pid, made.terminal)?;
        return Ok(0);
    }
    let signals = foreground::listen()?;
    let (report, terminal) = Helper::run(|| order.call_runtime())?;
    let terminal = order.hand_out(report.pid, terminal)?;
    foreground::wait(report.pid, &signals, terminal)
}

struct Order {
    record: Record,
    hierarchies: Hierarchies,
    directory: WorkloadDirectory,
    process: Process,
    terminal: bool,
    console_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    preserved: u32,
    detached: bool,
}

impl Order {
    fn of(context: &Context, parsed: &Parsed) -> Result<Self, CliError> {
        let id = parsed.id()?;
        let record = context.store.load(id)?;
        let hierarchies = hierarchies()?;
        match record.status(&hierarchies) {
            Status::Stopped | Status::Creating => {
                return Err(CliError::State("cannot exec in a stopped container".to_owned()));
            }
            Status::Paused if !parsed.has("ignore-paused") => {
                let text = "cannot exec in a paused container (use --ignore-paused to override)";
                return Err(CliError::State(text.to_owned()));
            }
            _ => {}
        }
        if parsed.value("cgroup").is_some_and(|path| !path.is_empty() && path != "/") {
            return Err(CliError::Usage("--cgroup is not supported".to_owned()));
        }
        let directory = WorkloadDirectory::new(context.store.root(), id);
        let process = match parsed.value("process") {
            Some(path) => read_process(&absolute(path)?)?,
            None => described_process(parsed, &directory)?,
        };
        check(&process)?;
        let path = |name| parsed.value(name).filter(|value| !value.is_empty()).map(absolute).transpose();
        Ok(Self {
            terminal: process.terminal().unwrap_or(false),
            console_socket: path("console-socket")?,
            pid_file: path("pid-file")?,
            preserved: preserved(parsed)?,
            detached: parsed.has("detach"),
            record,
            hierarchies,
            directory,
            process,
        })
    }

    fn call_runtime(&self) -> Result<Made, CliError> {
        super::creation::check_console(self.terminal, self.detached, self.console_socket.is_some())?;
        let exec = NewExec {
            keyring: Some(&self.record.id),
            pid: self.record.process.map_or(0, |(pid, _)| pid),
            cgroup: &self.record.cgroup,
            hierarchies: &self.hierarchies,
            directory: &self.directory,
            process: self.process.clone(),
            preserved: self.preserved,
            tty: self.terminal,
            size: size_of(&self.process),
            streams: if self.terminal { Streams::default() } else { own_streams() },
        };
        Native::default().exec(exec).map_err(CliError::Start)
    }

    /// Gives the caller what it asked for; the terminal comes back if nobody took it.
    fn hand_out(
        &self,
        pid: i32,
        terminal: Option<std::os::fd::OwnedFd>,
    ) -> Result<Option<std::os::fd::OwnedFd>, CliError> {
        write_pid_file(self.pid_file.as_deref(), pid)?;
        match &self.console_socket {
            Some(socket) => send_terminal(socket, terminal).map(|()| None),
            None => Ok(terminal),
        }
    }
}

fn read_process(path: &Path) -> Result<Process, CliError> {
    let bytes =
        read_bounded(path, MAX_PROCESS).map_err(|source| CliError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| CliError::Parse { path: path.to_owned(), source })
}

/// The container's own process, changed as the flags say.
fn described_process(parsed: &Parsed, directory: &WorkloadDirectory) -> Result<Process, CliError> {
    let spec = directory.bundle().join("config.json");
    let bytes =
        read_bounded(&spec, MAX_PROCESS).map_err(|source| CliError::Read { path: spec.clone(), source })?;
    let spec: Spec =
        serde_json::from_slice(&bytes).map_err(|source| CliError::Parse { path: spec, source })?;
    let mut process = spec
        .process()
        .clone()
        .ok_or_else(|| CliError::Bundle("process property must not be empty".to_owned()))?;
    let args = &parsed.arguments[1..];
    let args = args.strip_prefix(&["--".to_owned()]).unwrap_or(args);
    process.set_args(Some(args.to_vec())).set_terminal(Some(parsed.has("tty")));
    if let Some(cwd) = parsed.value("cwd").filter(|cwd| !cwd.is_empty()) {
        process.set_cwd(cwd.into());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(parsed.values("env").map(str::to_owned));
    process.set_env(Some(env));
    if parsed.has("no-new-privs") {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(label) = parsed.value("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if let Some(profile) = parsed.value("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    set_user(&mut process, parsed)?;
    add_capabilities(&mut process, parsed)?;
    Ok(process)
}

fn set_user(process: &mut Process, parsed: &Parsed) -> Result<(), CliError> {
    let number = |text: &str| {
        text.parse::<u32>().map_err(|_| CliError::Usage(format!("parsing {text:?} as a user or group id")))
    };
    let mut user = process.user().clone();
    if let Some(text) = parsed.value("user").filter(|text| !text.is_empty()) {
        let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
        user.set_uid(number(uid)?);
        if let Some(gid) = gid {
            user.set_gid(number(gid)?);
        }
    }
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for group in parsed.values("additional-gids") {
        groups.push(number(group)?);
    }
    user.set_additional_gids(Some(groups));
    process.set_user(user);
    Ok(())
}

fn add_capabilities(process: &mut Process, parsed: &Parsed) -> Result<(), CliError> {
    let parse = |name: &str| {
        serde_json::from_value::<Capability>(serde_json::Value::from(name))
            .map_err(|_| CliError::Usage(format!("unknown capability {name:?}")))
    };
    let added = parsed.values("cap").map(parse).collect::<Result<Vec<_>, _>>()?;
    if added.is_empty() {
        return Ok(());
    }
    let mut all: LinuxCapabilities = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<oci_spec::runtime::Capabilities>| {
        Some(set.iter().flatten().copied().chain(added.iter().copied()).collect())
    };
    let (bounding, effective, permitted) =
        (with(all.bounding()), with(all.effective()), with(all.permitted()));
    all.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    process.set_capabilities(Some(all));
    Ok(())
}

fn check(process: &Process) -> Result<(), CliError> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(CliError::Usage("process args cannot be empty".to_owned()));
    }
    if !process.cwd().is_absolute() {
        return Err(CliError::Usage("Cwd must be an absolute path".to_owned()));
    }
    Ok(())
}
