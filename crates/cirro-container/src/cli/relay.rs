//! This process' terminal as the terminal of another: what is typed goes in, what is written comes out.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Typed bytes that the other side did not take yet.
const MAX_PENDING: usize = 64 << 10;

/// Copies between standard streams and a terminal's master.
pub(super) struct Relay {
    master: OwnedFd,
    pending: Vec<u8>,
    reads_input: bool,
    hung_up: bool,
    /// How our own terminal was, to be that way again.
    saved: Option<Termios>,
}

impl Relay {
    pub(super) fn new(master: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
        let stdin = rustix::stdio::stdin();
        let mut saved = None;
        if isatty(stdin) {
            let attributes = tcgetattr(stdin)?;
            let mut raw = attributes.clone();
            raw.make_raw();
            tcsetattr(stdin, OptionalActions::Now, &raw)?;
            saved = Some(attributes);
        }
        let relay = Self { master, pending: Vec::new(), reads_input: true, hung_up: false, saved };
        relay.resize();
        Ok(relay)
    }

    /// Gives the other terminal the size of ours.
    pub(super) fn resize(&self) {
        if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
            let _ = crate::runtime::set_terminal_size(&self.master, (size.ws_col, size.ws_row));
        }
    }

    /// What to wait for.
    pub(super) fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, !self.pending.is_empty());
        let master = (!self.hung_up).then_some((self.master.as_fd(), flags));
        let wants_input = self.reads_input && self.pending.len() < MAX_PENDING;
        master.into_iter().chain(wants_input.then_some((rustix::stdio::stdin(), PollFlags::IN)))
    }

    /// Copies what can be copied without waiting.
    pub(super) fn turn(&mut self) {
        self.read_output();
        self.read_input();
        self.write_pending();
    }

    /// Copies the output that is left when the process has ended.
    pub(super) fn drain(&mut self) {
        while self.read_output() {}
    }

    fn read_output(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(length @ 1..) => {
                let mut stdout = io::stdout().lock();
                let _ = stdout.write_all(&buffer[..length]).and_then(|()| stdout.flush());
                true
            }
            Err(rustix::io::Errno::INTR) => true,
            Err(rustix::io::Errno::AGAIN) => false,
            // EIO: nobody has the terminal open any more.
            _ => {
                self.hung_up = true;
                false
            }
        }
    }

    fn read_input(&mut self) {
        let stdin = rustix::stdio::stdin();
        let now = rustix::time::Timespec::default();
        let mut waited = [rustix::event::PollFd::from_borrowed_fd(stdin, PollFlags::IN)];
        if !self.reads_input
            || self.pending.len() >= MAX_PENDING
            || !matches!(rustix::event::poll(&mut waited, Some(&now)), Ok(1))
        {
            return;
        }
        let mut buffer = [0; 4096];
        match rustix::io::read(stdin, &mut buffer) {
            Ok(0) => {
                // What a terminal reads as the end.
                self.pending.push(4);
                self.reads_input = false;
            }
            Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => self.reads_input = false,
        }
    }

    fn write_pending(&mut self) {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.master, &self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => self.pending.clear(),
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, saved);
        }
    }
}
