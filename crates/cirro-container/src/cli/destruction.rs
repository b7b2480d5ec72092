//! Removing a container for good: its processes, its cgroups, its record.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::error::CliError;
use super::hooks;
use super::record::{Record, Status};
use super::store::Locked;
use crate::cgroup::Hierarchies;

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// A process that does not die of SIGKILL hangs in the kernel.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends all processes, removes the cgroups and forgets the container. Returns what its last hooks complained about.
pub(super) fn destroy(
    locked: Locked,
    record: &Record,
    hierarchies: &Hierarchies,
) -> Result<Vec<String>, CliError> {
    let group = hierarchies.group(&record.cgroup);
    let end = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    // There is no event for "the last process has left" that both versions of cgroups have.
    while let Err(error) = group.remove() {
        if Instant::now() > end {
            return Err(CliError::system("remove cgroups")(error));
        }
        let _ = group.set_frozen(false);
        group.signal_all(9);
        sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    let failures = hooks::run(&record.poststop, &record.state(Status::Stopped));
    locked.remove()?;
    Ok(failures)
}

/// Ends a container's first process and waits until it is gone.
pub(super) fn kill_and_wait(record: &Record, hierarchies: &Hierarchies) -> Result<(), CliError> {
    let group = hierarchies.group(&record.cgroup);
    group.signal_all(9);
    // What is frozen does not die before it is thawed.
    let _ = group.set_frozen(false);
    let Some((pid, start)) = record.process.filter(|(pid, start)| crate::process::exists(*pid, *start))
    else {
        return Ok(());
    };
    if crate::process::is_running(pid, start) {
        let _ = cirro_sys::process::send_signal(pid, 9);
    }
    let ended =
        crate::process::ends_within(pid, PATIENCE).map_err(CliError::system("wait for container's end"))?;
    if ended { Ok(()) } else { Err(CliError::State("container init still running".to_owned())) }
}
