//! Taking over from a predecessor, which is how every supervisor starts.
//!
//! For each record: what was only half made is removed; what still runs (same pid, same start time) gets its descriptors back,
//! from the guardian or through `/proc`; what ended meanwhile gets its exit code from the guardian's record.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use cirro_sys::process::kill_group;
use rustix::fs::{Mode, OFlags};

use super::event_loop::EventLoop;
use super::record::Record;
use super::workload::{Which, Workload, kept_input_name};
use crate::guardian::{Reaped, read_reaped};
use crate::process;
use crate::runtime::WorkloadDirectory;
use crate::workload::WorkloadPhase;

type Kept = HashMap<String, OwnedFd>;

impl EventLoop {
    pub(super) fn adopt_all(&mut self) -> io::Result<()> {
        let Some(guardian) = &self.guardian else { return Ok(()) };
        let (mut kept, told) = guardian.take_all()?;
        let (mut reaped, size) = read_reaped(&self.directory);
        reaped.extend(told);
        self.adopt_each(&mut kept, Some(&reaped))?;
        self.end_strays();
        if let Some(guardian) = &self.guardian {
            guardian.truncate(size);
        }
        Ok(())
    }

    /// Goes on with the workloads of the program that this process was. What ended meanwhile is still to be reaped, by us or by
    /// the guardian.
    pub(super) fn adopt_from_self(&mut self, mut kept: HashMap<String, OwnedFd>) -> io::Result<()> {
        self.adopt_each(&mut kept, None)
    }

    fn adopt_each(&mut self, kept: &mut Kept, reaped: Option<&[Reaped]>) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.directory)?.flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !id.starts_with('.') {
                self.adopt(&id, kept, reaped);
            }
        }
        if let Some(guardian) = &self.guardian {
            // What nobody claimed belongs to nobody.
            kept.keys().for_each(|name| guardian.forget(name));
        }
        Ok(())
    }

    /// `reaped`: those that have ended; `None` when that will be told later.
    fn adopt(&mut self, id: &str, kept: &mut Kept, reaped: Option<&[Reaped]>) {
        let directory = WorkloadDirectory::new(&self.directory, id);
        let record = Record::load(directory.path()).ok().filter(|record| record.id == id);
        let Some(record) = record.filter(|record| record.phase.is_some()) else {
            return self.discard(id, directory);
        };
        let mut workload = Workload::new(record, directory);
        let living = workload.record.phase != Some(WorkloadPhase::Exited);
        if living {
            workload.open_log();
            take_streams(&mut workload, kept);
        }
        let end_of = |process| reaped.map_or(End::NotYet, |reaped| end_of(process, reaped));
        for exec in workload.record.execs.iter_mut().filter(|exec| exec.code.is_none()) {
            exec.code = match end_of((exec.pid, exec.start_time)) {
                End::Known(code) => Some(code),
                // As a shell would say of a process that it lost.
                End::Unknown => Some(255),
                End::NotYet => None,
            };
        }
        workload.record.execs.retain(|exec| exec.code.is_none() || !exec.unwatched);
        let first = workload.record.process.unwrap_or_default();
        if reaped.is_some() {
            workload.save();
        }
        if living && process::is_running(first.0, first.1) {
            workload.hold(first.0);
        }
        self.workloads.insert(id.to_owned(), workload);
        if living {
            match end_of(first) {
                End::Known(code) => self.workload_ended(id, Some(code)),
                End::Unknown => self.workload_ended(id, None),
                End::NotYet => {}
            }
            self.watch_outputs(id);
        }
    }

    /// Removes what a predecessor did not finish.
    pub(super) fn discard(&mut self, id: &str, directory: WorkloadDirectory) {
        let before = Record::load(directory.path()).ok();
        let parent = before.as_ref().and_then(|record| record.cgroup_parent.clone());
        let helper = before.and_then(|record| record.helper);
        if let Some((pid, _)) = helper.filter(|(pid, start)| process::is_running(*pid, *start)) {
            let _ = kill_group(pid);
        }
        let record = Record::new(
            id.to_owned(),
            super::record::Kind::Container,
            crate::request::Stdio::default(),
            None,
        );
        let record = Record { cgroup_parent: parent, ..record };
        self.workloads.insert(id.to_owned(), Workload::new(record, directory));
        self.remove_workload(id, Vec::new());
    }
}

enum End {
    Known(i32),
    Unknown,
    /// It runs, or is a zombie that the guardian is about to tell of.
    NotYet,
}

fn end_of((pid, start_time): (i32, u64), reaped: &[Reaped]) -> End {
    match reaped.iter().find(|reaped| (reaped.pid, reaped.start_time) == (pid, start_time)) {
        Some(reaped) => End::Known(reaped.code),
        None if process::exists(pid, start_time) => End::NotYet,
        None => End::Unknown,
    }
}

fn take_streams(workload: &mut Workload, kept: &mut Kept) {
    let id = workload.record.id.clone();
    let (pid, start_time) = workload.record.process.unwrap_or_default();
    for which in [Which::Stdout, Which::Stderr] {
        let reopened = || {
            // Not a terminal: opening its slave would read what others type.
            let may = !workload.record.stdio.tty && process::is_running(pid, start_time);
            may.then(|| reopen(pid, which)).flatten()
        };
        let Some(descriptor) = kept.remove(&which.kept_name(&id)).or_else(reopened) else { continue };
        let partial = std::fs::read(workload.directory.path().join(which.partial_file())).unwrap_or_default();
        if workload.record.stdio.tty
            && let Ok(copy) = descriptor.try_clone()
        {
            workload.set_input(copy);
        }
        workload.set_output(which, descriptor, partial);
    }
    if let Some(stdin) = kept.remove(&kept_input_name(&id)) {
        workload.set_input(stdin);
    }
}

/// Opens the pipe behind a process' output anew, if it still is one.
fn reopen(pid: i32, which: Which) -> Option<OwnedFd> {
    let path = format!("/proc/{pid}/fd/{}", which.index() + 1);
    let is_pipe = std::fs::read_link(&path).is_ok_and(|target| target.to_string_lossy().starts_with("pipe:"));
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    is_pipe.then(|| rustix::fs::open(&path, flags, Mode::empty()).ok()).flatten()
}
