//! Starts a program: a command in a container, or a plain process.
//!
//! ```text
//!  parent: enter the pid namespace ─▶ fork ─▶ come back; later: the status socket closes (it runs) or tells why not
//!  child:  join cgroups ─▶ enter the other namespaces ─▶ terminal, descriptors ─▶ limits, user, capabilities, seccomp ─▶ execve
//! ```
//! The parent of a command does nothing that could block, so the supervisor starts commands itself: whatever depends on the
//! container is done by the child. Plain processes are started from a helper.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use cirro_sys::namespaces::Others;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, pidfd_open};

use super::command::{execute, refuse, resolve};
use super::filter::Filter;
use super::identity::Identity;
use super::libcontainer::give_to;
use super::native::filters;
use super::spec::Host;
use super::{Made, NewExec, NewProcess, Streams, ptmx};
use crate::cgroup::Doors;
use crate::error::ContainerError;

/// Which namespaces the program lives in.
enum Home<'a> {
    /// The host's, perhaps with another network.
    Host { network: Option<OwnedFd> },
    /// A container's, and its first process.
    Container { namespaces: Others, first: &'a OwnedFd },
}

struct Launch<'a> {
    args: Vec<String>,
    env: Vec<String>,
    home: Home<'a>,
    identity: Option<Identity>,
    /// Its columns and rows; zeros leave them unknown.
    terminal: Option<(u16, u16)>,
    descriptors: Vec<(OwnedFd, i32)>,
}

/// A program on its way: it has its process id, and tells the rest.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) pid: i32,
    status: OwnedFd,
}

/// What a program on its way tells.
#[derive(Debug)]
pub(crate) enum Word {
    /// The master of its terminal; there is more to come.
    Terminal(OwnedFd),
    /// It closed its end without a word: it runs, or was killed before it could.
    Runs,
    /// Why it does not run.
    Failed(ContainerError),
}

impl AsFd for Begun {
    /// Can be read when there is a word.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.status.as_fd()
    }
}

impl Begun {
    /// Waits for the next word.
    pub(crate) fn hear(&self) -> Word {
        let (mut buffer, mut descriptors) = ([0; 4096], Vec::new());
        match cirro_sys::descriptors::receive(&self.status, &mut buffer, &mut descriptors) {
            Err(error) => Word::Failed(ContainerError::runtime("wait for process", &error)),
            Ok(length) => match (descriptors.pop(), length) {
                (Some(master), _) => Word::Terminal(master),
                (None, 0) => Word::Runs,
                (None, length) => Word::Failed(
                    serde_json::from_slice(&buffer[..length])
                        .unwrap_or_else(|error| ContainerError::runtime("read status", &error)),
                ),
            },
        }
    }

    fn wait(self) -> Result<Made, ContainerError> {
        let mut terminal = None;
        loop {
            match self.hear() {
                Word::Terminal(master) => terminal = Some(master),
                Word::Runs => return Ok(Made { pid: self.pid, terminal }),
                Word::Failed(error) => return Err(error),
            }
        }
    }
}

/// Runs a command in a container.
pub(super) fn exec(exec: NewExec<'_>) -> Result<Made, ContainerError> {
    begin(exec)?.wait()
}

/// Makes the process of a command in a container, and waits for nothing that the container could hold up.
pub(crate) fn begin(exec: NewExec<'_>) -> Result<Begun, ContainerError> {
    let explain = |error: io::Error| ContainerError::runtime("start process", &error);
    let first = rustix::process::Pid::from_raw(exec.pid).ok_or(Errno::SRCH);
    let first = first
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|error| ContainerError::runtime("find namespaces", &io::Error::from(error)))?;
    let pair =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (status, theirs) = pair.map_err(|error| explain(error.into()))?;
    let birthplace = exec.hierarchies.group(exec.cgroup).birthplace();
    let birthplace = birthplace.map_err(|error| ContainerError::runtime("open cgroups", &error))?;
    let Streams { stdin, stdout, stderr } = &exec.streams;
    let used = [stdin, stdout, stderr].into_iter().flatten().chain([&theirs, &first]);
    let mut keep: Vec<i32> = used.map(AsRawFd::as_raw_fd).collect();
    keep.extend(3..exec.preserved.saturating_add(3).cast_signed());
    let exec = Cell::new(Some(exec));
    let child = |born: io::Result<()>| {
        cirro_sys::process::close_all_but(&keep);
        let Some(exec) = exec.take() else { return 126 };
        let born = born.map_err(|error| ContainerError::runtime("join cgroups", &error));
        match born.and_then(|()| Launch::of(exec, &first)) {
            Ok(launch) => launch.become_program(&theirs, Ok(())),
            Err(error) => tell_failure(&theirs, &error),
        }
    };
    // It can be seen from inside the container from its first moment.
    let bear = || cirro_sys::process::untraceable(|| birthplace.bear_child(child));
    let pid = cirro_sys::namespaces::with_children_in(&first, bear).map_err(explain)?;
    Ok(Begun { pid, status })
}

