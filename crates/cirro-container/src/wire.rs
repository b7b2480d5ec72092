//! Frames on the socket between daemon and supervisor: a length, a count of descriptors, JSON.
//!
//! Descriptors ride on the first byte of their frame, so they are there when the frame is complete.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use cirro_sys::process::inherited_descriptor;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A spec with a large seccomp profile and a full environment stays far below.
const MAX_FRAME: usize = 8 << 20;
const HEADER: usize = 5;

/// What arrived and is not yet a whole frame.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Inbox {
    /// Reads once. `Ok(false)` is end of file.
    pub(crate) fn fill(&mut self, socket: impl AsFd) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let mut descriptors = Vec::new();
        let length = cirro_sys::descriptors::receive(socket, &mut buffer, &mut descriptors)?;
        self.bytes.extend_from_slice(&buffer[..length]);
        self.descriptors.extend(descriptors);
        Ok(length > 0)
    }

    /// Takes the next whole frame, if there is one.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((header, _)) = self.bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let descriptors = usize::from(header[4]);
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
        }
        if self.bytes.len() < HEADER + length {
            return Ok(None);
        }
        if self.descriptors.len() < descriptors {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors of a frame are missing"));
        }
        let message = serde_json::from_slice(&self.bytes[HEADER..HEADER + length])?;
        self.bytes.drain(..HEADER + length);
        if self.bytes.is_empty() {
            // One large spec must not stay in memory for ever.
            self.bytes = Vec::new();
        }
        Ok(Some((message, self.descriptors.drain(..descriptors).collect())))
    }
}

impl Inbox {
    /// An inbox in which these bytes have arrived.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, descriptors: VecDeque::new() }
    }
}

/// An inbox on its way to another executable: bytes, numbers of descriptors.
pub(crate) type HandedInbox = (Vec<u8>, Vec<RawFd>);

impl Inbox {
    pub(crate) fn handed(&self) -> HandedInbox {
        (self.bytes.clone(), self.descriptors.iter().map(AsRawFd::as_raw_fd).collect())
    }

    /// Every descriptor that it holds.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.descriptors.iter().map(AsFd::as_fd)
    }

    /// Takes over what a predecessor in this process handed.
    pub(crate) fn taken((bytes, numbers): HandedInbox) -> io::Result<Self> {
        let descriptors = numbers.into_iter().map(inherited_descriptor).collect::<io::Result<_>>()?;
        Ok(Self { bytes, descriptors })
    }
}

struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

/// A frame on its way to another executable: bytes, how many are sent, numbers of descriptors.
pub(crate) type HandedFrame = (Vec<u8>, usize, Vec<RawFd>);

/// Frames that wait to be sent.
#[derive(Default)]
pub(crate) struct Outbox {
    frames: VecDeque<Outgoing>,
    size: usize,
}

impl Outbox {
    /// Queues a message.
    pub(crate) fn push<T: Serialize>(&mut self, message: &T, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let mut bytes = vec![0; HEADER];
        serde_json::to_writer(&mut bytes, message)?;
        let length = bytes.len() - HEADER;
        if length > MAX_FRAME || descriptors.len() > cirro_sys::descriptors::MAX_DESCRIPTORS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large"));
        }
        bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
        bytes[4] = descriptors.len() as u8;
        self.size += bytes.len();
        self.frames.push_back(Outgoing { bytes, sent: 0, descriptors });
        Ok(())
    }

    pub(crate) fn handed(&self) -> Vec<HandedFrame> {
        let numbers = |frame: &Outgoing| frame.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        self.frames.iter().map(|frame| (frame.bytes.clone(), frame.sent, numbers(frame))).collect()
    }

    /// Every descriptor that it holds.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.frames.iter().flat_map(|frame| frame.descriptors.iter().map(AsFd::as_fd))
    }

    /// Takes over what a predecessor in this process handed.
    pub(crate) fn taken(frames: Vec<HandedFrame>) -> io::Result<Self> {
        let mut outbox = Self::default();
        for (bytes, sent, numbers) in frames {
            let descriptors = numbers.into_iter().map(inherited_descriptor).collect::<io::Result<_>>()?;
            outbox.size += bytes.len().saturating_sub(sent);
            outbox.frames.push_back(Outgoing { bytes, sent, descriptors });
        }
        Ok(outbox)
    }

    /// Bytes that wait.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Sends what the socket takes; `WouldBlock` is no error. Returns whether nothing is left.
    pub(crate) fn flush(&mut self, socket: impl AsFd) -> io::Result<bool> {
        while let Some(frame) = self.frames.front_mut() {
            let borrowed: Vec<_> = frame.descriptors.iter().map(AsFd::as_fd).collect();
            match cirro_sys::descriptors::send(&socket, &frame.bytes[frame.sent..], &borrowed) {
                Ok(length) => {
                    frame.sent += length;
                    frame.descriptors.clear();
                    self.size -= length;
                    if frame.sent == frame.bytes.len() {
                        self.frames.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn frames_and_descriptors_arrive_in_order() {
        let (here, there) = UnixStream::pair().expect("pair");
        let (reader, _writer) = io::pipe().expect("pipe");
        let mut outbox = Outbox::default();
        outbox.push(&"first", vec![]).expect("push");
        outbox.push(&"second", vec![reader.into()]).expect("push");
        assert!(outbox.flush(&here).expect("flush"));
        assert_eq!(outbox.size(), 0);
        let mut inbox = Inbox::default();
        let mut got = Vec::new();
        while got.len() < 2 {
            assert!(inbox.fill(&there).expect("fill"));
            while let Some((text, descriptors)) = inbox.next::<String>().expect("frame") {
                got.push((text, descriptors.len()));
            }
        }
        assert_eq!(got, [("first".to_owned(), 0), ("second".to_owned(), 1)]);
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused() {
        let mut inbox = Inbox { bytes: vec![255, 255, 255, 255, 0], ..Inbox::default() };
        assert!(inbox.next::<String>().is_err());
    }
}
