//! Daemons that are connected.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use cirro_sys::process::inherited_descriptor;
use rustix::event::epoll::EventFlags;
use serde::{Deserialize, Serialize};

use super::event_loop::{EventLoop, Source};
use crate::error::ContainerError;
use crate::protocol::{Envelope, Message, Reply};
use crate::wire::{HandedFrame, HandedInbox, Inbox, Outbox};

/// A daemon has one connection; tools and a daemon's successor a few more.
const MOST: usize = 64;
/// One that does not read its events is let go.
const MOST_WAITING: usize = 16 << 20;

pub(super) struct Connection {
    socket: UnixStream,
    inbox: Inbox,
    outbox: Outbox,
    /// Versions were compared.
    pub(super) greeted: bool,
}

/// A connection on its way to another executable.
#[derive(Serialize, Deserialize)]
pub(super) struct HandedConnection {
    token: u64,
    socket: RawFd,
    greeted: bool,
    inbox: HandedInbox,
    outbox: Vec<HandedFrame>,
}

impl Connection {
    pub(super) fn handed(&self, token: u64) -> HandedConnection {
        HandedConnection {
            token,
            socket: self.socket.as_raw_fd(),
            greeted: self.greeted,
            inbox: self.inbox.handed(),
            outbox: self.outbox.handed(),
        }
    }

    /// Every descriptor that it holds.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.socket.as_fd()].into_iter().chain(self.inbox.descriptors()).chain(self.outbox.descriptors())
    }
}

impl EventLoop {
    /// Goes on with a predecessor's connection; one that speaks another version is let go.
    pub(super) fn take_connection(&mut self, handed: HandedConnection, same_version: bool) -> io::Result<()> {
        let connection = Connection {
            socket: inherited_descriptor(handed.socket)?.into(),
            inbox: Inbox::taken(handed.inbox)?,
            outbox: Outbox::taken(handed.outbox)?,
            greeted: handed.greeted,
        };
        if connection.greeted && !same_version {
            return Ok(());
        }
        self.watch_as(handed.token, &connection.socket, EventFlags::IN, Source::Connection)?;
        self.connections.insert(handed.token, connection);
        self.flush(handed.token);
        Ok(())
    }

    pub(super) fn welcome(&mut self, socket: UnixStream) {
        if self.connections.len() >= MOST || socket.set_nonblocking(true).is_err() {
            return;
        }
        if let Ok(token) = self.watch(&socket, EventFlags::IN, Source::Connection) {
            let connection =
                Connection { socket, inbox: Inbox::default(), outbox: Outbox::default(), greeted: false };
            self.connections.insert(token, connection);
            self.rewatch_connection(token);
        }
    }

    pub(super) fn serve_connection(&mut self, token: u64, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.flush(token);
        }
        let ended = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        if self.upgrade.is_some() {
            // Nothing is read meanwhile. What it asked in the same turn as the upgrade was asked for is still told here.
            if ended {
                self.let_go(token);
            }
            return;
        }
        let speaks = ended || flags.contains(EventFlags::IN);
        if let Some(error) = speaks.then(|| self.take_requests(token)).and_then(Result::err) {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                eprintln!("supervisor: connection: {error}");
            }
            self.let_go(token);
        }
    }

    fn take_requests(&mut self, token: u64) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
        match connection.inbox.fill(&connection.socket) {
            Ok(true) => {}
            Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.handle_frames(token)
    }

    /// Handles the whole requests that a connection has sent, up to one after which nothing is read for a while.
    pub(super) fn handle_frames(&mut self, token: u64) -> io::Result<()> {
        while let Some(connection) = self.connections.get_mut(&token).filter(|_| self.upgrade.is_none()) {
            let Some((envelope, descriptors)) = connection.inbox.next::<Envelope>()? else { break };
            self.handle(token, envelope, descriptors);
        }
        Ok(())
    }

    /// Answers a request.
    pub(super) fn reply(&mut self, to: (u64, u64), reply: Result<Reply, ContainerError>) {
        self.reply_with(to, reply, Vec::new());
    }

    /// Answers a request, with descriptors.
    pub(super) fn reply_with(
        &mut self,
        (token, sequence): (u64, u64),
        reply: Result<Reply, ContainerError>,
        descriptors: Vec<OwnedFd>,
    ) {
        if let Some(connection) = self.connections.get_mut(&token) {
            let _ = connection.outbox.push(&Message::Reply { sequence, reply }, descriptors);
            self.flush(token);
        }
    }

    /// Tells everybody.
    pub(super) fn announce(&mut self, message: &Message) {
        let tokens: Vec<u64> = self.connections.keys().copied().collect();
        for token in tokens {
            if let Some(connection) = self.connections.get_mut(&token).filter(|connection| connection.greeted)
            {
                let _ = connection.outbox.push(message, Vec::new());
                self.flush(token);
            }
        }
    }

    fn flush(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.outbox.flush(&connection.socket) {
            Ok(_) => {
                let slow = connection.outbox.size() > MOST_WAITING;
                self.rewatch_connection(token);
                if slow {
                    self.let_go(token);
                }
            }
            Err(_) => self.let_go(token),
        }
    }

    /// Waits for what a connection is to be waited for now.
    pub(super) fn rewatch_connection(&self, token: u64) {
        let Some(connection) = self.connections.get(&token) else { return };
        let mut events = EventFlags::empty();
        events.set(EventFlags::IN, self.upgrade.is_none());
        events.set(EventFlags::OUT, connection.outbox.size() > 0);
        self.rewatch(&connection.socket, token, events);
    }

    pub(super) fn let_go(&mut self, token: u64) {
        if let Some(connection) = self.connections.remove(&token) {
            self.unwatch(&connection.socket, token);
            self.drop_jobs_of(token);
        }
    }
}
