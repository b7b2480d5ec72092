//! Entering and leaving kernel namespaces.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Source: linux/sched.h; it shares its bit with signal numbers, so `clone` does not take it.
pub const CLONE_NEWTIME: i32 = 0x80;

/// Leaves the host's mount namespace for a copy whose mounts the host does not see; what the host mounts later still shows.
///
/// # Errors
/// The kernel's.
pub fn leave_mount_namespace() -> io::Result<()> {
    // SAFETY: only the mount namespace is left; no descriptor table is split.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)? };
    use rustix::mount::MountPropagationFlags as Propagation;
    rustix::mount::mount_change("/", Propagation::DOWNSTREAM | Propagation::REC)?;
    Ok(())
}

/// Leaves namespaces for new ones (`CLONE_NEW*`), of this process or, for pid and time, of its children.
///
/// # Errors
/// The kernel's.
pub fn leave(namespaces: i32) -> io::Result<()> {
    // SAFETY: with namespace flags only, no descriptor table and no memory is split.
    check(unsafe { libc::unshare(namespaces) })
}

fn check(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Enters the namespace behind `file` (`/proc/PID/ns/X`, or a bind mount of one), of whatever kind it is.
///
/// # Errors
/// The kernel's.
pub fn enter(file: impl AsFd) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(file.as_fd(), None)?)
}

/// Those namespaces of another process that differ from ours.
#[derive(Debug, Clone, Copy)]
pub struct Others(i32);

impl Others {
    /// Compares a process' namespaces with ours.
    ///
    /// # Errors
    /// That of reading `/proc`.
    pub fn of(pid: i32) -> io::Result<Self> {
        const KINDS: [(&str, i32); 8] = [
            ("user", libc::CLONE_NEWUSER),
            ("mnt", libc::CLONE_NEWNS),
            ("pid", libc::CLONE_NEWPID),
            ("uts", libc::CLONE_NEWUTS),
            ("ipc", libc::CLONE_NEWIPC),
            ("net", libc::CLONE_NEWNET),
            ("cgroup", libc::CLONE_NEWCGROUP),
            ("time", CLONE_NEWTIME),
        ];
        let mut flags = 0;
        for (kind, flag) in KINDS {
            let theirs = match std::fs::read_link(format!("/proc/{pid}/ns/{kind}")) {
                // Before Linux 5.6.
                Err(error) if kind == "time" && error.kind() == io::ErrorKind::NotFound => continue,
                theirs => theirs?,
            };
            if std::fs::read_link(format!("/proc/self/ns/{kind}"))? != theirs {
                flags |= flag;
            }
        }
        Ok(Self(flags))
    }

    /// Enters all at once; that of process ids excepted, which a process is born in.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(self, pidfd: impl AsFd) -> io::Result<()> {
        enter_some(pidfd, self.0 & !libc::CLONE_NEWPID)
    }
}

/// Does something whose children are born in the pid namespace of the process behind `pidfd` (Linux 5.8), and comes back.
///
/// # Errors
/// The kernel's and that of `work`. A process that cannot come back ends: all it started from then on would be in the wrong place.
pub fn with_children_in<T>(pidfd: impl AsFd, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    enter_some(pidfd, libc::CLONE_NEWPID)?;
    let result = work();
    if let Err(error) = enter_some(own, libc::CLONE_NEWPID) {
        eprintln!("return to own pid namespace: {error}");
        std::process::abort();
    }
    result
}

fn enter_some(pidfd: impl AsFd, flags: i32) -> io::Result<()> {
    if flags == 0 {
        return Ok(());
    }
    // SAFETY: setns takes a descriptor and flags; it fails cleanly when the process is gone.
    let answer = unsafe { libc::setns(pidfd.as_fd().as_raw_fd(), flags) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
