//! How processes end, and what follows.

use cirro_sys::process;

use super::event_loop::EventLoop;
use super::record::Kind;
use crate::guardian::Reaped;
use crate::log::now;
use crate::protocol::{Message, Reply};
use crate::workload::{Exit, WorkloadPhase};

impl EventLoop {
    /// Takes note of every child that has ended, and only then lets it go: killed between the two, the guardian sees it.
    pub(super) fn reap(&mut self) {
        loop {
            match process::peek_ended_child() {
                Ok(Some(ended)) => {
                    // A helper reports before it ends, and what it made becomes our child only then: whoever this is, the
                    // report is there, though perhaps not read.
                    self.hear_all_helpers();
                    self.hear_all_launches();
                    self.process_ended(ended.pid, None, ended.code);
                    process::reap(ended.pid);
                    if self.compression_ended(ended.pid, ended.code) {
                        continue;
                    }
                    if self.helpers.contains_key(&ended.pid) {
                        self.helper_ended(ended.pid, ended.code);
                    }
                }
                Ok(None) => return,
                Err(error) => return eprintln!("supervisor: wait: {error}"),
            }
        }
    }

    /// The guardian reaped a process that a predecessor of ours made.
    pub(super) fn adopted_ended(&mut self, reaped: &Reaped) {
        self.process_ended(reaped.pid, Some(reaped.start_time), reaped.code);
    }

    fn process_ended(&mut self, pid: i32, start: Option<u64>, code: i32) {
        let is_it = |process: (i32, u64)| process.0 == pid && start.is_none_or(|start| start == process.1);
        let first = self.workloads.values().find(|workload| {
            workload.record.phase != Some(WorkloadPhase::Exited) && workload.record.process.is_some_and(is_it)
        });
        if let Some(id) = first.map(|workload| workload.record.id.clone()) {
            return self.workload_ended(&id, Some(code));
        }
        for workload in self.workloads.values_mut() {
            let exec = workload.record.execs.iter_mut();
            if let Some(exec) =
                exec.into_iter().find(|exec| exec.code.is_none() && is_it((exec.pid, exec.start_time)))
            {
                exec.code = Some(code);
                let message = Message::ExecExited { exec: exec.exec.clone(), code };
                workload.record.execs.retain(|exec| exec.code.is_none() || !exec.unwatched);
                workload.save();
                return self.announce(&message);
            }
        }
    }

    /// A workload's first process has ended.
    pub(super) fn workload_ended(&mut self, id: &str, code: Option<i32>) {
        self.drain(id);
        self.stop_compression(id);
        let group = self.group(id);
        let Some(workload) = self.workloads.get_mut(id) else { return };
        let oom_killed = workload.record.kind == Kind::Container && group.oom_kills() > 0;
        let exit = Exit { code, oom_killed, at: now() };
        workload.record.phase = Some(WorkloadPhase::Exited);
        workload.record.exit = Some(exit.clone());
        workload.pidfd = None;
        workload.save();
        let waiting = std::mem::take(&mut workload.deleting);
        self.close_attachers(id);
        self.announce(&Message::Exited { id: id.to_owned(), exit });
        if !waiting.is_empty() {
            self.remove_workload(id, waiting.into_iter().map(|from| (from, Ok(Reply::Done))).collect());
        }
    }
}
