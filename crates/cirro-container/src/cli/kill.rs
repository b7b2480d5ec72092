//! `kill`: sends a signal to a container's first process, or to all.

use super::context::{Context, hierarchies};
use super::error::CliError;
use super::flags::{Flag, Parsed};
use super::record::{Record, Status};
use crate::cgroup::Group;

const SIGKILL: i32 = 9;

pub(super) const FLAGS: &[Flag] =
    &[Flag::switch("all", "send the signal to all processes inside the container").short("a")];

pub(super) fn run(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    let record = context.store.load(parsed.id()?)?;
    let name = parsed.arguments.get(1).map_or("SIGTERM", String::as_str);
    let signal = cirro_types::signal::parse(name)
        .ok_or_else(|| CliError::Usage(format!("unknown signal {name:?}")))?;
    let hierarchies = hierarchies()?;
    let group = hierarchies.group(&record.cgroup);
    let status = record.status(&hierarchies);
    if parsed.has("all") {
        group.signal_all(signal);
        thaw_for(signal, status, &group);
        return Ok(0);
    }
    if status == Status::Stopped {
        // Without a pid namespace of its own the others outlive the first process.
        if signal == SIGKILL && !record.own_pid_namespace && !group.processes().is_empty() {
            group.signal_all(signal);
            return Ok(0);
        }
        return Err(CliError::NotRunning);
    }
    signal_first(&record, signal)?;
    if signal == SIGKILL && !record.own_pid_namespace {
        group.signal_all(signal);
    }
    thaw_for(signal, status, &group);
    Ok(0)
}

fn signal_first(record: &Record, signal: i32) -> Result<(), CliError> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let (pid, start) = record.process.ok_or(CliError::NotRunning)?;
    let pid = Pid::from_raw(pid).ok_or(CliError::NotRunning)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| CliError::NotRunning)?;
    // The number may be another's by now; behind the pidfd it can no longer change.
    if !crate::process::is_running(pid.as_raw_pid(), start) {
        return Err(CliError::NotRunning);
    }
    match cirro_sys::process::send_signal_to(&pidfd, signal) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            Err(CliError::NotRunning)
        }
        other => other.map_err(CliError::system("send signal")),
    }
}

/// What is frozen by a version 1 freezer does not die before it is thawed.
fn thaw_for(signal: i32, status: Status, group: &Group) {
    if signal == SIGKILL && status == Status::Paused {
        let _ = group.set_frozen(false);
    }
}
