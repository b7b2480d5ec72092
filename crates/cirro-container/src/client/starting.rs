//! Finding the supervisor's socket, and starting guardian and supervisor.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::ContainerError;
use crate::guardian::{directory, lock_file};
use crate::request::SupervisorOptions;
use crate::supervisor::SOCKET;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The guardian pauses a few seconds at most between two supervisors.
const ATTEMPTS: u32 = 40;
const END: Duration = Duration::from_secs(30);

/// Connects; starts a guardian when none lives, waits for its supervisor when one does.
pub(super) async fn connect(options: &SupervisorOptions) -> Result<UnixStream, ContainerError> {
    let mut pause = FIRST_PAUSE;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match open(&options.run_dir) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = Some(error),
        }
        if !guardian_lives(&options.run_dir) {
            start_guardian(options).await?;
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
    let reason = last.map(|error| error.to_string()).unwrap_or_default();
    Err(ContainerError::Unreachable(format!("connect: {reason}")))
}

/// Names the socket relative to its directory: the path of a run directory may be longer than a socket's name can be.
fn open(run_dir: &Path) -> io::Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory(run_dir), flags, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

fn guardian_lives(run_dir: &Path) -> bool {
    let Ok(lock) = File::open(lock_file(run_dir)) else { return false };
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
}

async fn start_guardian(options: &SupervisorOptions) -> Result<(), ContainerError> {
    let unreachable = |reason: String| ContainerError::Unreachable(format!("start guardian: {reason}"));
    let output = tokio::process::Command::new(&options.executable)
        .arg0("cirro")
        .arg("guardian")
        .arg("--run-dir")
        .arg(&options.run_dir)
        .args(["--name", &options.name])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .output()
        .await
        .map_err(|error| unreachable(format!("{}: {error}", options.executable.display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(unreachable(format!("{} ({})", said.trim(), output.status)))
}

/// Prepares to wait until the guardian has ended.
pub(super) fn watch_end(
    run_dir: &Path,
) -> Result<impl Future<Output = Result<(), ContainerError>> + use<>, ContainerError> {
    let lost =
        |error: &dyn std::fmt::Display| ContainerError::Unreachable(format!("wait for its end: {error}"));
    let lock = File::open(lock_file(run_dir)).map_err(|error| lost(&error))?;
    Ok(async move {
        // The guardian holds the lock as long as it lives, however it ends.
        let waiting =
            tokio::task::spawn_blocking(move || rustix::fs::flock(&lock, FlockOperation::LockShared));
        match tokio::time::timeout(END, waiting).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(lost(&error)),
            Ok(Err(error)) => Err(lost(&error)),
            Err(_) => Err(lost(&"it takes too long")),
        }
    })
}
