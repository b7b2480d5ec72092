//! What makes containers: one narrow trait, and what stands behind it.
//!
//! Containers and plain processes are made in a helper: a single-threaded child of the supervisor that makes one thing, reports and
//! ends. What it made is then the supervisor's child, since that is the subreaper. Containers are made our [`native`] way, by
//! libcontainer where that declines; commands in them, which need no helper, and plain processes are started by our own [`launch`].

mod command;
mod executor;
mod filter;
mod hooks;
mod identity;
mod launch;
mod libcontainer;
mod native;
mod ptmx;
mod root;
mod spec;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;

use crate::cgroup::Hierarchies;
use crate::error::ContainerError;
use crate::request::{CreateProcess, Rootfs};

pub(crate) use hooks::run as run_hooks;
pub(crate) use launch::{Begun, Word, begin};
pub(crate) use libcontainer::Libcontainer;
pub(crate) use native::Native;
pub(crate) use ptmx::set_size as set_terminal_size;
pub(crate) use spec::capability_names;

/// Where one workload's files are.
#[derive(Debug, Clone)]
pub(crate) struct WorkloadDirectory(PathBuf);

impl WorkloadDirectory {
    pub(crate) fn new(supervisor_directory: &Path, id: &str) -> Self {
        Self(supervisor_directory.join(id))
    }
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
    /// The OCI bundle.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }
    /// The runtime's own state.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.0.join("runtime")
    }
    /// Always empty: the lowest layer of a root that has none.
    pub(crate) fn empty(&self) -> PathBuf {
        self.0.join("empty")
    }
}

/// The far ends of a workload's standard streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Where a container's root comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Root<'a> {
    /// Overlay layers that are mounted where only the container sees it.
    Layers(&'a Rootfs),
    /// A directory that somebody else has made ready: the `root.path` of a foreign bundle.
    Directory(&'a Path),
}

/// How a container leaves the host's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootChange {
    /// `pivot_root`, which leaves nothing behind.
    Pivot,
    /// Moving the mount and `chroot`, for hosts that run from an initial ramdisk, which cannot be pivoted.
    Move,
}

/// A container to make.
pub(crate) struct NewContainer<'a> {
    pub(crate) id: &'a str,
    /// Its cgroup in every hierarchy: `/<name>/<id>`.
    pub(crate) cgroup: &'a str,
    pub(crate) hierarchies: &'a Hierarchies,
    pub(crate) directory: &'a WorkloadDirectory,
    /// What hooks are told is the bundle; ours when absent.
    pub(crate) bundle: Option<&'a Path>,
    /// The OCI spec as JSON.
    pub(crate) spec: &'a str,
    pub(crate) root: Root<'a>,
    pub(crate) root_change: RootChange,
    /// How many descriptors from 3 on the program inherits.
    pub(crate) preserved: u32,
    pub(crate) tty: bool,
    pub(crate) size: Option<(u16, u16)>,
    pub(crate) streams: Streams,
}

/// A command to run in a container.
pub(crate) struct NewExec<'a> {
    /// The container whose session keyring the command gets: ours, or the host's, has keys that are none of its business.
    pub(crate) keyring: Option<&'a str>,
    /// The container's first process.
    pub(crate) pid: i32,
    pub(crate) cgroup: &'a str,
    pub(crate) hierarchies: &'a Hierarchies,
    pub(crate) directory: &'a WorkloadDirectory,
    pub(crate) process: Process,
    /// How many descriptors from 3 on the program inherits.
    pub(crate) preserved: u32,
    pub(crate) tty: bool,
    pub(crate) size: Option<(u16, u16)>,
    pub(crate) streams: Streams,
}

/// A plain process to start.
pub(crate) struct NewProcess<'a> {
    pub(crate) cgroup: &'a str,
    pub(crate) hierarchies: &'a Hierarchies,
    pub(crate) request: &'a CreateProcess,
    /// Become the numbers in the request.
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) streams: Streams,
}

/// What was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) pid: i32,
    /// The terminal's master, for a terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

/// What makes containers. All but `start` is called in a helper.
pub(crate) trait Runtime {
    /// Makes a container whose process waits for `start`.
    fn create(&self, container: NewContainer<'_>) -> Result<Made, ContainerError>;
    /// Lets a made container's process go; does not block.
    fn start(&self, id: &str, directory: &WorkloadDirectory) -> Result<(), ContainerError>;
    /// Runs a command in a container.
    fn exec(&self, exec: NewExec<'_>) -> Result<Made, ContainerError>;
}

/// Starts a plain process; called in a helper.
pub(crate) fn spawn(process: NewProcess<'_>) -> Result<Made, ContainerError> {
    launch::spawn(process)
}
