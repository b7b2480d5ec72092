//! Helpers: forked, single-threaded, short-lived processes that call the runtime.
//!
//! Each has its own process group and a deadline, and dies with the supervisor. It reports over a socket and ends; that it
//! died without a report is known from its end as a process, since what it left behind may hold the socket open.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use cirro_sys::process;
use oci_spec::runtime::Process;
use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde_json::value::RawValue;

use super::event_loop::{EventLoop, Source};
use super::record::Kind;
use super::workload::{Which, kept_input_name};
use crate::error::ContainerError;
use crate::made::{self, Report};
use crate::protocol::Reply;
use crate::request::{CreateProcess, Rootfs};
use crate::runtime::{self, Made, NewContainer, NewProcess, Root, RootChange, Runtime, Streams};
use crate::workload::WorkloadPhase;

/// Making a container takes milliseconds; on a machine that is drowning, seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What a helper does.
pub(super) enum Work {
    Create {
        spec: Box<RawValue>,
        rootfs: Rootfs,
        streams: Streams,
    },
    Spawn {
        request: CreateProcess,
        descriptors: Vec<OwnedFd>,
        streams: Streams,
    },
    /// Needs no helper and waits its turn among those that do.
    Exec(Exec),
}

/// A command for a container.
pub(super) struct Exec {
    pub(super) exec: String,
    /// The container's first process.
    pub(super) pid: i32,
    pub(super) process: Box<Process>,
    pub(super) tty: bool,
    pub(super) size: Option<(u16, u16)>,
    pub(super) streams: Streams,
}

/// A request that waits for a helper.
pub(super) struct Job {
    /// Connection and sequence.
    pub(super) from: (u64, u64),
    /// The workload.
    pub(super) id: String,
    pub(super) work: Work,
}

/// A helper at work, or one that has reported and not ended yet.
pub(super) struct Helper {
    pub(super) deadline: Instant,
    socket: OwnedFd,
    token: u64,
    /// Taken by the report.
    task: Option<Task>,
}

struct Task {
    from: (u64, u64),
    id: String,
}

impl EventLoop {
    /// Gives a job to a helper, now or when one of those at work is done.
    pub(super) fn enqueue(&mut self, job: Job) {
        self.jobs.push_back(job);
        self.start_helpers();
    }

    pub(super) fn start_helpers(&mut self) {
        while self.helpers.len() + self.launches.len() < self.most_helpers {
            let Some(Job { from, id, work }) = self.jobs.pop_front() else { return };
            let work = match work {
                Work::Exec(command) => {
                    self.launch(from, id, command);
                    continue;
                }
                work => work,
            };
            let task = Task { from, id: id.clone() };
            if let Err(error) = self.start_helper(Job { from, id, work }) {
                self.conclude(task, Err(ContainerError::runtime("start helper", &error)), None);
            }
        }
    }

    fn start_helper(&mut self, job: Job) -> io::Result<()> {
        let task = Task { from: job.from, id: job.id.clone() };
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut keep = descriptors_of(&job.work);
        keep.push(theirs.as_raw_fd());
        keep.extend(self.runtime.descriptor());
        let parent = rustix::process::getpid();
        let pid = process::fork_child(&keep, || {
            let _ = rustix::process::setpgid(None, None);
            process::die_with_parent();
            if rustix::process::getppid() != Some(parent) {
                // It died before that was said.
                return 1;
            }
            process::unblock_signals();
            let _ = rustix::thread::set_name(c"cirro-helper");
            let result = self.work(job);
            made::send(&theirs, result);
            0
        })?;
        if let Some(workload) = self.workloads.get_mut(&task.id) {
            workload.record.helper = crate::process::start_time(pid).ok().map(|start| (pid, start));
            workload.save();
        }
        let token = self.watch(&ours, EventFlags::IN, Source::Helper(pid))?;
        self.helpers.insert(
            pid,
            Helper { deadline: Instant::now() + PATIENCE, socket: ours, token, task: Some(task) },
        );
        Ok(())
    }

    /// In the helper.
    fn work(&self, job: Job) -> Result<Made, ContainerError> {
        let Some(workload) = self.workloads.get(&job.id) else {
            return Err(ContainerError::NotFound(job.id));
        };
        let (directory, hierarchies) = (&workload.directory, &self.hierarchies);
        let cgroup = &self.cgroup_path(&job.id);
        if !matches!(job.work, Work::Spawn { .. }) {
            // Ours, or the host's, has keys that are none of a container's business; without keyrings there are none.
            let _ = process::join_session_keyring(&format!("_ses.{}", job.id));
        }
        match job.work {
            Work::Create { spec, rootfs, streams } => self.runtime.create(NewContainer {
                id: &job.id,
                cgroup,
                hierarchies,
                directory,
                bundle: None,
                spec: spec.get(),
                root: Root::Layers(&rootfs),
                root_change: RootChange::Pivot,
                preserved: 0,
                tty: workload.record.stdio.tty,
                size: workload.record.stdio.size,
                streams,
            }),
            Work::Spawn { request, descriptors, streams } => {
                runtime::spawn(NewProcess { cgroup, hierarchies, request: &request, descriptors, streams })
            }
            Work::Exec(_) => Err(ContainerError::Runtime("a command needs no helper".to_owned())),
        }
    }

