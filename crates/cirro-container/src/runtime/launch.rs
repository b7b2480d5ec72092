//! Starts a program from a helper: a command in a container, or a plain process.
//!
//! ```text
//!  helper: enter the pid namespace ─▶ fork ─▶ wait until the status socket closes (it runs) or tells why not
//!  child:  join cgroups ─▶ enter the other namespaces ─▶ terminal, descriptors ─▶ limits, user, capabilities, seccomp ─▶ execve
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
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
enum Home {
    /// The host's, perhaps with another network.
    Host { network: Option<OwnedFd> },
    /// A container's.
    Container { namespaces: cirro_sys::namespaces::Others, pidfd: OwnedFd },
}

struct Launch<'a> {
    args: &'a [String],
    env: &'a [String],
    home: Home,
    identity: Option<Identity>,
    /// Its columns and rows; zeros leave them unknown.
    terminal: Option<(u16, u16)>,
    descriptors: Vec<(OwnedFd, i32)>,
    doors: Doors,
}

/// Runs a command in a container.
pub(super) fn exec(exec: NewExec<'_>) -> Result<Made, ContainerError> {
    let NewExec { pid, cgroup, hierarchies, directory, mut process, preserved, tty, size, streams } = exec;
    let document = std::fs::read_to_string(directory.bundle().join("config.json"))
        .map_err(|error| ContainerError::runtime("read bundle", &error))?;
    Host::detect(hierarchies).fit_process(&mut process);
    let filter = Filter::of_document(&document, &filters(directory))?;
    let home = container_home(pid).map_err(|error| ContainerError::runtime("find namespaces", &error))?;
    // From here on this process can be seen from inside the container.
    cirro_sys::process::forbid_tracing();
    if let Some(score) = process.oom_score_adj() {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|error| ContainerError::runtime("set oom_score_adj", &error))?;
    }
    let doors = hierarchies.group(cgroup).doors();
    let doors = doors.map_err(|error| ContainerError::runtime("open cgroups", &error))?;
    give_to(&streams, process.user().uid());
    let args = process.args().clone().unwrap_or_default();
    let env = process.env().clone().unwrap_or_default();
    let mut descriptors =
        standard(streams, tty).map_err(|error| ContainerError::runtime("open /dev/null", &error))?;
    descriptors.extend(
        inherit(preserved).map_err(|error| ContainerError::runtime("find preserved descriptors", &error))?,
    );
    let identity = Some(Identity { process, filter });
    let terminal = tty.then_some(size.unwrap_or_default());
    Launch { args: &args, env: &env, home, identity, terminal, descriptors, doors }.run()
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
    let home = Home::Host { network };
    Launch {
        args: &request.args,
        env: &request.env,
        home,
        identity: None,
        terminal: None,
        descriptors: arranged,
        doors,
    }
    .run()
}

fn container_home(pid: i32) -> io::Result<Home> {
    let raw = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
    Ok(Home::Container { namespaces: cirro_sys::namespaces::Others::of(pid)?, pidfd })
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

impl Launch<'_> {
    fn run(self) -> Result<Made, ContainerError> {
        let explain = |error: io::Error| ContainerError::runtime("start process", &error);
        let pair =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(|error| explain(error.into()))?;
        if let Home::Container { namespaces, pidfd } = &self.home {
            namespaces.enter_for_children(pidfd).map_err(explain)?;
        }
        let mut keep = vec![theirs.as_raw_fd()];
        keep.extend(self.descriptors.iter().map(|(descriptor, _)| descriptor.as_raw_fd()));
        match &self.home {
            Home::Host { network } => keep.extend(network.iter().map(AsRawFd::as_raw_fd)),
            Home::Container { pidfd, .. } => keep.push(pidfd.as_raw_fd()),
        }
        let child = |entered| {
            cirro_sys::process::close_all_but(&keep);
            self.become_program(&theirs, entered)
        };
        let pid = self.doors.clone_child(0, child).map_err(explain)?;
        drop(theirs);
        let terminal = wait_until_it_runs(&ours)?;
        Ok(Made { pid, terminal })
    }

    /// In the child: becomes the program, or tells why it could not.
    fn become_program(&self, status: &OwnedFd, entered: io::Result<()>) -> i32 {
        // Out of the way of the numbers that the program expects.
        let least = self.descriptors.iter().map(|(_, number)| number + 1).max().unwrap_or(3).max(3);
        let Ok(status) = rustix::io::fcntl_dupfd_cloexec(status, least) else { return 126 };
        let entered = entered.map_err(|error| ContainerError::runtime("join cgroups", &error));
        let error = match entered.and_then(|()| self.steps(&status)) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        let _ = cirro_sys::descriptors::send(&status, &serde_json::to_vec(&error).unwrap_or_default(), &[]);
        126
    }

    fn steps(&self, status: &OwnedFd) -> Result<std::convert::Infallible, ContainerError> {
        let told = |doing: &'static str| move |error: io::Error| ContainerError::runtime(doing, &error);
        rustix::process::setsid().map_err(|error| told("start session")(error.into()))?;
        match &self.home {
            Home::Host { network: None } => {}
            Home::Host { network: Some(network) } => {
                cirro_sys::namespaces::enter(network).map_err(told("enter network namespace"))?;
            }
            Home::Container { namespaces, pidfd } => {
                namespaces.enter(pidfd).map_err(told("enter namespaces"))?
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
        let program = resolve(self.args, self.env)?;
        Err(refuse(&self.args[0], &execute(&program, self.args, self.env)))
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

/// Reads the child's status: closed without a word, it runs.
fn wait_until_it_runs(status: &OwnedFd) -> Result<Option<OwnedFd>, ContainerError> {
    let mut terminal = None;
    let mut buffer = [0; 4096];
    loop {
        let mut descriptors = Vec::new();
        let length = cirro_sys::descriptors::receive(status, &mut buffer, &mut descriptors)
            .map_err(|error| ContainerError::runtime("wait for process", &error))?;
        if let Some(master) = descriptors.pop() {
            terminal = Some(master);
        } else if length == 0 {
            return Ok(terminal);
        } else {
            let error = serde_json::from_slice(&buffer[..length]);
            return Err(error.unwrap_or_else(|error| ContainerError::runtime("read status", &error)));
        }
    }
}
