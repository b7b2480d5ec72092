//! How a new process comes into its groups without waiting.
//!
//! To move a process with all its threads the kernel holds up every fork and exit of the host, and waits for a grace period first:
//! about 7 ms. A child that is born in its group of version 2, and a single thread that moves itself in version 1, are spared that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use cirro_sys::process::{RawPid, clone_child};
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::{Errno, write};

/// Open files of a workload's groups, to be entered from any namespace.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    /// The directory of the group of version 2.
    unified: Option<OwnedFd>,
    /// The `tasks` of the groups of version 1.
    tasks: Vec<OwnedFd>,
}

impl Doors {
    /// Opens those of the directories that exist; with each, whether it is of version 2.
    pub(super) fn open(directories: impl Iterator<Item = (bool, PathBuf)>) -> io::Result<Self> {
        let mut doors = Self::default();
        for (unified, directory) in directories {
            let file = match unified {
                true => open(&directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()),
                false => open(directory.join("tasks"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()),
            };
            match file {
                Ok(file) if unified => doors.unified = Some(file),
                Ok(file) => doors.tasks.push(file),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(doors)
    }

    /// As [`clone_child`]; before it does anything the child is in the groups, or is told why not.
    pub(crate) fn clone_child(
        &self,
        namespaces: i32,
        body: impl Fn(io::Result<()>) -> i32,
    ) -> io::Result<RawPid> {
        let child = || body(self.enter());
        match clone_child(namespaces, self.unified.as_ref().map(AsFd::as_fd), child) {
            // A filter of system calls hides clone3: the child inherits the group of its parent.
            Err(error) if error.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) => {
                self.enter_unified()?;
                clone_child(namespaces, None, child)
            }
            result => result,
        }
    }

    /// As [`clone_child`](Self::clone_child) without namespaces, for a parent that must stay in its own groups.
    pub(crate) fn bear_child(&self, body: impl Fn(io::Result<()>) -> i32) -> io::Result<RawPid> {
        match clone_child(0, self.unified.as_ref().map(AsFd::as_fd), || body(self.enter())) {
            Err(error) if error.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) => {
                clone_child(0, None, || body(self.enter_unified().and_then(|()| self.enter())))
            }
            result => result,
        }
    }

    /// Moves the calling process, which has one thread, in; what is of version 2 excepted.
    pub(super) fn enter(&self) -> io::Result<()> {
        self.tasks.iter().try_for_each(|door| write(door, b"0").map(drop)).map_err(io::Error::from)
    }

    fn enter_unified(&self) -> io::Result<()> {
        let Some(directory) = &self.unified else { return Ok(()) };
        let door = openat(directory, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(write(door, b"0").map(drop)?)
    }
}
