//! `cirro down`: stops the daemon, with `--workloads` also what it runs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cli::say;
use crate::config::{Config, Place};
use crate::control::{self, Stopping};
use crate::{daemon, up};

/// How long a daemon may take to end hundreds of workloads.
const PATIENCE: Duration = Duration::from_secs(300);

/// Stops the daemon; ends the workloads itself when there is no daemon to do it.
pub(crate) fn run(place: &Place, workloads: bool) -> anyhow::Result<ExitCode> {
    let config = Config::of_run_dir(place)?;
    let path = if workloads { "/down?workloads=true" } else { "/down" };
    match control::ask::<Stopping>(&config.control_socket(), "POST", path)? {
        Some(stopping) => wait_for_end(stopping.pid)?,
        None if workloads => end_workloads(config)?,
        None => say(&format!("cloud {}: the daemon is not running\n", config.name))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn wait_for_end(pid: u32) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("the daemon's process id")?;
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error).context("wait for the daemon"),
    };
    let timeout = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))? == 0 {
        bail!("the daemon (process {}) has not ended after {} s", pid.as_raw_nonzero(), PATIENCE.as_secs());
    }
    Ok(())
}

fn end_workloads(config: Config) -> anyhow::Result<()> {
    let lock = up::lock(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(daemon::tear_down(config));
    drop(lock);
    result
}
