//! Those who watch a workload's streams, each over a socket of its own.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use cirro_sys::process::inherited_descriptor;
use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::event_loop::{EventLoop, Source};
use super::outputs::MOST_INPUT;
use crate::error::ContainerError;
use crate::protocol::{Reply, chunk};

/// At this the workload is no longer read; docker's own limit.
const FULL: usize = 1 << 20;
const ROOM: usize = FULL / 2;

pub(super) struct Attacher {
    workload: String,
    socket: OwnedFd,
    /// Whether it may write to stdin.
    stdin: bool,
    outgoing: VecDeque<u8>,
    incoming: Vec<u8>,
    /// Closes when all is sent.
    closing: bool,
}

/// An attacher on its way to another executable.
#[derive(Serialize, Deserialize)]
pub(super) struct HandedAttacher {
    token: u64,
    workload: String,
    socket: RawFd,
    stdin: bool,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    closing: bool,
}

impl Attacher {
    pub(super) fn handed(&self, token: u64) -> HandedAttacher {
        HandedAttacher {
            token,
            workload: self.workload.clone(),
            socket: self.socket.as_raw_fd(),
            stdin: self.stdin,
            outgoing: self.outgoing.iter().copied().collect(),
            incoming: self.incoming.clone(),
            closing: self.closing,
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn push(&mut self, kind: u8, bytes: &[u8]) {
        for bytes in bytes.chunks(chunk::MAX) {
            self.outgoing.extend(chunk::header(kind, bytes.len()));
            self.outgoing.extend(bytes);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.outgoing.len() >= FULL
    }

    pub(super) fn has_room(&self) -> bool {
        self.outgoing.len() <= ROOM
    }

    /// Sends what the socket takes. Returns whether it is still of use.
    fn flush(&mut self) -> bool {
        while !self.outgoing.is_empty() {
            let (front, _) = self.outgoing.as_slices();
            match cirro_sys::descriptors::send(&self.socket, front, &[]) {
                Ok(length) => drop(self.outgoing.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        !self.closing
    }
}

impl EventLoop {
    pub(super) fn attach(
        &mut self,
        from: (u64, u64),
        id: &str,
        stdin: bool,
    ) -> Option<Result<Reply, ContainerError>> {
        let exit = match self.find(id) {
            Ok(workload) => workload.record.exit.clone(),
            Err(error) => return Some(Err(error)),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let (ours, theirs) = match pair {
            Ok(pair) => pair,
            Err(error) => return Some(Err(ContainerError::runtime("make stream", &error))),
        };
        // One that has ended says nothing more: the stream closes at once.
        if exit.is_none() {
            match self.watch(&ours, EventFlags::IN, Source::Attacher) {
                Ok(token) => {
                    let (workload, outgoing, incoming) = (id.to_owned(), VecDeque::new(), Vec::new());
                    let attacher =
                        Attacher { workload, socket: ours, stdin, outgoing, incoming, closing: false };
                    self.attachers.insert(token, attacher);
                    if let Some(workload) = self.workloads.get_mut(id) {
                        workload.attachers.push(token);
                    }
                }
                Err(error) => return Some(Err(ContainerError::runtime("watch stream", &error))),
            }
        }
        self.reply_with(from, Ok(Reply::Attached { exit }), vec![theirs]);
        None
    }

    /// Goes on with a predecessor's attacher.
    pub(super) fn take_attacher(&mut self, handed: HandedAttacher) -> io::Result<()> {
        let HandedAttacher { token, workload, socket, stdin, outgoing, incoming, closing } = handed;
        let socket = inherited_descriptor(socket)?;
        self.watch_as(token, &socket, EventFlags::IN, Source::Attacher)?;
        if let Some(workload) = self.workloads.get_mut(&workload) {
            workload.attachers.push(token);
        }
        let id = workload.clone();
        let attacher = Attacher { workload, socket, stdin, outgoing: outgoing.into(), incoming, closing };
        self.attachers.insert(token, attacher);
        self.hear_attacher(token);
        self.flush_attacher(token);
        self.stall_if_slow(&id);
        Ok(())
    }

    pub(super) fn serve_attacher(&mut self, token: u64, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.flush_attacher(token);
        }
        if flags.contains(EventFlags::IN) {
            self.read_attacher(token);
        } else if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            self.drop_attacher(token);
        }
    }

    fn read_attacher(&mut self, token: u64) {
        let Some(attacher) = self.attachers.get_mut(&token) else { return };
        match rustix::io::read(&attacher.socket, &mut self.buffer[..]) {
            // A daemon that was killed closes without a word: stdin stays open then, whatever `stdin_once` says.
            Ok(0) => self.drop_attacher(token),
            Ok(length) => {
                attacher.incoming.extend_from_slice(&self.buffer[..length]);
                self.hear_attacher(token);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.drop_attacher(token),
        }
    }

    /// Takes whole chunks from an attacher as long as stdin has room.
    pub(super) fn hear_attacher(&mut self, token: u64) {
        let mut fed = false;
        loop {
            let Some(attacher) = self.attachers.get_mut(&token) else { return };
            let Some(workload) = self.workloads.get_mut(&attacher.workload) else { return };
            if workload.input.as_ref().is_some_and(|input| input.queue.len() >= MOST_INPUT) {
                break;
            }
            let (kind, length) = match chunk::parse(&attacher.incoming) {
                None => break,
                Some(Ok(chunk)) => chunk,
                Some(Err(())) => return self.drop_attacher(token),
            };
            let data = attacher.incoming[chunk::HEADER..chunk::HEADER + length].to_vec();
            attacher.incoming.drain(..chunk::HEADER + length);
            let stdio = &workload.record.stdio;
            let once = stdio.stdin_once && !stdio.tty;
            if let Some(input) = workload.input.as_mut().filter(|_| attacher.stdin) {
                match kind {
                    chunk::STDIN => input.queue.extend(&data),
                    chunk::END => input.ending |= once,
                    _ => {}
                }
                fed = true;
            }
        }
        self.adjust_attacher(token);
        if fed {
            let id = self.attachers[&token].workload.clone();
            self.feed(&id);
        }
    }

    /// Waits for what makes sense: room in the socket when something is to be sent, data when stdin has room.
    fn adjust_attacher(&self, token: u64) {
        let Some(attacher) = self.attachers.get(&token) else { return };
        let input = self.workloads.get(&attacher.workload).and_then(|workload| workload.input.as_ref());
        let mut events = EventFlags::empty();
        if input.is_none_or(|input| input.queue.len() < MOST_INPUT) {
            events |= EventFlags::IN;
        }
        if !attacher.outgoing.is_empty() {
            events |= EventFlags::OUT;
        }
        self.rewatch(&attacher.socket, token, events);
    }

    /// Sends to all who watch a workload.
    pub(super) fn flush_attachers(&mut self, id: &str) {
        let tokens = self.workloads.get(id).map(|workload| workload.attachers.clone()).unwrap_or_default();
        for token in tokens {
            self.flush_attacher(token);
        }
    }

    fn flush_attacher(&mut self, token: u64) {
        let Some(attacher) = self.attachers.get_mut(&token) else { return };
        if attacher.flush() {
            let id = attacher.workload.clone();
            self.adjust_attacher(token);
            self.resume_if_fast(&id);
        } else {
            self.drop_attacher(token);
        }
    }

    pub(super) fn drop_attacher(&mut self, token: u64) {
        let Some(attacher) = self.attachers.remove(&token) else { return };
        self.unwatch(&attacher.socket, token);
        if let Some(workload) = self.workloads.get_mut(&attacher.workload) {
            workload.attachers.retain(|one| *one != token);
        }
        self.resume_if_fast(&attacher.workload);
    }

    /// The workload has ended: its attachers get what is left, then the end.
    pub(super) fn close_attachers(&mut self, id: &str) {
        let tokens = self.workloads.get(id).map(|workload| workload.attachers.clone()).unwrap_or_default();
        for token in tokens {
            if let Some(attacher) = self.attachers.get_mut(&token) {
                attacher.closing = true;
            }
            self.flush_attacher(token);
        }
    }
}