/// Starts a plain process.
pub(super) fn spawn(process: NewProcess<'_>) -> Result<Made, ContainerError> {
    let NewProcess { cgroup, hierarchies, request, descriptors, streams } = process;
    let network = request.netns.as_deref().map(open_namespace).transpose();
    let network = network.map_err(|error| ContainerError::runtime("open network namespace", &error))?;
    let doors = hierarchies.group(cgroup).make();
    let doors = doors.map_err(|error| ContainerError::runtime("make cgroups", &error))?;
    let mut arranged =
        standard(streams, false).map_err(|error| ContainerError::runtime("open /dev/null", &error))?;
    arranged.extend(descriptors.into_iter().zip(request.fd_numbers.iter().copied()));
    let launch = Launch {
        args: request.args.clone(),
        env: request.env.clone(),
        home: Home::Host { network },
        identity: None,
        terminal: None,
        descriptors: arranged,
    };
    launch.run(&doors)
}

fn open_namespace(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The three standard streams; what is missing is /dev/null.
pub(super) fn standard(streams: Streams, terminal: bool) -> io::Result<Vec<(OwnedFd, i32)>> {
    if terminal {
        return Ok(Vec::new());
    }
    let mut descriptors = Vec::with_capacity(3);
    for (number, stream) in [streams.stdin, streams.stdout, streams.stderr].into_iter().enumerate() {
        let stream = match stream {
            Some(stream) => stream,
            None => rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?,
        };
        descriptors.push((stream, number as i32));
    }
    Ok(descriptors)
}

/// The descriptors from 3 on that the caller was started with for the program.
pub(super) fn inherit(count: u32) -> io::Result<Vec<(OwnedFd, i32)>> {
    (3..count.saturating_add(3).cast_signed())
        .map(|number| Ok((cirro_sys::process::inherited_descriptor(number)?, number)))
        .collect()
}

impl<'a> Launch<'a> {
    /// In the child, while it still sees the host: all that a command in a container needs of it. `first` is the container's first
    /// process.
    fn of(exec: NewExec<'_>, first: &'a OwnedFd) -> Result<Self, ContainerError> {
        let told = |doing: &'static str| move |error: io::Error| ContainerError::runtime(doing, &error);
        let NewExec { pid, hierarchies, directory, mut process, tty, streams, .. } = exec;
        if let Some(id) = exec.keyring {
            // Without keyrings there are none to keep apart.
            let _ = cirro_sys::process::join_session_keyring(&format!("_ses.{id}"));
        }
        let document =
            std::fs::read_to_string(directory.bundle().join("config.json")).map_err(told("read bundle"))?;
        Host::detect(hierarchies).fit_process(&mut process);
        let filter = Filter::of_document(&document, &filters(directory))?;
        let namespaces = Others::of(pid).map_err(told("find namespaces"))?;
        if let Some(score) = process.oom_score_adj() {
            std::fs::write("/proc/self/oom_score_adj", score.to_string())
                .map_err(told("set oom_score_adj"))?;
        }
        hierarchies.group(exec.cgroup).enter_version_1().map_err(told("join cgroups"))?;
        give_to(&streams, process.user().uid());
        let mut descriptors = standard(streams, tty).map_err(told("open /dev/null"))?;
        descriptors.extend(inherit(exec.preserved).map_err(told("find preserved descriptors"))?);
        Ok(Self {
            args: process.args().clone().unwrap_or_default(),
            env: process.env().clone().unwrap_or_default(),
            home: Home::Container { namespaces, first },
            identity: Some(Identity { process, filter }),
            terminal: tty.then_some(exec.size.unwrap_or_default()),
            descriptors,
        })
    }

    fn run(self, doors: &Doors) -> Result<Made, ContainerError> {
        let explain = |error: io::Error| ContainerError::runtime("start process", &error);
        let pair =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (status, theirs) = pair.map_err(|error| explain(error.into()))?;
        let mut keep = vec![theirs.as_raw_fd()];
        keep.extend(self.descriptors.iter().map(|(descriptor, _)| descriptor.as_raw_fd()));
        if let Home::Host { network: Some(network) } = &self.home {
            keep.push(network.as_raw_fd());
        }
        let child = |entered| {
            cirro_sys::process::close_all_but(&keep);
            self.become_program(&theirs, entered)
        };
        let pid = doors.clone_child(0, child).map_err(explain)?;
        drop(theirs);
        Begun { pid, status }.wait()
    }

    /// In the child: becomes the program, or tells why it could not.
    fn become_program(&self, status: &OwnedFd, entered: io::Result<()>) -> i32 {
        // Out of the way of the numbers that the program expects.
        let least = self.descriptors.iter().map(|(_, number)| number + 1).max().unwrap_or(3).max(3);
        let Ok(status) = rustix::io::fcntl_dupfd_cloexec(status, least) else { return 126 };
        let entered = entered.map_err(|error| ContainerError::runtime("join cgroups", &error));
        match entered.and_then(|()| self.steps(&status)) {
            Ok(never) => match never {},
            Err(error) => tell_failure(&status, &error),
        }
    }

    fn steps(&self, status: &OwnedFd) -> Result<std::convert::Infallible, ContainerError> {
        let told = |doing: &'static str| move |error: io::Error| ContainerError::runtime(doing, &error);
        rustix::process::setsid().map_err(|error| told("start session")(error.into()))?;
        match &self.home {
            Home::Host { network: None } => {}
            Home::Host { network: Some(network) } => {
                cirro_sys::namespaces::enter(network).map_err(told("enter network namespace"))?;
            }
            Home::Container { namespaces, first } => {
                namespaces.enter(first).map_err(told("enter namespaces"))?;
            }
        }
        if let Some(size) = self.terminal {
            self.open_terminal(status, size).map_err(told("open terminal"))?;
        } else {
            let wanted: Vec<(BorrowedFd<'_>, i32)> =
                self.descriptors.iter().map(|(descriptor, number)| (descriptor.as_fd(), *number)).collect();
            cirro_sys::process::arrange_descriptors(&wanted).map_err(told("arrange descriptors"))?;
        }
        if let Some(identity) = &self.identity {
            let remaining = identity.assume()?;
            identity.conclude(remaining)?;
        }
        let program = resolve(&self.args, &self.env)?;
        Err(refuse(&self.args[0], &execute(&program, &self.args, &self.env)))
    }

    fn open_terminal(&self, status: &OwnedFd, size: (u16, u16)) -> io::Result<()> {
        let (master, slave) = ptmx::open()?;
        ptmx::set_size(&master, size)?;
        if let Some(uid) =
            self.identity.as_ref().map(|identity| identity.process.user().uid()).filter(|uid| *uid != 0)
        {
            rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(uid)), None)?;
        }
        rustix::process::ioctl_tiocsctty(&slave)?;
        cirro_sys::descriptors::send(status, b"terminal", &[master.as_fd()])?;
        let stdio = slave.as_fd();
        let mut wanted = vec![(stdio, 0), (stdio, 1), (stdio, 2)];
        wanted.extend(self.descriptors.iter().map(|(descriptor, number)| (descriptor.as_fd(), *number)));
        cirro_sys::process::arrange_descriptors(&wanted)
    }
}

/// In the child: tells why it does not become the program; returns its exit code.
fn tell_failure(status: &OwnedFd, error: &ContainerError) -> i32 {
    let _ = cirro_sys::descriptors::send(status, &serde_json::to_vec(error).unwrap_or_default(), &[]);
    126
}
