//! A container's files as its processes see them, running or not.
//!
//! A running container's view is copied from its mount namespace, so that its tmpfs and whatever was mounted since the start
//! are in it; what stands for the kernel (`/proc`, `/sys`, `/dev`) is not, as in dockerd. One that does not run gets its
//! overlay mounted with its volumes and binds, where nobody else sees it; its lock is held as long as that is used.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use cirro_container::Rootfs;
use cirro_image::files::Files;
use cirro_seams::container::Container;
use cirro_sys::mounts::Overlay;
use cirro_sys::views::{self, Part};
use rustix::fs::{Mode, OFlags};
use tokio::sync::OwnedMutexGuard;

use super::is_active;
use crate::Engine;
use crate::error::{EngineError, blocking, io};
use crate::spec::mounts::FILES;

/// Mount points of the kernel's own file systems.
const HIDDEN: [&str; 3] = ["/proc", "/sys", "/dev"];
const MAX_CGROUP_FILE: u64 = 64 << 10;

/// How much of what is mounted in a container belongs to a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounts {
    /// Volumes, binds and tmpfs.
    All,
    /// The root alone.
    None,
}

/// A container's files. A container that does not run cannot be started while there is one.
pub(crate) struct View {
    pub files: Files,
    /// What it was when the view was made.
    pub container: Container,
    _lock: Option<OwnedMutexGuard<()>>,
}

impl Engine {
    /// Opens a container's files.
    pub(crate) async fn view(&self, name: &str, mounts: Mounts) -> Result<View, EngineError> {
        let id = self.find_id(name)?;
        let lock = self.lock_container(&id).await?;
        let record = self.record(&id)?;
        let container = record.container.clone();
        let at = self.shared.options.scratch_dir();
        let running = if is_active(container.phase) { container.pid } else { None };
        let lock = if running.is_some() { None } else { Some(lock) };
        let dir = self.shared.options.container_dir(&id);
        let mounted = running.is_none() && mounts == Mounts::All;
        if mounted && let Err(error) = self.mount_volumes(&container).await {
            self.unmount_volumes(&container).await?;
            return Err(error);
        }
        let root = blocking(move || match running {
            Some(pid) => of_running(&id, pid, mounts),
            None => of_stopped(&record.root, &record.container, dir, at, mounts),
        })
        .await;
        if mounted {
            // The view has its own copies.
            self.unmount_volumes(&container).await?;
        }
        Ok(View { files: Files::new(root?), container, _lock: lock })
    }
}

fn of_running(id: &str, pid: i32, mounts: Mounts) -> Result<OwnedFd, EngineError> {
    let namespace = namespace_of(id, pid).map_err(io(format!("find the files of container {id}")))?;
    views::of_namespace(namespace, &HIDDEN, mounts == Mounts::All)
        .map_err(io(format!("open the files of container {id}")))
}

/// Opens the mount namespace of a container's first process. Its number may be another process' by now, so what it
/// is is asked through one descriptor.
fn namespace_of(id: &str, pid: i32) -> std::io::Result<OwnedFd> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let process =
        rustix::fs::open(format!("/proc/{pid}"), flags | OFlags::DIRECTORY | OFlags::PATH, Mode::empty())?;
    let namespace = rustix::fs::openat(&process, "ns/mnt", flags, Mode::empty())?;
    let cgroups = std::fs::File::from(rustix::fs::openat(&process, "cgroup", flags, Mode::empty())?);
    let mut text = String::new();
    cgroups.take(MAX_CGROUP_FILE).read_to_string(&mut text)?;
    if text.lines().any(|line| line.contains(id)) {
        return Ok(namespace);
    }
    Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the container has just ended"))
}

fn of_stopped(
    root: &Rootfs,
    container: &Container,
    dir: PathBuf,
    at: PathBuf,
    mounts: Mounts,
) -> Result<OwnedFd, EngineError> {
    let overlay = Overlay { lower: &root.lower, upper: Some((&root.upper, &root.work)) };
    let parts = if mounts == Mounts::All { parts(container, dir) } else { Vec::new() };
    views::assemble(&overlay, &parts, &at)
        .map_err(io(format!("open the files of container {}", container.id)))
}

/// What is mounted in a container that can be mounted again, parents first.
fn parts(container: &Container, dir: PathBuf) -> Vec<Part> {
    let covered = |target: &str| container.mounts.iter().any(|mount| mount.target == target);
    let own = FILES.iter().filter(|(_, target)| !covered(target)).map(|(name, target)| Part {
        source: dir.join(name),
        target: target.into(),
        recursive: false,
        read_only: false,
    });
    let mounted = container.mounts.iter().filter(|mount| mount.kind != "tmpfs").map(|mount| Part {
        source: mount.source.clone(),
        target: PathBuf::from(&mount.target),
        recursive: true,
        read_only: mount.read_only,
    });
    // A file that was never written has nothing to show; a bind whose source is gone neither.
    let mut parts: Vec<_> =
        own.chain(mounted).filter(|part| part.source.symlink_metadata().is_ok()).collect();
    parts.sort_by_key(|part| part.target.components().count());
    parts
}
