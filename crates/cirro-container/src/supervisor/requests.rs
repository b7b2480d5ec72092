//! What is asked, one function each: check, do the quick part, leave the rest to a helper.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use oci_spec::runtime::Process;
use serde_json::value::RawValue;

use super::event_loop::EventLoop;
use super::helpers::{Exec, Job, Work};
use super::record::{Kind, Record};
use super::workload::{Which, Workload, lay_pipes};
use crate::arguments::is_safe_name;
use crate::error::ContainerError;
use crate::protocol::{Envelope, Message, Reply, Request, VERSION};
use crate::request::{CreateProcess, Stdio};
use crate::runtime::{Runtime, Streams, WorkloadDirectory, set_terminal_size};
use crate::workload::WorkloadPhase;

type Answer = Result<Reply, ContainerError>;

/// Commands that run, or whose end nobody has seen yet, per container.
const MOST_EXECS: usize = 1000;
/// How long a list waits for what is being made for somebody who is gone: that takes milliseconds, unless the host is ill.
const SETTLING: Duration = Duration::from_secs(5);
/// Requests that wait for a helper.
const MOST_JOBS: usize = 10_000;

impl EventLoop {
    pub(super) fn handle(&mut self, token: u64, envelope: Envelope, descriptors: Vec<OwnedFd>) {
        let from = (token, envelope.sequence);
        let greeted = self.connections.get(&token).is_some_and(|connection| connection.greeted);
        let answer = match envelope.request {
            Request::Hello { version, fresh } => Some(Ok(self.greet(token, version, fresh))),
            Request::Upgrade => self.begin_upgrade(from, descriptors),
            _ if !greeted => Some(Err(ContainerError::State("say hello first".to_owned()))),
            Request::Create { id, spec, rootfs, stdio, log, cgroup_parent } => {
                let work = move |streams| Work::Create { spec, rootfs, streams };
                let record = Record { cgroup_parent, ..Record::new(id, Kind::Container, stdio, log) };
                self.make(from, record, work)
            }
            Request::Spawn(request) => self.spawn(from, request, descriptors),
            Request::Start { id } => Some(self.start(&id)),
            Request::Kill { id, signal, all } => Some(self.kill(&id, signal, all)),
            Request::SetPaused { id, paused } => Some(self.set_paused(&id, paused)),
            Request::Delete { id, force } => self.delete(from, &id, force),
            Request::List => self.list_when_settled(from),
            Request::Exec { id, exec, process, tty, stdin, size } => {
                self.exec(from, &id, exec, &process, (tty, stdin, size), descriptors)
            }
            Request::ForgetExec { id, exec } => Some(self.forget_exec(&id, &exec)),
            Request::Attach { id, stdin } => self.attach(from, &id, stdin),
            Request::Resize { id, columns, rows } => Some(self.resize(&id, (columns, rows))),
            Request::Strays { remove } => Some(Ok(Reply::Strays(self.strays(remove)))),
            Request::ShutDown => Some(self.shut_down()),
        };
        if let Some(answer) = answer {
            self.reply(from, answer);
        }
    }

    fn greet(&mut self, token: u64, version: u32, fresh: bool) -> Reply {
        if let Some(connection) = self.connections.get_mut(&token).filter(|_| version == VERSION) {
            connection.greeted = true;
            if fresh {
                self.forget_execs_of_others();
            }
        }
        Reply::Hello { version: VERSION, build: crate::build::own() }
    }

    /// A daemon that has just started waits for no command's end; who did has died.
    fn forget_execs_of_others(&mut self) {
        for workload in self.workloads.values_mut().filter(|workload| !workload.record.execs.is_empty()) {
            workload.record.execs.retain(|exec| exec.code.is_none());
            workload.record.execs.iter_mut().for_each(|exec| exec.unwatched = true);
            workload.save();
        }
    }

    /// Prepares a workload and has a helper make it.
    fn make(
        &mut self,
        from: (u64, u64),
        record: Record,
        work: impl FnOnce(Streams) -> Work,
    ) -> Option<Answer> {
        let id = record.id.clone();
        let fits = self.check_new(&id).and_then(|()| self.check_parent(record.cgroup_parent.as_deref()));
        if let Err(error) = fits {
            return Some(Err(error));
        }
        if let Some(parent) = &record.cgroup_parent {
            self.note_parents(parent);
        }
        let directory = WorkloadDirectory::new(&self.directory, &id);
        let mut workload = Workload::new(record, directory);
        match prepare(&mut workload) {
            Ok(streams) => {
                self.workloads.insert(id.clone(), workload);
                self.enqueue(Job { from, id, work: work(streams) });
                None
            }
            Err(error) => {
                let _ = std::fs::remove_dir_all(workload.directory.path());
                Some(Err(ContainerError::runtime("prepare workload", &error)))
            }
        }
    }

