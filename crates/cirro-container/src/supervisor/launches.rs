//! Commands on their way: processes that the supervisor has made itself and that have not become their programs yet.
//!
//! A command needs no helper: what could block is done by its own process, which tells over a socket how it went. The supervisor
//! only makes it, listens, and ends it when it takes too long.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use cirro_sys::process;
use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, poll};

use super::event_loop::{EventLoop, Source};
use super::helpers::{Exec, PATIENCE};
use crate::error::ContainerError;
use crate::made::Report;
use crate::protocol::{ExecState, Reply};
use crate::runtime::{Begun, Made, NewExec, Word, begin};

/// A command on its way.
pub(super) struct Launch {
    pub(super) deadline: Instant,
    begun: Begun,
    token: u64,
    from: (u64, u64),
    /// The workload.
    id: String,
    exec: String,
    terminal: Option<OwnedFd>,
    /// It was killed since its time was over.
    late: bool,
}

impl EventLoop {
    /// Makes the process of a command.
    pub(super) fn launch(&mut self, from: (u64, u64), id: String, command: Exec) {
        let exec = command.exec.clone();
        let begun = match self.begin(&id, command) {
            Ok(begun) => begun,
            Err(error) => return self.reply(from, Err(error)),
        };
        let pid = begun.pid;
        match self.watch(&begun, EventFlags::IN, Source::Launch(pid)) {
            Ok(token) => {
                let deadline = Instant::now() + PATIENCE;
                let launch = Launch { deadline, begun, token, from, id, exec, terminal: None, late: false };
                self.launches.insert(pid, launch);
            }
            Err(error) => {
                kill(pid);
                self.reply(from, Err(ContainerError::runtime("start command", &error)));
            }
        }
    }

    fn begin(&self, id: &str, command: Exec) -> Result<Begun, ContainerError> {
        let Some(workload) = self.workloads.get(id) else {
            return Err(ContainerError::NotFound(id.to_owned()));
        };
        begin(NewExec {
            keyring: Some(id),
            pid: command.pid,
            cgroup: &self.cgroup_path(id),
            hierarchies: &self.hierarchies,
            directory: &workload.directory,
            process: *command.process,
            preserved: 0,
            tty: command.tty,
            size: command.size,
            streams: command.streams,
        })
    }

    /// Reads what a command on its way tells.
    pub(super) fn hear_launch(&mut self, pid: i32) {
        while let Some(launch) = self.launches.get_mut(&pid).filter(|launch| has_word(&launch.begun)) {
            let result = match launch.begun.hear() {
                Word::Terminal(master) => {
                    launch.terminal = Some(master);
                    continue;
                }
                Word::Runs if launch.late => {
                    Err(ContainerError::Runtime("the command took too long to start".to_owned()))
                }
                Word::Runs => Ok(()),
                Word::Failed(error) => Err(error),
            };
            self.conclude_launch(pid, result);
            self.start_helpers();
        }
    }

    /// Hears every command on its way that has something to say.
    pub(super) fn hear_all_launches(&mut self) {
        let all: Vec<i32> = self.launches.keys().copied().collect();
        all.into_iter().for_each(|pid| self.hear_launch(pid));
    }

    fn conclude_launch(&mut self, pid: i32, result: Result<(), ContainerError>) {
        let Some(Launch { begun, token, from, id, exec, terminal, .. }) = self.launches.remove(&pid) else {
            return;
        };
        self.unwatch(&begun, token);
        let made = Made { pid, terminal };
        match result.and_then(|()| Report::of(&made)) {
            Ok(report) => self.exec_made(from, &id, exec, &report, made.terminal),
            Err(error) => self.reply(from, Err(error)),
        }
    }

    fn exec_made(
        &mut self,
        from: (u64, u64),
        id: &str,
        exec: String,
        report: &Report,
        terminal: Option<OwnedFd>,
    ) {
        let unwatched = self.is_gone(from);
        let Some(workload) = self.workloads.get_mut(id) else {
            return self.reply(from, Err(ContainerError::NotFound(id.to_owned())));
        };
        let &Report { pid, start_time } = report;
        workload.record.execs.push(ExecState { exec, pid, start_time, code: None, unwatched });
        workload.save();
        self.reply_with(from, Ok(Reply::Exec { pid }), terminal.into_iter().collect());
    }

    /// Ends commands that do not become their programs; the end of their sockets does the rest.
    pub(super) fn end_late_launches(&mut self, now: Instant) {
        for (pid, launch) in self.launches.iter_mut().filter(|(_, launch)| launch.deadline <= now) {
            launch.late = true;
            launch.deadline = now + PATIENCE;
            kill(*pid);
        }
    }
}

fn kill(pid: i32) {
    // Perhaps not yet the leader of a group of its own.
    let _: io::Result<()> = process::send_signal(pid, 9);
    let _ = process::kill_group(pid);
}

fn has_word(begun: &Begun) -> bool {
    let now = rustix::time::Timespec::default();
    matches!(poll(&mut [PollFd::new(&begun.as_fd(), PollFlags::IN)], Some(&now)), Ok(1))
}
