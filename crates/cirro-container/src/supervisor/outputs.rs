//! What workloads say and hear.
//!
//! One turn reads one buffer of one output, writes its whole lines to the log and gives the bytes to the attachers, so that one
//! flood stalls nobody. The beginning of an unfinished line goes to a small file in the same turn: nothing that was read is only in
//! memory when the turn ends.

use std::time::Duration;

use rustix::event::epoll::EventFlags;

use super::event_loop::{EventLoop, Source};
use super::workload::{Which, Workload, kept_input_name};
use crate::protocol::chunk;

/// What one output may still have in its pipe when its process has ended: a container may have enlarged it to 1 MiB, and
/// one turn reads 64 KiB.
const TURNS_AT_END: usize = 17;
/// More than this for stdin is left with the attacher.
pub(super) const MOST_INPUT: usize = 64 << 10;

/// Waited for at the end of a terminal that somebody else holds open, which only happens in the host's pid namespace.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// What a turn met.
#[derive(PartialEq, Eq)]
enum Took {
    Bytes,
    Nothing,
    End,
}

impl EventLoop {
    /// Begins to read a workload's outputs.
    pub(super) fn watch_outputs(&mut self, id: &str) {
        let Some(mut workload) = self.workloads.remove(id) else { return };
        for which in [Which::Stdout, Which::Stderr] {
            if let Some(output) =
                workload.outputs[which.index()].as_mut().filter(|output| output.token.is_none())
            {
                output.token =
                    self.watch(&output.descriptor, EventFlags::IN, Source::Output(id.to_owned(), which)).ok();
            }
        }
        self.workloads.insert(id.to_owned(), workload);
    }

    fn unwatch_outputs(&mut self, workload: &mut Workload) {
        for output in workload.outputs.iter_mut().flatten() {
            if let Some(token) = output.token.take() {
                self.unwatch(&output.descriptor, token);
            }
        }
    }

    /// One turn of one output.
    pub(super) fn pump(&mut self, id: &str, which: Which) {
        let took = self.take(id, which);
        self.compress_rotated(id);
        self.flush_attachers(id);
        if took == Took::End {
            self.close_output(id, which);
        }
        self.stall_if_slow(id);
    }

    fn take(&mut self, id: &str, which: Which) -> Took {
        let Some(workload) = self.workloads.get_mut(id) else { return Took::Nothing };
        let Some(output) = &mut workload.outputs[which.index()] else { return Took::Nothing };
        let bytes = match rustix::io::read(&output.descriptor, &mut self.buffer[..]) {
            Ok(0) => return Took::End,
            Ok(length) => &self.buffer[..length],
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Took::Nothing,
            // A terminal whose other side is closed says EIO.
            Err(_) => return Took::End,
        };
        if let Some(log) = &mut workload.log {
            output.splitter.push(bytes, |line| log.add(line, which == Which::Stderr));
            log.flush();
            let partial = output.splitter.partial();
            if !partial.is_empty() || output.partial_saved {
                output.partial_saved = !partial.is_empty();
                let _ = std::fs::write(workload.directory.path().join(which.partial_file()), partial);
            }
        }
        let kind = if which == Which::Stdout { chunk::STDOUT } else { chunk::STDERR };
        for token in &workload.attachers {
            if let Some(attacher) = self.attachers.get_mut(token) {
                attacher.push(kind, bytes);
            }
        }
        Took::Bytes
    }

    /// An output has ended: what is left of its last line is a line.
    fn close_output(&mut self, id: &str, which: Which) {
        let Some(workload) = self.workloads.get_mut(id) else { return };
        let Some(mut output) = workload.outputs[which.index()].take() else { return };
        if let Some(log) = &mut workload.log {
            output.splitter.finish(|line| log.add(line, which == Which::Stderr));
            log.flush();
        }
        let _ = std::fs::remove_file(workload.directory.path().join(which.partial_file()));
        if let Some(guardian) = &self.guardian {
            guardian.forget(&which.kept_name(id));
        }
        if let Some(token) = output.token {
            self.unwatch(&output.descriptor, token);
        }
    }

