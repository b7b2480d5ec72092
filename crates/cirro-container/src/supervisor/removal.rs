//! Removing a workload for good: its processes, cgroups, descriptors, directory.

use std::time::{Duration, Instant};

use super::event_loop::EventLoop;
use super::record::Kind;
use super::workload::Workload;
use crate::cgroup::Group;
use crate::error::ContainerError;
use crate::protocol::{Message, Reply};
use crate::workload::WorkloadPhase;

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// A process that does not die of SIGKILL hangs in the kernel; its group is left then, and said so.
const PATIENCE: Duration = Duration::from_secs(20);
/// 128 and SIGKILL.
const KILLED: i32 = 137;

type Answers = Vec<((u64, u64), Result<Reply, ContainerError>)>;

/// A workload whose processes are dying.
pub(super) struct Removal {
    pub(super) id: String,
    pub(super) next: Instant,
    pause: Duration,
    until: Instant,
    group: Group,
    workload: Workload,
    answers: Answers,
}

impl Removal {
    /// Those who wait for it: connection and sequence.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (u64, u64)> {
        self.answers.iter().map(|(from, _)| *from)
    }
}

impl EventLoop {
    pub(super) fn delete(
        &mut self,
        from: (u64, u64),
        id: &str,
        force: bool,
    ) -> Option<Result<Reply, ContainerError>> {
        let workload = match self.find(id) {
            Ok(workload) => workload,
            Err(error) => return Some(Err(error)),
        };
        let living = match workload.record.phase {
            Some(WorkloadPhase::Exited) => false,
            Some(WorkloadPhase::Created) => true,
            _ if force => true,
            _ => return Some(Err(ContainerError::State(format!("container `{id}` is running")))),
        };
        if living {
            workload.deleting.push(from);
            let kind = workload.record.kind;
            self.kill_all(id, kind);
        } else {
            self.remove_workload(id, vec![(from, Ok(Reply::Done))]);
        }
        None
    }

    fn kill_all(&mut self, id: &str, kind: Kind) {
        let group = self.group(id);
        // What is frozen does not die.
        let _ = group.set_frozen(false);
        if let Some(workload) = self.workloads.get(id) {
            let _ = workload.signal(9);
        }
        if kind == Kind::Container {
            group.signal_all(9);
        }
    }

    /// Removes a workload that has ended or was never made, now or as soon as its last process is gone.
    pub(super) fn remove_workload(&mut self, id: &str, answers: Answers) {
        let group = self.group(id);
        let Some(mut workload) = self.workloads.remove(id) else { return };
        self.close_streams(id, &mut workload);
        for token in std::mem::take(&mut workload.attachers) {
            self.drop_attacher(token);
        }
        // Commands whose end was not met first die with it, and somebody waits for them.
        for exec in workload.record.execs.iter().filter(|exec| exec.code.is_none()) {
            self.announce(&Message::ExecExited { exec: exec.exec.clone(), code: KILLED });
        }
        let now = Instant::now();
        group.signal_all(9);
        let until = now + PATIENCE;
        self.try_removal(Removal {
            id: id.to_owned(),
            next: now,
            pause: FIRST_PAUSE,
            until,
            group,
            workload,
            answers,
        });
    }

    fn try_removal(&mut self, mut removal: Removal) {
        if let Err(error) = removal.group.remove() {
            let now = Instant::now();
            if now < removal.until {
                removal.next = now + removal.pause;
                removal.pause = (removal.pause * 2).min(LONGEST_PAUSE);
                return self.removals.push(removal);
            }
            eprintln!("supervisor: remove cgroups of {}: {error}", removal.id);
        }
        if let Some(parent) = &removal.workload.record.cgroup_parent {
            self.parents.drop_empty(parent, &self.hierarchies);
        }
        if let Err(error) = std::fs::remove_dir_all(removal.workload.directory.path())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("supervisor: remove directory of {}: {error}", removal.id);
        }
        for (from, answer) in removal.answers {
            self.reply(from, answer);
        }
    }

    pub(super) fn retry_removals(&mut self, now: Instant) {
        let (due, later) =
            std::mem::take(&mut self.removals).into_iter().partition(|removal| removal.next <= now);
        self.removals = later;
        let due: Vec<Removal> = due;
        for removal in due {
            removal.group.signal_all(9);
            self.try_removal(removal);
        }
    }
}
