//! `pause` and `resume`: freezes a container's processes and lets them go on.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::context::{Context, hierarchies};
use super::error::CliError;
use super::flags::Parsed;
use super::record::Status;

/// Processes freeze when they next return from the kernel.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

pub(super) fn pause(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    let locked = context.store.lock(parsed.id()?)?;
    let (record, hierarchies) = (locked.load()?, hierarchies()?);
    match record.status(&hierarchies) {
        Status::Created | Status::Running => {}
        status => {
            return Err(CliError::State(format!("container not running or created: {}", status.name())));
        }
    }
    let group = hierarchies.group(&record.cgroup);
    group.set_frozen(true).map_err(CliError::system("freeze cgroup"))?;
    let end = Instant::now() + PATIENCE;
    // The version 1 freezer tells nobody when it is done.
    while !group.is_frozen() {
        if Instant::now() > end {
            group.set_frozen(false).map_err(CliError::system("thaw cgroup"))?;
            return Err(CliError::State("unable to freeze".to_owned()));
        }
        sleep(PAUSE);
    }
    Ok(0)
}

pub(super) fn resume(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    let locked = context.store.lock(parsed.id()?)?;
    let (record, hierarchies) = (locked.load()?, hierarchies()?);
    if record.status(&hierarchies) != Status::Paused {
        return Err(CliError::State("container not paused".to_owned()));
    }
    hierarchies.group(&record.cgroup).set_frozen(false).map_err(CliError::system("thaw cgroup"))?;
    Ok(0)
}
