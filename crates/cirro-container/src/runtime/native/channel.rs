//! What a container's first process and the helper that makes it say to each other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::error::ContainerError;

/// Errors are text; longer ones are cut short.
const MAX_WORD: usize = 16 << 10;

/// What the process says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// It waits for the maps of its user namespace.
    Outside,
    /// It waits while hooks run that see its namespaces.
    Hooks,
    /// Descriptor: the terminal's master.
    Terminal,
    /// All is done; it waits for `start`.
    Ready,
    Failed(ContainerError),
}

/// Makes both ends.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// The process speaks.
pub(super) fn say(socket: impl AsFd, word: &Word, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(word)?;
    if bytes.len() > MAX_WORD {
        let short = Word::Failed(ContainerError::Runtime("the container failed at length".to_owned()));
        bytes = serde_json::to_vec(&short)?;
    }
    match descriptor {
        Some(_) => cirro_sys::descriptors::send(socket, &bytes, descriptor.as_slice()).map(drop),
        // A filter of system calls may be loaded already: every one allows `write`.
        None => Ok(rustix::io::write(socket, &bytes).map(drop)?),
    }
}

/// The helper hears; nothing when the process is gone.
pub(super) fn hear(socket: impl AsFd) -> io::Result<Option<(Word, Option<OwnedFd>)>> {
    let (mut buffer, mut descriptors) = (vec![0; MAX_WORD], Vec::new());
    let length = cirro_sys::descriptors::receive(socket, &mut buffer, &mut descriptors)?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..length])?, descriptors.pop())))
}

/// The helper answers with the process' id outside.
pub(super) fn answer(socket: impl AsFd, pid: i32) -> io::Result<()> {
    cirro_sys::descriptors::send(socket, &pid.to_ne_bytes(), &[]).map(drop)
}

/// Whether the helper is gone.
pub(super) fn is_alone(socket: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut ends = [PollFd::new(&socket, PollFlags::IN)];
    let _ = poll(&mut ends, Some(&rustix::time::Timespec::default()));
    ends[0].revents().contains(PollFlags::HUP)
}

/// The process waits for the answer.
pub(super) fn wait(socket: impl AsFd) -> io::Result<i32> {
    let mut pid = [0; 4];
    match rustix::io::read(socket, &mut pid)? {
        4 => Ok(i32::from_ne_bytes(pid)),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "who makes the container is gone")),
    }
}
