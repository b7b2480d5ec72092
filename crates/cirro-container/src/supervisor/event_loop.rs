//! The loop: what is ready is served, in turn, each a bounded piece.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cirro_sys::process;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::SOCKET;
use super::attachers::Attacher;
use super::connections::Connection;
use super::handover::Upgrade;
use super::helpers::{Helper, Job};
use super::launches::Launch;
use super::removal::Removal;
use super::workload::{Which, Workload};
use crate::cgroup::{Group, Hierarchies};
use crate::guardian::GuardianLink;
use crate::runtime::Native;

const SIGNAL_CHILD: i32 = 17;
const SIGNALS: [i32; 4] = [1, 2, 15, SIGNAL_CHILD];

/// What a token of the epoll set stands for.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Signals,
    Listener,
    Guardian,
    Connection,
    /// A helper's process id.
    Helper(i32),
    /// A command's process id.
    Launch(i32),
    Output(String, Which),
    Input(String),
    Attacher,
}

/// All the state there is.
pub(super) struct EventLoop {
    pub(super) name: String,
    pub(super) directory: PathBuf,
    pub(super) hierarchies: Hierarchies,
    pub(super) runtime: Native,
    pub(super) guardian: Option<GuardianLink>,
    pub(super) workloads: BTreeMap<String, Workload>,
    pub(super) connections: HashMap<u64, Connection>,
    pub(super) attachers: HashMap<u64, Attacher>,
    pub(super) helpers: HashMap<i32, Helper>,
    /// Commands on their way, by their process ids.
    pub(super) launches: HashMap<i32, Launch>,
    pub(super) jobs: VecDeque<Job>,
    pub(super) removals: Vec<Removal>,
    /// Those who wait for a list, and until when: connection and sequence.
    pub(super) lists: Vec<((u64, u64), Instant)>,
    /// Children that compress logs, by their process ids.
    pub(super) compressions: HashMap<i32, super::compression::Compression>,
    /// Cgroups that were made for workloads to be below.
    pub(super) parents: super::parents::Parents,
    /// Another executable is to take over; nothing new is begun.
    pub(super) upgrade: Option<Upgrade>,
    pub(super) most_helpers: usize,
    pub(super) stopping: bool,
    /// Every read goes through it; nothing is kept in it.
    pub(super) buffer: Vec<u8>,
    pub(super) listener: Option<UnixListener>,
    listener_token: u64,
    signals: OwnedFd,
    epoll: OwnedFd,
    sources: HashMap<u64, Source>,
    pub(super) next_token: u64,
}