    fn check_new(&self, id: &str) -> Result<(), ContainerError> {
        if !is_safe_name(id) || id == "supervisor" || id == "reaped" || id.starts_with("guardian") {
            return Err(ContainerError::State(format!("`{id}` cannot be the id of a workload")));
        }
        if self.workloads.contains_key(id) || self.removals.iter().any(|removal| removal.id == id) {
            return Err(ContainerError::State(format!("workload `{id}` exists already")));
        }
        if self.jobs.len() >= MOST_JOBS {
            return Err(ContainerError::State("too many requests are waiting".to_owned()));
        }
        Ok(())
    }

    fn spawn(
        &mut self,
        from: (u64, u64),
        request: CreateProcess,
        descriptors: Vec<OwnedFd>,
    ) -> Option<Answer> {
        if request.fd_numbers.len() != descriptors.len()
            || request.fd_numbers.iter().any(|number| !(3..1000).contains(number))
        {
            return Some(Err(ContainerError::State(
                "descriptors and their numbers (3 to 999) do not match".to_owned(),
            )));
        }
        let record = Record::new(request.id.clone(), Kind::Process, Stdio::default(), request.log.clone());
        self.make(from, record, move |streams| Work::Spawn { request, descriptors, streams })
    }

    fn start(&mut self, id: &str) -> Answer {
        let runtime = self.runtime.clone();
        let workload = self.find(id)?;
        if workload.record.phase != Some(WorkloadPhase::Created) {
            return Err(ContainerError::State(format!("container `{id}` was started already")));
        }
        runtime.start(id, &workload.directory)?;
        workload.record.phase = Some(WorkloadPhase::Running);
        workload.save();
        Ok(Reply::Done)
    }

    fn kill(&mut self, id: &str, signal: i32, all: bool) -> Answer {
        let group = self.group(id);
        let workload = self.find_living(id)?;
        if all {
            group.signal_all(signal);
        } else {
            workload.signal(signal).map_err(|error| ContainerError::runtime("send signal", &error))?;
        }
        Ok(Reply::Done)
    }

    fn set_paused(&mut self, id: &str, paused: bool) -> Answer {
        let group = self.group(id);
        let workload = self.find_living(id)?;
        let (from, to) = if paused {
            (WorkloadPhase::Running, WorkloadPhase::Paused)
        } else {
            (WorkloadPhase::Paused, WorkloadPhase::Running)
        };
        if workload.record.phase != Some(from) {
            let is = if paused { "not running" } else { "not paused" };
            return Err(ContainerError::State(format!("container `{id}` is {is}")));
        }
        group.set_frozen(paused).map_err(|error| ContainerError::runtime("freeze", &error))?;
        workload.record.phase = Some(to);
        workload.save();
        Ok(Reply::Done)
    }

    /// Lists when all is settled that a daemon asked for before it died: nothing comes to be after the list, and nothing that
    /// is in it is going by itself.
    fn list_when_settled(&mut self, from: (u64, u64)) -> Option<Answer> {
        if self.has_orphans() {
            self.lists.push((from, Instant::now() + SETTLING));
            return None;
        }
        Some(Ok(self.list()))
    }

    /// Answers those who wait for a list, when it can be told or they have waited long enough.
    pub(super) fn answer_lists(&mut self) {
        if self.lists.is_empty() {
            return;
        }
        let (settled, now) = (!self.has_orphans(), Instant::now());
        let (due, waiting) = std::mem::take(&mut self.lists)
            .into_iter()
            .partition::<Vec<_>, _>(|(_, until)| settled || *until <= now);
        self.lists = waiting;
        for (from, _) in due {
            let list = self.list();
            self.reply(from, Ok(list));
        }
    }

    fn list(&self) -> Reply {
        let workloads = self.workloads.values().filter_map(|workload| workload.record.state()).collect();
        let execs =
            self.workloads.values().flat_map(|workload| workload.record.execs.iter().cloned()).collect();
        Reply::List { workloads, execs }
    }

