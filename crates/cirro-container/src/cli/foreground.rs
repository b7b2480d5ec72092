//! Staying with a process until it ends: signals go on to it, its terminal is this process' terminal, its exit code is ours.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use cirro_sys::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::error::CliError;
use super::relay::Relay;
use crate::error::ContainerError;
use crate::made::{self, Report};
use crate::runtime::Made;

const SIGCHLD: i32 = 17;
const SIGWINCH: i32 = 28;
/// Everything that may be meant for the process. The rest is about this one (a reader that left, a child that ended) or
/// is raised by faults, which must not be blocked.
const FORWARDED: [i32; 16] = [1, 2, 3, 6, 10, 12, 14, 15, 18, 20, 21, 22, 24, 25, 29, 30];

/// A helper that makes what this process then waits for.
pub(super) struct Helper;

impl Helper {
    /// Runs the work in a child, so that this process does not end up in the container's cgroups; what the child makes becomes
    /// this process' child when it ends.
    pub(super) fn run(
        work: impl FnOnce() -> Result<Made, CliError>,
    ) -> Result<(Report, Option<OwnedFd>), CliError> {
        process::become_subreaper().map_err(CliError::system("become subreaper"))?;
        let pair =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(|error| CliError::system("make socket pair")(error.into()))?;
        let keep: Vec<i32> = preserved_numbers(&theirs);
        let pid = process::fork_child(&keep, || {
            process::die_with_parent();
            let result = work().map_err(|error| match error {
                CliError::Start(error) => error,
                other => ContainerError::Runtime(crate::error::chain(&other)),
            });
            made::send(&theirs, result);
            0
        })
        .map_err(CliError::system("fork"))?;
        drop(theirs);
        let received = made::receive(&ours).map_err(CliError::system("hear helper"))?;
        reap_helper(pid);
        let Some((result, terminal)) = received else {
            let error = ContainerError::Runtime("the helper ended without a report".to_owned());
            return Err(CliError::Start(error));
        };
        Ok((result.map_err(CliError::Start)?, terminal))
    }
}

/// The socket and whatever the caller handed on; the rest was closed when this process began.
fn preserved_numbers(socket: &OwnedFd) -> Vec<i32> {
    let mut numbers = vec![socket.as_raw_fd()];
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    numbers.extend(open.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()));
    numbers
}

fn reap_helper(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid);
    while let Err(rustix::io::Errno::INTR) =
        rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())
    {}
}

/// Blocks the signals that [`wait`] hears. Called before the process is made, so that none is missed.
pub(super) fn listen() -> Result<OwnedFd, CliError> {
    let mut signals = vec![SIGCHLD, SIGWINCH];
    signals.extend(FORWARDED);
    signals.extend(34..=64);
    process::signal_descriptor(&signals).map_err(CliError::system("listen for signals"))
}

/// Waits for a process' end and returns its exit code.
pub(super) fn wait(pid: i32, signals: &OwnedFd, terminal: Option<OwnedFd>) -> Result<i32, CliError> {
    let mut relay = terminal.map(Relay::new).transpose().map_err(CliError::system("relay terminal"))?;
    let code = wait_and_relay(pid, signals, relay.as_mut()).map_err(CliError::system("wait for process"))?;
    if let Some(relay) = &mut relay {
        relay.drain();
    }
    Ok(code)
}

fn wait_and_relay(pid: i32, signals: &OwnedFd, mut relay: Option<&mut Relay>) -> io::Result<i32> {
    loop {
        if let Some(code) = reap(pid)? {
            return Ok(code);
        }
        let mut waited = vec![PollFd::new(signals, PollFlags::IN)];
        if let Some(relay) = &relay {
            waited.extend(
                relay.interests().map(|(descriptor, flags): (BorrowedFd<'_>, _)| {
                    PollFd::from_borrowed_fd(descriptor, flags)
                }),
            );
        }
        match poll(&mut waited, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let relayed = waited[1..].iter().any(|one| !one.revents().is_empty());
        drop(waited);
        while let Some(signal) = process::next_signal(signals) {
            match signal {
                SIGCHLD => {}
                SIGWINCH => relay.iter_mut().for_each(|relay| relay.resize()),
                signal => drop(process::send_signal(pid, signal)),
            }
        }
        if let Some(relay) = relay.as_mut().filter(|_| relayed) {
            relay.turn();
        }
    }
}

/// Reaps every child that ended; the exit code if it is the one that is waited for.
fn reap(pid: i32) -> io::Result<Option<i32>> {
    while let Some(ended) = process::peek_ended_child()? {
        process::reap(ended.pid);
        if ended.pid == pid {
            return Ok(Some(ended.code));
        }
    }
    Ok(None)
}
