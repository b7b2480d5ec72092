//! The gate before a container's program: its process waits for `start` with nothing but a `read`.
//!
//! A named pipe, since whoever starts the container may be another process than the one that made it, and since every filter of system
//! calls allows `read`. The waiting process holds both ends, so a pipe that cannot be opened for writing has nobody behind it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::error::ContainerError;
use crate::runtime::WorkloadDirectory;

const NAME: &str = "gate";

/// Makes the gate and opens it for the process that will wait.
pub(super) fn make(directory: &WorkloadDirectory) -> io::Result<OwnedFd> {
    let path = directory.runtime().join(NAME);
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    Ok(rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Waits until somebody opens the gate.
pub(super) fn wait(gate: impl AsFd) -> io::Result<()> {
    loop {
        match rustix::io::read(&gate, &mut [0; 1]) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result.map(drop)?),
        }
    }
}

/// Opens the gate; `None` when the container has none, because the other way made it.
pub(super) fn open(directory: &WorkloadDirectory) -> Option<Result<(), ContainerError>> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory.runtime().join(NAME), flags, Mode::empty());
    let written = match opened {
        Err(rustix::io::Errno::NOENT) => return None,
        Err(rustix::io::Errno::NXIO) => {
            return Some(Err(ContainerError::State("the container's process has ended".to_owned())));
        }
        Err(error) => Err(error),
        Ok(gate) => rustix::io::write(gate, b"s").map(drop),
    };
    Some(written.map_err(|error| ContainerError::runtime("start", &io::Error::from(error))))
}
