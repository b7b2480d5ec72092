//! The guardian: what must never crash.
//!
//! Parent of the supervisor and subreaper of all that it made. It starts the supervisor again when that dies, writes down how
//! each process that it reaps ended, and keeps descriptors that cannot be opened anew: terminals, ends of pipes. It knows nothing
//! of containers, so that it never has to change, and its loop allocates nothing.
//!
//! ```text
//!  daemon ─▶ guardian (1): opens a read-only view of the executable, executes it
//!            guardian (2): takes the lock, forks ─▶ guardian (3): own session and cgroup, the loop
//!                          ends when the supervisor is ready
//! ```

mod keep;
mod link;
mod reaped;

use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cirro_sys::process::{self, RawPid};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FlockOperation;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::arguments::Arguments;
use crate::cgroup::{Group, Hierarchies};

use keep::Keep;
pub(crate) use link::{EXECUTABLE, GuardianLink};
use link::{Key, Order};
pub(crate) use reaped::{Reaped, read_all as read_reaped};

/// The cgroup of guardian and supervisor, below the cloud's.
pub(crate) const GUARDED_GROUP: &str = "supervisor";
/// The supervisor finds its socket to the guardian under this number.
pub(crate) const LINK_DESCRIPTOR: i32 = 3;
/// A supervisor that lived so long was not broken from the start.
const HEALTHY: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The directory of supervisor and guardian in a run directory.
pub(crate) fn directory(run_dir: &Path) -> PathBuf {
    run_dir.join("supervisor")
}

/// The file that a living guardian has locked.
pub(crate) fn lock_file(run_dir: &Path) -> PathBuf {
    directory(run_dir).join("guardian.lock")
}

/// An empty directory, a layer of the read-only views of executables.
pub(crate) fn empty_directory(run_dir: &Path) -> PathBuf {
    directory(run_dir).join(".empty")
}

/// Entry point of `cirro guardian`: never returns. Called before any thread exists.
pub fn guardian_main(args: &[OsString]) -> ExitCode {
    let result =
        Arguments::parse(args).map_err(io::Error::other).and_then(|arguments| match arguments.executable {
            None => execute_read_only_self(&arguments),
            Some(number) => guard(&arguments, process::inherited_descriptor(number)?),
        });
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("guardian: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The first incarnation: executes itself again from a view that nobody can write, which all its children then run from.
fn execute_read_only_self(arguments: &Arguments) -> io::Result<ExitCode> {
    let empty = empty_directory(&arguments.run_dir);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&empty)?;
    let file = cirro_sys::mounts::open_own_executable_read_only(&empty)?;
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
    let mut command = command_line("guardian", arguments)?;
    command.push(c"--executable-descriptor".to_owned());
    command.push(CString::new(file.as_raw_fd().to_string())?);
    Err(process::execute_descriptor(&file, &command, &[]))
}

fn command_line(role: &str, arguments: &Arguments) -> io::Result<Vec<CString>> {
    let run_dir = arguments.run_dir.to_string_lossy();
    ["cirro", role, "--run-dir", &run_dir, "--name", &arguments.name]
        .into_iter()
        .map(|one| Ok(CString::new(one)?))
        .collect()
}

/// The second incarnation: becomes the only guardian, in the background, and returns when the supervisor is ready.
fn guard(arguments: &Arguments, executable: OwnedFd) -> io::Result<ExitCode> {
    let mut options = OpenOptions::new();
    let lock =
        options.create(true).truncate(false).write(true).mode(0o600).open(lock_file(&arguments.run_dir))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(ExitCode::SUCCESS);
    }
    let (mut ready, tell_ready) = io::pipe()?;
    let keep = [lock.as_raw_fd(), executable.as_raw_fd(), tell_ready.as_raw_fd()];
    process::fork_child(&keep, move || {
        // Held to the very end: who waits for the lock finds no process.
        std::mem::forget(lock);
        match Guardian::settle(arguments, executable, tell_ready.into()).and_then(Guardian::run) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("guardian: {error}");
                1
            }
        }
    })?;
    let mut byte = [0];
    Ok(if ready.read(&mut byte)? == 1 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The third incarnation.
struct Guardian<'a> {
    arguments: &'a Arguments,
    executable: OwnedFd,
    ready: Option<OwnedFd>,
    signals: OwnedFd,
    group: Group,
    keep: Keep,
    reaped: File,
    supervisor: Option<(RawPid, Instant)>,
    link: Option<OwnedFd>,
    pause: Duration,
    stopping: bool,
}

impl<'a> Guardian<'a> {
    /// Leaves the daemon's session, cgroup, streams and directory.
    fn settle(arguments: &'a Arguments, executable: OwnedFd, ready: OwnedFd) -> io::Result<Self> {
        rustix::process::setsid()?;
        rustix::thread::set_name(c"cirro-guardian")?;
        let group = Hierarchies::detect()?.group(&format!("/{}/{GUARDED_GROUP}", arguments.name));
        group.make_and_join()?;
        process::become_subreaper()?;
        process::raise_open_files()?;
        let directory = directory(&arguments.run_dir);
        redirect_streams(&directory.join("supervisor.log"))?;
        crate::process::enter_directory(&directory)?;
        let reaped =
            OpenOptions::new().create(true).append(true).mode(0o600).open(reaped::file(&directory))?;
        let signals = process::signal_descriptor(&[
            libc_signals::CHILD,
            libc_signals::HANG_UP,
            libc_signals::INTERRUPT,
            libc_signals::TERMINATE,
        ])?;
        Ok(Self {
            arguments,
            executable,
            ready: Some(ready),
            signals,
            group,
            keep: Keep::new(),
            reaped,
            supervisor: None,
            link: None,
            pause: FIRST_PAUSE,
            stopping: false,
        })
    }

