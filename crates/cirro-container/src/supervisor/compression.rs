//! Rotated log files are compressed by children of low priority, one per log.
//!
//! A log that is rotated again before its child is done, and one whose workload ends, is not waited for: the file stays as it is and
//! is met again after the next rotation. Only the supervisor, which also rotates, changes names.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use cirro_sys::process;

use super::event_loop::EventLoop;
use crate::log::packed;

/// Children at a time; a log that finds none free is compressed after its next rotation.
const MOST: usize = 4;
/// The lowest there is.
const PRIORITY: i32 = 19;

/// A log file that is being compressed.
#[derive(Debug)]
pub(super) struct Compression {
    /// The workload.
    id: String,
    path: PathBuf,
}

impl EventLoop {
    /// Compresses what was just rotated of a workload's log, if that is wanted.
    pub(super) fn compress_rotated(&mut self, id: &str) {
        let log = self.workloads.get_mut(id).and_then(|workload| workload.log.as_mut());
        if log.is_some_and(|log| log.wants_compression()) {
            // What a child is at has another number now.
            self.stop_compression(id);
            self.compress_next(id);
        }
    }

    fn compress_next(&mut self, id: &str) {
        let log = self.workloads.get(id).and_then(|workload| workload.log.as_ref());
        let Some(path) = log.and_then(|log| log.uncompressed()).filter(|_| self.compressions.len() < MOST)
        else {
            return;
        };
        match start(&path) {
            Ok(pid) => drop(self.compressions.insert(pid, Compression { id: id.to_owned(), path })),
            Err(error) => eprintln!("supervisor: compress log of {id}: {error}"),
        }
    }

    /// A child has ended. Returns whether it was one of these.
    pub(super) fn compression_ended(&mut self, pid: i32, code: i32) -> bool {
        let Some(Compression { id, path }) = self.compressions.remove(&pid) else { return false };
        let replaced = if code == 0 { packed::replace(&path) } else { Err(io::Error::other("it failed")) };
        match replaced {
            Ok(()) => self.compress_next(&id),
            Err(error) => {
                eprintln!("supervisor: compress log of {id}: {error}");
                let _ = std::fs::remove_file(packed::unfinished(&path));
            }
        }
        true
    }

    /// Ends a workload's child, if there is one: no name changes any more.
    pub(super) fn stop_compression(&mut self, id: &str) {
        let Some(pid) = self.compressions.iter().find(|(_, one)| one.id == id).map(|(pid, _)| *pid) else {
            return;
        };
        let Some(stopped) = self.compressions.remove(&pid) else { return };
        // It is reaped with all others, and known to nobody then.
        let _ = process::send_signal(pid, 9);
        let _ = std::fs::remove_file(packed::unfinished(&stopped.path));
    }
}

fn start(path: &std::path::Path) -> io::Result<i32> {
    let mut from = File::open(path)?;
    let mut to = File::create(packed::unfinished(path))?;
    process::fork_child(&[from.as_raw_fd(), to.as_raw_fd()], || {
        process::die_with_parent();
        process::unblock_signals();
        let _ = rustix::thread::set_name(c"cirro-compress");
        let _ = rustix::process::setpriority_process(None, PRIORITY);
        i32::from(packed::compress(&mut from, &mut to).is_err())
    })
}
