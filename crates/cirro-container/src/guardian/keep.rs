//! The descriptors that the guardian keeps, under the names that the supervisor gave them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::link::{Key, send_given, send_given_all};

/// More than the open-file limit of any host that we have seen; the memory is touched only as it is used.
const CAPACITY: usize = 1 << 16;

pub(super) struct Keep(Vec<(Key, OwnedFd)>);

impl Keep {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(CAPACITY))
    }

    /// Keeps a descriptor in place of the one of the same name.
    pub(super) fn put(&mut self, key: Key, descriptor: OwnedFd) {
        self.remove(&key);
        if self.0.len() < CAPACITY {
            self.0.push((key, descriptor));
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(index) = self.0.iter().position(|(one, _)| one == key) {
            self.0.swap_remove(index);
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<BorrowedFd<'_>> {
        self.0.iter().find(|(one, _)| one == key).map(|(_, descriptor)| descriptor.as_fd())
    }

    /// Sends a copy of every one, and then that this was all.
    pub(super) fn give_all(&self, link: impl AsFd + Copy) -> io::Result<()> {
        for (key, descriptor) in &self.0 {
            send_given(link, key, descriptor.as_fd())?;
        }
        send_given_all(link)
    }
}
