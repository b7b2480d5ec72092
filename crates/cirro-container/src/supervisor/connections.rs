//! Daemons that are connected.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::event::epoll::EventFlags;

use super::event_loop::{EventLoop, Source};
use crate::error::ContainerError;
use crate::protocol::{Envelope, Message, Reply};
use crate::wire::{Inbox, Outbox};

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

impl EventLoop {
    pub(super) fn welcome(&mut self, socket: UnixStream) {
        if self.connections.len() >= MOST || socket.set_nonblocking(true).is_err() {
            return;
        }
        if let Ok(token) = self.watch(&socket, EventFlags::IN, Source::Connection) {
            let connection =
                Connection { socket, inbox: Inbox::default(), outbox: Outbox::default(), greeted: false };
            self.connections.insert(token, connection);
        }
    }

    pub(super) fn serve_connection(&mut self, token: u64, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.flush(token);
        }
        let speaks = flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR);
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
        while let Some(connection) = self.connections.get_mut(&token) {
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
            Ok(empty) => {
                let events = if empty { EventFlags::IN } else { EventFlags::IN | EventFlags::OUT };
                let slow = connection.outbox.size() > MOST_WAITING;
                let connection = &self.connections[&token];
                self.rewatch(&connection.socket, token, events);
                if slow {
                    self.let_go(token);
                }
            }
            Err(_) => self.let_go(token),
        }
    }

    fn let_go(&mut self, token: u64) {
        if let Some(connection) = self.connections.remove(&token) {
            self.unwatch(&connection.socket, token);
        }
    }
}