    /// Reads a helper's report.
    pub(super) fn hear_helper(&mut self, pid: i32) {
        let Some(helper) = self.helpers.get_mut(&pid) else { return };
        let Ok(Some((result, terminal))) = made::receive(&helper.socket) else {
            // End of file is no report: its end as a process tells.
            return self.stop_hearing(pid);
        };
        let task = helper.task.take();
        self.stop_hearing(pid);
        if let Some(task) = task {
            self.conclude(task, result, terminal);
        }
    }

    fn stop_hearing(&mut self, pid: i32) {
        if let Some(helper) = self.helpers.remove(&pid) {
            self.unwatch(&helper.socket, helper.token);
            self.helpers.insert(pid, helper);
        }
    }

    /// Hears every helper that has something to say.
    pub(super) fn hear_all_helpers(&mut self) {
        use rustix::event::{PollFd, PollFlags, poll};
        let waiting: Vec<i32> =
            self.helpers.iter().filter(|(_, helper)| helper.task.is_some()).map(|(pid, _)| *pid).collect();
        for pid in waiting {
            let Some(helper) = self.helpers.get(&pid) else { continue };
            let now = rustix::time::Timespec::default();
            if matches!(poll(&mut [PollFd::new(&helper.socket, PollFlags::IN)], Some(&now)), Ok(1)) {
                self.hear_helper(pid);
            }
        }
    }

    /// Whether whoever asked is gone.
    pub(super) fn is_gone(&self, from: (u64, u64)) -> bool {
        !self.connections.contains_key(&from.0)
    }

    /// Forgets the jobs of a connection that is gone and that no helper has begun.
    pub(super) fn drop_jobs_of(&mut self, token: u64) {
        let (dropped, jobs): (VecDeque<Job>, _) =
            std::mem::take(&mut self.jobs).into_iter().partition(|job| job.from.0 == token);
        self.jobs = jobs;
        for job in dropped.iter().filter(|job| !matches!(job.work, Work::Exec(_))) {
            self.remove_workload(&job.id, Vec::new());
        }
    }

    /// Whether something is being made or removed that nobody waits for any more.
    pub(super) fn has_orphans(&self) -> bool {
        let making = |task: &Task| self.is_gone(task.from);
        self.helpers.values().filter_map(|helper| helper.task.as_ref()).any(making)
            || self.removals.iter().any(|removal| removal.waiting().all(|from| self.is_gone(from)))
    }

    /// A helper has ended as a process.
    pub(super) fn helper_ended(&mut self, pid: i32, code: i32) {
        let Some(helper) = self.helpers.remove(&pid) else { return };
        self.unwatch(&helper.socket, helper.token);
        if let Some(task) = helper.task {
            let _ = process::kill_group(pid);
            let error = ContainerError::Runtime(format!("the helper ended without a report (code {code})"));
            self.conclude(task, Err(error), None);
        }
        self.start_helpers();
    }

    /// Ends helpers whose time is over; their end as processes does the rest.
    pub(super) fn end_late_helpers(&mut self, now: Instant) {
        for (pid, helper) in &mut self.helpers {
            if helper.deadline <= now {
                let _ = process::kill_group(*pid);
                helper.deadline = now + PATIENCE;
            }
        }
    }

    /// What was to be made is made, or not.
    fn conclude(&mut self, task: Task, result: Result<Report, ContainerError>, terminal: Option<OwnedFd>) {
        match result {
            Ok(report) => self.workload_made(task.from, &task.id, &report, terminal),
            Err(error) => self.workload_failed(task.from, &task.id, error),
        }
    }

    fn workload_made(&mut self, from: (u64, u64), id: &str, report: &Report, terminal: Option<OwnedFd>) {
        let Some(workload) = self.workloads.get_mut(id) else { return };
        let running = workload.record.kind == Kind::Process;
        workload.record.phase = Some(if running { WorkloadPhase::Running } else { WorkloadPhase::Created });
        workload.record.process = Some((report.pid, report.start_time));
        workload.record.helper = None;
        if let Some(master) = terminal {
            if let Ok(copy) = master.try_clone() {
                workload.set_input(copy);
            }
            workload.set_output(Which::Stdout, master, Vec::new());
        }
        workload.hold(report.pid);
        workload.open_log();
        if let Some(guardian) = &self.guardian {
            for which in [Which::Stdout, Which::Stderr] {
                if let Some(output) = &workload.outputs[which.index()] {
                    guardian.keep(&which.kept_name(id), &output.descriptor);
                }
            }
            if let Some(input) = workload.input.as_ref().filter(|_| !workload.record.stdio.tty) {
                guardian.keep(&kept_input_name(id), &input.descriptor);
            }
        }
        workload.save();
        let state = workload.record.state().expect("it has a phase");
        if self.is_gone(from) {
            // Who asked for it is gone, and its successor does not know of it.
            return self.remove_workload(id, Vec::new());
        }
        self.watch_outputs(id);
        self.reply(from, Ok(Reply::Workload(state)));
    }

    fn workload_failed(&mut self, from: (u64, u64), id: &str, error: ContainerError) {
        self.remove_workload(id, vec![(from, Err(error))]);
    }
}

fn descriptors_of(work: &Work) -> Vec<RawFd> {
    let (Work::Create { streams, .. } | Work::Spawn { streams, .. } | Work::Exec(Exec { streams, .. })) =
        work;
    let standard =
        [&streams.stdin, &streams.stdout, &streams.stderr].into_iter().flatten().map(AsRawFd::as_raw_fd);
    let mut numbers: Vec<RawFd> = standard.collect();
    if let Work::Spawn { descriptors, .. } = work {
        numbers.extend(descriptors.iter().map(AsRawFd::as_raw_fd));
    }
    numbers
}