    fn run(mut self) -> io::Result<()> {
        let command = command_line("supervisor", self.arguments)?;
        loop {
            if self.supervisor.is_none() {
                if self.stopping {
                    return self.clear_up();
                }
                self.start_supervisor(&command)?;
                cirro_sys::memory::let_go();
            }
            self.wait()?;
            // Signals other than a child's end are not for us: what is guarded is ended by request only.
            while process::next_signal(&self.signals).is_some() {}
            self.take_orders();
            self.reap()?;
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut wanted =
            [PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(link) = &self.link {
            wanted[1] = PollFd::new(link, PollFlags::IN);
        }
        match poll(&mut wanted, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn start_supervisor(&mut self, command: &[CString]) -> io::Result<()> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let upgraded = Key::new(EXECUTABLE.as_bytes()).and_then(|key| self.keep.get(&key));
        let executable = upgraded.unwrap_or(self.executable.as_fd());
        let keep = [theirs.as_raw_fd(), executable.as_raw_fd()];
        let pid = process::fork_child(&keep, || {
            process::reset_signals();
            let _ = rustix::process::setsid();
            let executable = match rustix::io::fcntl_dupfd_cloexec(executable, LINK_DESCRIPTOR + 1) {
                Ok(executable) => executable,
                Err(_) => return 1,
            };
            let arranged = process::arrange_descriptors(&[(theirs.as_fd(), LINK_DESCRIPTOR)]);
            let error =
                arranged.err().unwrap_or_else(|| process::execute_descriptor(&executable, command, &[]));
            eprintln!("guardian: start supervisor: {error}");
            1
        })?;
        self.supervisor = Some((pid, Instant::now()));
        self.link = Some(ours);
        Ok(())
    }

    /// Does what the supervisor asks, as long as there is something to read at once.
    fn take_orders(&mut self) {
        while let Some(link) = &self.link {
            let waiting =
                poll(&mut [PollFd::new(link, PollFlags::IN)], Some(&rustix::time::Timespec::default()));
            if !matches!(waiting, Ok(1)) {
                return;
            }
            match Order::receive(link) {
                Ok(Some(Order::Keep(key, descriptor))) => self.keep.put(key, descriptor),
                Ok(Some(Order::Forget(key))) => self.keep.remove(&key),
                Ok(Some(Order::GiveAll)) => {
                    let _ = self.keep.give_all(link);
                }
                Ok(Some(Order::Truncate(size))) => reaped::truncate(&self.reaped, size),
                Ok(Some(Order::Ready)) => {
                    if let Some(ready) = self.ready.take() {
                        let _ = File::from(ready).write_all(b"r");
                    }
                }
                Ok(Some(Order::ShutDown)) => self.stopping = true,
                Ok(None) | Err(_) => self.link = None,
            }
        }
    }

    /// Records and reaps every child that has ended.
    fn reap(&mut self) -> io::Result<()> {
        while let Some(ended) = process::peek_ended_child()? {
            match self.supervisor {
                Some((pid, since)) if pid == ended.pid => {
                    // It is dead, so what it last asked for is all there now.
                    self.take_orders();
                    process::reap(pid);
                    self.supervisor = None;
                    self.link = None;
                    self.pause_after(since);
                }
                _ => {
                    let record = Reaped::of(ended);
                    let size = record.append(&self.reaped);
                    process::reap(ended.pid);
                    if let Some(link) = &self.link {
                        let _ = record.send(link, size);
                    }
                }
            }
        }
        Ok(())
    }

    /// A supervisor that dies at once must not take the machine with it.
    fn pause_after(&mut self, since: Instant) {
        if since.elapsed() > HEALTHY {
            self.pause = FIRST_PAUSE;
        }
        if !self.stopping {
            std::thread::sleep(self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn clear_up(self) -> io::Result<()> {
        crate::process::enter_directory("/")?;
        self.group.leave();
        let _ = self.group.remove();
        let _ = Hierarchies::detect()?.group(&self.arguments.name).remove();
        std::fs::remove_dir_all(directory(&self.arguments.run_dir))
    }
}

/// Signal numbers, the same on all our architectures.
mod libc_signals {
    pub(super) const HANG_UP: i32 = 1;
    pub(super) const INTERRUPT: i32 = 2;
    pub(super) const TERMINATE: i32 = 15;
    pub(super) const CHILD: i32 = 17;
}

/// Nothing to read, and what is said goes to a file.
fn redirect_streams(log: &Path) -> io::Result<()> {
    // It is for faults only; one that grew is begun anew.
    let fresh = std::fs::metadata(log).is_ok_and(|data| data.len() > 1 << 20);
    let log =
        OpenOptions::new().create(true).append(!fresh).truncate(fresh).write(true).mode(0o600).open(log)?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    Ok(())
}
