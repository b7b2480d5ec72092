//! What guardian and supervisor say to each other, in packets of at most a few hundred bytes.
//!
//! | packet | from | meaning |
//! | --- | --- | --- |
//! | `K` name, descriptor | supervisor | keep this |
//! | `D` name | supervisor | forget it |
//! | `G` | supervisor | give me all |
//! | `T` size | supervisor | the record of the reaped is read up to here: empty it if it has not grown |
//! | `R` | supervisor | I am ready |
//! | `X` | supervisor | when I end, end too |
//!
//! A descriptor kept under the name `.executable` is what the guardian starts supervisors from.
//!
//! | packet | from | meaning |
//! | --- | --- | --- |
//! | `F` name, descriptor | guardian | one that was kept |
//! | `E` | guardian | that was all |
//! | `Z` line | guardian | a process was reaped (see [`Reaped`]) |

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cirro_sys::descriptors::{receive, send};

use super::reaped::Reaped;

const MAX_NAME: usize = 160;
pub(super) const MAX_PACKET: usize = 256;

/// The name of the executable that supervisors are started from, once one was upgraded.
pub(crate) const EXECUTABLE: &str = ".executable";

/// A name without allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    length: u8,
    bytes: [u8; MAX_NAME],
}

impl Key {
    pub(super) fn new(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_NAME];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Some(Self { length: name.len() as u8, bytes })
    }

    fn name(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// What the supervisor asks of the guardian.
pub(super) enum Order {
    Keep(Key, OwnedFd),
    Forget(Key),
    GiveAll,
    Truncate(u64),
    Ready,
    ShutDown,
}

impl Order {
    /// Receives one. `None` is the supervisor's end.
    pub(super) fn receive(link: &OwnedFd) -> io::Result<Option<Self>> {
        let (mut packet, mut descriptors) = ([0; MAX_PACKET], Vec::new());
        let length = receive(link, &mut packet, &mut descriptors)?;
        let Some((kind, rest)) = packet[..length].split_first() else { return Ok(None) };
        let order = match kind {
            b'K' => {
                Key::new(rest).zip(descriptors.pop()).map(|(key, descriptor)| Self::Keep(key, descriptor))
            }
            b'D' => Key::new(rest).map(Self::Forget),
            b'G' => Some(Self::GiveAll),
            b'T' => rest.try_into().ok().map(|bytes| Self::Truncate(u64::from_be_bytes(bytes))),
            b'R' => Some(Self::Ready),
            b'X' => Some(Self::ShutDown),
            _ => None,
        };
        order.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

pub(super) fn send_given(link: impl AsFd, key: &Key, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    send_named(link, b'F', key.name(), &[descriptor])
}

pub(super) fn send_given_all(link: impl AsFd) -> io::Result<()> {
    send(link, b"E", &[]).map(drop)
}

fn send_named(link: impl AsFd, kind: u8, name: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut packet = [kind; MAX_NAME + 1];
    packet.get_mut(1..=name.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name);
    send(link, &packet[..=name.len()], descriptors).map(drop)
}

/// The supervisor's end. When the guardian is gone the supervisor goes on without it.
#[derive(Debug)]
pub(crate) struct GuardianLink(OwnedFd);

impl GuardianLink {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Has a copy of a descriptor kept.
    pub(crate) fn keep(&self, name: &str, descriptor: impl AsFd) {
        let _ = send_named(&self.0, b'K', name.as_bytes(), &[descriptor.as_fd()]);
    }

    /// Has it forgotten.
    pub(crate) fn forget(&self, name: &str) {
        let _ = send_named(&self.0, b'D', name.as_bytes(), &[]);
    }

    pub(crate) fn ready(&self) {
        let _ = send(&self.0, b"R", &[]);
    }

    pub(crate) fn shut_down(&self) {
        let _ = send(&self.0, b"X", &[]);
    }

    /// The record of the reaped was read up to `size`.
    pub(crate) fn truncate(&self, size: u64) {
        let mut packet = *b"T........";
        packet[1..].copy_from_slice(&size.to_be_bytes());
        let _ = send(&self.0, &packet, &[]);
    }

    /// Takes copies of all that is kept, by name, and what was reaped meanwhile.
    pub(crate) fn take_all(&self) -> io::Result<(HashMap<String, OwnedFd>, Vec<Reaped>)> {
        send(&self.0, b"G", &[])?;
        let (mut kept, mut reaped) = (HashMap::new(), Vec::new());
        loop {
            let (mut packet, mut descriptors) = ([0; MAX_PACKET], Vec::new());
            let length = receive(&self.0, &mut packet, &mut descriptors)?;
            match packet[..length].split_first() {
                // The executable is the guardian's own business.
                Some((b'F', name)) if name == EXECUTABLE.as_bytes() => {}
                Some((b'F', name)) => {
                    kept.extend(std::str::from_utf8(name).ok().map(str::to_owned).zip(descriptors.pop()));
                }
                Some((b'Z', line)) => reaped.extend(Reaped::parse_sent(line).map(|(one, _)| one)),
                Some((b'E', _)) => return Ok((kept, reaped)),
                Some(_) => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Receives one message; `None` when the guardian is gone.
    pub(crate) fn next_reaped(&self) -> io::Result<Option<(Reaped, u64)>> {
        let (mut packet, mut descriptors) = ([0; MAX_PACKET], Vec::new());
        let length = receive(&self.0, &mut packet, &mut descriptors)?;
        match packet[..length].split_first() {
            Some((b'Z', line)) => Ok(Reaped::parse_sent(line)),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::super::keep::Keep;
    use super::*;

    #[test]
    fn what_was_kept_comes_back_by_name() {
        let (here, there) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("pair");
        let (link, mut keep) = (GuardianLink::new(here), Keep::new());
        let (reader, _writer) = io::pipe().expect("pipe");
        link.keep("one:o", &reader);
        link.keep("two:o", &reader);
        link.forget("two:o");
        for _ in 0..3 {
            match Order::receive(&there).expect("order") {
                Some(Order::Keep(key, descriptor)) => keep.put(key, descriptor),
                Some(Order::Forget(key)) => keep.remove(&key),
                _ => panic!("unexpected order"),
            }
        }
        let giver = std::thread::spawn(move || {
            assert!(matches!(Order::receive(&there), Ok(Some(Order::GiveAll))));
            keep.give_all(&there).expect("give");
        });
        let (kept, _) = link.take_all().expect("take");
        giver.join().expect("giver");
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["one:o"]);
    }
}
