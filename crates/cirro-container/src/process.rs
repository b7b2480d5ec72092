//! What `/proc` says of a process, and the working directory of ours.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Changes the working directory. For guardian, supervisor and helpers only: each of them is a process with one thread.
pub(crate) fn enter_directory(path: impl AsRef<std::path::Path>) -> io::Result<()> {
    Ok(rustix::process::chdir(path.as_ref())?)
}

/// Clock ticks since boot when the process started; with the pid it names a process for good.
pub(crate) fn start_time(pid: i32) -> io::Result<u64> {
    stat(pid).map(|(_, start)| start)
}

/// Whether this very process still runs (a zombie does not).
pub(crate) fn is_running(pid: i32, start: u64) -> bool {
    stat(pid).is_ok_and(|(state, started)| started == start && !matches!(state, b'Z' | b'X'))
}

/// Whether this very process still exists, if only as a zombie.
pub(crate) fn exists(pid: i32, start: u64) -> bool {
    stat(pid).is_ok_and(|(_, started)| started == start)
}

/// Waits for a process' end, whosever child it is; false when the time is over first.
pub(crate) fn ends_within(pid: i32, patience: Duration) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(true) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        other => other?,
    };
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

fn stat(pid: i32) -> io::Result<(u8, u64)> {
    parse(&std::fs::read(format!("/proc/{pid}/stat"))?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected form of /proc/PID/stat"))
}

fn parse(stat: &[u8]) -> Option<(u8, u64)> {
    // The second field is the name in brackets, which may hold anything; the last bracket ends it.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat.get(end + 2..)?.split(|byte| *byte == b' ');
    let state = *fields.next()?.first()?;
    let start = std::str::from_utf8(fields.nth(18)?).ok()?.parse().ok()?;
    Some((state, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_do_not_confuse() {
        let stat = b"7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4321 0 0\n";
        assert_eq!(parse(stat), Some((b'S', 4321)));
        assert_eq!(parse(b"nonsense"), None);
    }

    #[test]
    fn this_process_runs() {
        let pid = std::process::id() as i32;
        let start = start_time(pid).expect("stat");
        assert!(is_running(pid, start) && exists(pid, start));
        assert!(!exists(pid, start + 1));
    }
}