    fn exec(
        &mut self,
        from: (u64, u64),
        id: &str,
        exec: String,
        process: &RawValue,
        (tty, stdin, size): (bool, bool, Option<(u16, u16)>),
        descriptors: Vec<OwnedFd>,
    ) -> Option<Answer> {
        match self.check_exec(id, process, tty, stdin, descriptors) {
            Ok((pid, process, streams)) => {
                let work = Work::Exec(Exec { exec, pid, process: Box::new(process), tty, size, streams });
                self.enqueue(Job { from, id: id.to_owned(), work });
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    fn check_exec(
        &mut self,
        id: &str,
        process: &RawValue,
        tty: bool,
        stdin: bool,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(i32, Process, Streams), ContainerError> {
        if self.jobs.len() >= MOST_JOBS {
            return Err(ContainerError::State("too many requests are waiting".to_owned()));
        }
        let workload = self.find(id)?;
        let (WorkloadPhase::Running, Some((pid, _)), Kind::Container) = (
            workload.record.phase.unwrap_or(WorkloadPhase::Created),
            workload.record.process,
            workload.record.kind,
        ) else {
            return Err(ContainerError::State(format!("container `{id}` is not running")));
        };
        if workload.record.execs.len() >= MOST_EXECS {
            return Err(ContainerError::State(format!("too many commands run in container `{id}`")));
        }
        let process = serde_json::from_str(process.get())
            .map_err(|error| ContainerError::runtime("read process", &error))?;
        let mut descriptors = descriptors.into_iter();
        let mut streams = Streams::default();
        if !tty {
            streams.stdin = if stdin { descriptors.next() } else { None };
            streams.stdout = descriptors.next();
            streams.stderr = descriptors.next();
        }
        Ok((pid, process, streams))
    }

    fn forget_exec(&mut self, id: &str, exec: &str) -> Answer {
        let workload = self.find(id)?;
        let before = workload.record.execs.len();
        workload.record.execs.retain(|one| one.exec != exec || one.code.is_none());
        if workload.record.execs.len() != before {
            workload.save();
        }
        Ok(Reply::Done)
    }

    fn resize(&mut self, id: &str, size: (u16, u16)) -> Answer {
        let workload = self.find(id)?;
        match &workload.outputs[0] {
            Some(output) if workload.record.stdio.tty => {
                set_terminal_size(&output.descriptor, size)
                    .map_err(|error| ContainerError::runtime("resize", &error))?;
                Ok(Reply::Done)
            }
            _ => Err(ContainerError::State(format!("container `{id}` has no terminal"))),
        }
    }

    fn shut_down(&mut self) -> Answer {
        let ended = |workload: &Workload| workload.record.phase == Some(WorkloadPhase::Exited);
        if !self.workloads.values().all(ended) || !self.removals.is_empty() {
            return Err(ContainerError::State("workloads still run".to_owned()));
        }
        for id in self.workloads.keys() {
            let _ = self.group(id).remove();
        }
        self.stopping = true;
        self.announce(&Message::ShuttingDown);
        Ok(Reply::Done)
    }

    /// A workload that is there for the daemon.
    pub(super) fn find(&mut self, id: &str) -> Result<&mut Workload, ContainerError> {
        let found = self.workloads.get_mut(id).filter(|workload| workload.record.phase.is_some());
        found.ok_or_else(|| ContainerError::NotFound(id.to_owned()))
    }

    fn find_living(&mut self, id: &str) -> Result<&mut Workload, ContainerError> {
        let workload = self.find(id)?;
        if workload.record.phase == Some(WorkloadPhase::Exited) {
            return Err(ContainerError::State(format!("container `{id}` is not running")));
        }
        Ok(workload)
    }
}

/// Makes the workload's directory and pipes.
fn prepare(workload: &mut Workload) -> std::io::Result<Streams> {
    let directory = &workload.directory;
    std::fs::create_dir(directory.path())?;
    if workload.record.kind == Kind::Container {
        std::fs::create_dir_all(directory.bundle().join("rootfs"))?;
        std::fs::create_dir(directory.runtime())?;
        std::fs::create_dir(directory.empty())?;
    }
    let (plumbing, streams) = lay_pipes(&workload.record.stdio)?;
    if let Some(plumbing) = plumbing {
        workload.set_output(Which::Stdout, plumbing.stdout, Vec::new());
        workload.set_output(Which::Stderr, plumbing.stderr, Vec::new());
        if let Some(stdin) = plumbing.stdin {
            workload.set_input(stdin);
        }
    }
    Ok(streams)
}