impl EventLoop {
    /// Tokens are counted from `first_token` on: a predecessor's are still in use.
    pub(super) fn new(
        name: String,
        directory: PathBuf,
        guardian: GuardianLink,
        first_token: u64,
    ) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut new = Self {
            parents: super::parents::Parents::load(&directory),
            name,
            directory,
            hierarchies: Hierarchies::detect()?,
            runtime: Native::new(),
            guardian: Some(guardian),
            workloads: BTreeMap::new(),
            connections: HashMap::new(),
            attachers: HashMap::new(),
            helpers: HashMap::new(),
            launches: HashMap::new(),
            jobs: VecDeque::new(),
            removals: Vec::new(),
            lists: Vec::new(),
            compressions: HashMap::new(),
            upgrade: None,
            most_helpers: 2 * cores,
            stopping: false,
            buffer: vec![0; 64 << 10],
            listener: None,
            listener_token: 0,
            signals: process::signal_descriptor(&SIGNALS)?,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            sources: HashMap::new(),
            next_token: first_token,
        };
        let (signals, link) = (new.new_token(Source::Signals), new.new_token(Source::Guardian));
        epoll::add(&new.epoll, &new.signals, EventData::new_u64(signals), EventFlags::IN)?;
        if let Some(guardian) = &new.guardian {
            epoll::add(&new.epoll, guardian.socket(), EventData::new_u64(link), EventFlags::IN)?;
        }
        Ok(new)
    }

    /// Puts a descriptor into the epoll set; returns its token.
    pub(super) fn watch(
        &mut self,
        descriptor: impl AsFd,
        events: EventFlags,
        source: Source,
    ) -> io::Result<u64> {
        let token = self.next_token;
        self.next_token += 1;
        self.watch_as(token, descriptor, events, source)?;
        Ok(token)
    }

    /// Puts a descriptor into the epoll set under a token that is its already.
    pub(super) fn watch_as(
        &mut self,
        token: u64,
        descriptor: impl AsFd,
        events: EventFlags,
        source: Source,
    ) -> io::Result<()> {
        self.sources.insert(token, source);
        epoll::add(&self.epoll, descriptor, EventData::new_u64(token), events).inspect_err(|_| {
            self.sources.remove(&token);
        })?;
        Ok(())
    }

    fn new_token(&mut self, source: Source) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.sources.insert(token, source);
        token
    }

    /// Changes what is waited for.
    pub(super) fn rewatch(&self, descriptor: impl AsFd, token: u64, events: EventFlags) {
        let _ = epoll::modify(&self.epoll, descriptor, EventData::new_u64(token), events);
    }

    /// Takes a descriptor out of the epoll set.
    pub(super) fn unwatch(&mut self, descriptor: impl AsFd, token: u64) {
        let _ = epoll::delete(&self.epoll, descriptor);
        self.sources.remove(&token);
    }

    /// The cgroups of a workload.
    pub(super) fn group(&self, id: &str) -> Group {
        self.hierarchies.group(&self.cgroup_path(id))
    }

    /// The path of a workload's cgroups.
    pub(super) fn cgroup_path(&self, id: &str) -> String {
        let parent = self.workloads.get(id).and_then(|workload| workload.record.cgroup_parent.as_deref());
        crate::cgroup::path(&self.name, parent, id)
    }

    /// Lets clients in, tells the guardian, and serves until a shutdown is asked for.
    pub(super) fn run(mut self) -> io::Result<()> {
        if self.listener.is_none() {
            self.bind()?;
        }
        if let Some(guardian) = &self.guardian {
            guardian.ready();
        }
        cirro_sys::memory::let_go();
        let mut events = Vec::with_capacity(64);
        while !self.stopping {
            events.clear();
            let timeout = self.next_deadline().map(|left| rustix::time::Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for Event { data, flags } in events.iter().copied() {
                // Taken away meanwhile, by an earlier event of the same turn.
                let Some(source) = self.sources.get(&data.u64()).cloned() else { continue };
                self.serve(data.u64(), source, flags);
            }
            self.pass_time();
            self.answer_lists();
            self.hand_over_if_quiet();
        }
        if let Some(guardian) = &self.guardian {
            guardian.shut_down();
        }
        Ok(())
    }

    fn bind(&mut self) -> io::Result<()> {
        // There is one supervisor, the guardian sees to it: what lies here is a predecessor's.
        let _ = std::fs::remove_file(SOCKET);
        let listener = UnixListener::bind(SOCKET)?;
        listener.set_nonblocking(true)?;
        self.listen(listener)
    }

    pub(super) fn listen(&mut self, listener: UnixListener) -> io::Result<()> {
        self.listener_token = self.watch(&listener, EventFlags::IN, Source::Listener)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Lets clients in, and hears those that are, or not for a while.
    pub(super) fn rewatch_clients(&self) {
        let events = if self.upgrade.is_none() { EventFlags::IN } else { EventFlags::empty() };
        if let Some(listener) = &self.listener {
            self.rewatch(listener, self.listener_token, events);
        }
        self.connections.keys().for_each(|token| self.rewatch_connection(*token));
    }

    fn serve(&mut self, token: u64, source: Source, flags: EventFlags) {
        match source {
            Source::Signals => {
                while process::next_signal(&self.signals).is_some() {}
                self.reap();
            }
            Source::Listener => self.accept(),
            Source::Guardian => self.hear_guardian(token),
            Source::Connection => self.serve_connection(token, flags),
            Source::Helper(pid) => self.hear_helper(pid),
            Source::Launch(pid) => self.hear_launch(pid),
            Source::Output(id, which) => self.pump(&id, which),
            Source::Input(id) => self.feed(&id),
            Source::Attacher => self.serve_attacher(token, flags),
        }
    }

    fn hear_guardian(&mut self, token: u64) {
        let Some(link) = &self.guardian else { return };
        match link.next_reaped() {
            Ok(Some((reaped, size))) => {
                self.adopted_ended(&reaped);
                if let Some(link) = &self.guardian {
                    link.truncate(size);
                }
            }
            Ok(None) => {
                eprintln!("supervisor: the guardian is gone; going on without it");
                if let Some(link) = self.guardian.take() {
                    self.unwatch(link.socket(), token);
                }
            }
            Err(error) => eprintln!("supervisor: guardian: {error}"),
        }
    }

    pub(super) fn accept(&mut self) {
        while let Some(Ok((socket, _))) = self.listener.as_ref().map(UnixListener::accept) {
            self.welcome(socket);
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let helpers = self.helpers.values().map(|helper| helper.deadline);
        let lists = self.lists.iter().map(|(_, until)| *until);
        let launches = self.launches.values().map(|launch| launch.deadline);
        let next = helpers
            .chain(launches)
            .chain(self.removals.iter().map(|removal| removal.next))
            .chain(lists)
            .min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn pass_time(&mut self) {
        if self.helpers.is_empty() && self.launches.is_empty() && self.removals.is_empty() {
            return;
        }
        let now = Instant::now();
        self.end_late_helpers(now);
        self.end_late_launches(now);
        self.retry_removals(now);
    }
}
