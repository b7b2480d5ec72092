//! A file that one side writes as it comes from the network while the other side reads it.
//!
//! The file is the buffer between a download and the unpacking of what it brings: neither waits for the other
//! longer than it must, memory stays small, and a download that breaks goes on where it was. The reader sees the
//! end only when all bytes are there and their digest is right.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

enum End {
    /// More comes.
    Open,
    /// All is there and sound.
    Whole,
    /// It will never be whole.
    Failed,
}

struct Shared {
    state: Mutex<(u64, End)>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, (u64, End)> {
        // Only plain numbers are changed under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the file with its two sides.
pub(super) fn growing(path: PathBuf) -> io::Result<(Filling, Following)> {
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    let shared = Arc::new(Shared { state: Mutex::new((0, End::Open)), changed: Condvar::new() });
    let following = Following { file: file.try_clone()?, path, at: 0, shared: Arc::clone(&shared) };
    Ok((Filling { file, shared }, following))
}

/// The side that writes. When it is dropped before the end, the reader gets an error.
pub(super) struct Filling {
    file: File,
    shared: Arc<Shared>,
}

impl Filling {
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.shared.state().0 += bytes.len() as u64;
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Tells that everything is there.
    pub(super) fn finish(self) {
        self.shared.state().1 = End::Whole;
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if matches!(state.1, End::Open) {
            state.1 = End::Failed;
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

/// The side that reads; blocks where nothing is yet.
pub(super) struct Following {
    file: File,
    path: PathBuf,
    at: u64,
    shared: Arc<Shared>,
}

impl Following {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether it will never be whole.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.shared.state().1, End::Failed)
    }

    /// Waits for the end; returns whether all is there and sound.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.shared.state();
        while matches!(state.1, End::Open) {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        matches!(state.1, End::Whole)
    }
}

impl Read for Following {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.state();
        while state.0 == self.at {
            match state.1 {
                End::Open => {}
                End::Whole => return Ok(0),
                End::Failed => {
                    return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
                }
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let there = usize::try_from(state.0 - self.at).unwrap_or(usize::MAX);
        drop(state);
        let wanted = there.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_gets_all_and_sees_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        for whole in [true, false] {
            let (mut filling, mut following) = growing(dir.path().join(whole.to_string())).unwrap();
            let reader = std::thread::spawn(move || {
                let mut all = Vec::new();
                let result = following.read_to_end(&mut all);
                (all, result.is_ok(), following.wait())
            });
            for piece in [&b"some "[..], b"", b"bytes"] {
                filling.append(piece).unwrap();
            }
            if whole {
                filling.finish();
            } else {
                drop(filling);
            }
            let (all, read, waited) = reader.join().unwrap();
            assert_eq!((all.as_slice(), read, waited), (&b"some bytes"[..], whole, whole));
        }
    }
}