    /// The first process has ended: takes all that it still said, whatever slow attachers do.
    pub(super) fn drain(&mut self, id: &str) {
        for which in [Which::Stdout, Which::Stderr] {
            for _ in 0..TURNS_AT_END {
                match self.take(id, which) {
                    Took::Bytes => {}
                    Took::Nothing if self.wait_for_terminal(id) => {}
                    Took::Nothing => break,
                    Took::End => {
                        self.close_output(id, which);
                        break;
                    }
                }
            }
        }
        self.flush_attachers(id);
    }

    /// The kernel hands a terminal's last bytes over in the background, then its end. Returns whether there is something.
    fn wait_for_terminal(&self, id: &str) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let Some(workload) = self.workloads.get(id).filter(|workload| workload.record.stdio.tty) else {
            return false;
        };
        let Some(output) = &workload.outputs[0] else { return false };
        let wait = rustix::time::Timespec { tv_sec: 0, tv_nsec: LAST_WORDS.as_nanos() as i64 };
        matches!(poll(&mut [PollFd::new(&output.descriptor, PollFlags::IN)], Some(&wait)), Ok(1))
    }

    /// Stops reading a workload whose attacher does not keep up, as docker does, instead of buffering without end.
    pub(super) fn stall_if_slow(&mut self, id: &str) {
        let Some(workload) = self.workloads.get(id) else { return };
        let slow =
            workload.attachers.iter().filter_map(|token| self.attachers.get(token)).any(|one| one.is_full());
        if slow
            && !workload.stalled
            && let Some(mut workload) = self.workloads.remove(id)
        {
            workload.stalled = true;
            self.unwatch_outputs(&mut workload);
            self.workloads.insert(id.to_owned(), workload);
        }
    }

    /// Reads again when all attachers have caught up or left.
    pub(super) fn resume_if_fast(&mut self, id: &str) {
        let Some(workload) = self.workloads.get_mut(id).filter(|workload| workload.stalled) else { return };
        if workload.attachers.iter().filter_map(|token| self.attachers.get(token)).all(|one| one.has_room()) {
            workload.stalled = false;
            self.watch_outputs(id);
        }
    }

    /// Writes what waits for a workload's stdin.
    pub(super) fn feed(&mut self, id: &str) {
        let Some(mut workload) = self.workloads.remove(id) else { return };
        let open = self.feed_one(id, &mut workload);
        if !open {
            self.close_input(id, &mut workload);
        }
        let attachers = workload.attachers.clone();
        self.workloads.insert(id.to_owned(), workload);
        for token in attachers {
            self.hear_attacher(token);
        }
    }

    /// Returns whether stdin stays open.
    fn feed_one(&mut self, id: &str, workload: &mut Workload) -> bool {
        let Some(input) = &mut workload.input else { return true };
        while !input.queue.is_empty() {
            let (front, _) = input.queue.as_slices();
            match rustix::io::write(&input.descriptor, front) {
                Ok(length) => drop(input.queue.drain(..length)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    if input.token.is_none() {
                        input.token =
                            self.watch(&input.descriptor, EventFlags::OUT, Source::Input(id.to_owned())).ok();
                    }
                    return true;
                }
                Err(_) => return false,
            }
        }
        if let Some(token) = input.token.take() {
            self.unwatch(&input.descriptor, token);
        }
        !input.ending
    }

    fn close_input(&mut self, id: &str, workload: &mut Workload) {
        if let Some(input) = workload.input.take() {
            if let Some(token) = input.token {
                self.unwatch(&input.descriptor, token);
            }
            if let Some(guardian) = self.guardian.as_ref().filter(|_| !workload.record.stdio.tty) {
                guardian.forget(&kept_input_name(id));
            }
        }
    }

    /// Takes a workload's descriptors out of the loop and out of the guardian's hands.
    pub(super) fn close_streams(&mut self, id: &str, workload: &mut Workload) {
        self.unwatch_outputs(workload);
        for which in [Which::Stdout, Which::Stderr] {
            if workload.outputs[which.index()].take().is_some()
                && let Some(guardian) = &self.guardian
            {
                guardian.forget(&which.kept_name(id));
            }
        }
        self.close_input(id, workload);
    }
}
