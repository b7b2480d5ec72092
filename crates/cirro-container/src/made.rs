//! Carries what a helper made, or why not, from the helper to whoever started it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::error::ContainerError;
use crate::runtime::Made;

/// Bytes of a report; longer errors are cut short.
const MAX_REPORT: usize = 16 << 10;

/// The process that was made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
}

impl Report {
    /// Looks at a process that was just made.
    pub(crate) fn of(made: &Made) -> Result<Self, ContainerError> {
        let start_time = crate::process::start_time(made.pid)
            .map_err(|error| ContainerError::runtime("look at new process", &error))?;
        Ok(Self { pid: made.pid, start_time })
    }
}

/// In the helper: tells how it went. A terminal goes along.
pub(crate) fn send(socket: &OwnedFd, result: Result<Made, ContainerError>) {
    let result = result.and_then(|made| Ok((Report::of(&made)?, made.terminal)));
    let (report, terminal) = match result {
        Ok((report, terminal)) => (Ok(report), terminal),
        Err(error) => (Err(error), None),
    };
    let descriptors: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    let mut bytes = serde_json::to_vec(&report).unwrap_or_default();
    if bytes.len() > MAX_REPORT {
        let short = Err::<Report, _>(ContainerError::Runtime("the runtime failed at length".to_owned()));
        bytes = serde_json::to_vec(&short).unwrap_or_default();
    }
    let _ = cirro_sys::descriptors::send(socket, &bytes, &descriptors);
}

/// How it went, and the terminal of what was made.
pub(crate) type Told = (Result<Report, ContainerError>, Option<OwnedFd>);

/// Reads a helper's report; nothing when it closed its end without one.
pub(crate) fn receive(socket: &OwnedFd) -> io::Result<Option<Told>> {
    let (mut buffer, mut descriptors) = (vec![0; MAX_REPORT], Vec::new());
    let length = cirro_sys::descriptors::receive(socket, &mut buffer, &mut descriptors)?;
    if length == 0 {
        return Ok(None);
    }
    let result = serde_json::from_slice(&buffer[..length])
        .unwrap_or_else(|error| Err(ContainerError::runtime("read helper's report", &error)));
    Ok(Some((result, descriptors.pop())))
}
