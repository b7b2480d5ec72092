//! Namespaces and shared memory that containers share.
//!
//! A container that others may join has its `/dev/shm` on a mount of the host's, since a mount in its own namespace cannot be
//! bound anywhere else. That mount goes at the container's end; what a crash leaves of it is swept at the next start.

use std::path::{Path, PathBuf};

use cirro_seams::container::{Container, ContainerSpec, IpcMode, PidMode};
use rustix::mount::{MountFlags, UnmountFlags};

use super::is_active;
use crate::Engine;
use crate::error::{EngineError, blocking, io};
use crate::spec::mounts::SHM_SIZE;
use crate::spec::namespaces::Joined;

impl Engine {
    /// Finds every namespace that a container joins, and makes the memory that it shares.
    pub(super) async fn join_namespaces(
        &self,
        container: &Container,
        network: Option<PathBuf>,
    ) -> Result<Joined, EngineError> {
        let spec = &container.spec;
        let pid = match &spec.pid_mode {
            PidMode::Container(other) => {
                Some(self.namespace_of(other, "pid").map_err(within("failed to join PID namespace"))?)
            }
            _ => None,
        };
        let (ipc, shm) = match &spec.namespaces.ipc {
            IpcMode::Container(other) => {
                let (file, shm) =
                    self.shared_memory_of(other).map_err(within("failed to join IPC namespace"))?;
                (Some(file), Some(shm))
            }
            IpcMode::Host => (None, Some("/dev/shm".into())),
            IpcMode::Shareable => (None, Some(self.make_shared_memory(&container.id, spec).await?)),
            IpcMode::Private | IpcMode::None => (None, None),
        };
        Ok(Joined { network, pid, ipc, shm })
    }

    /// Returns the file of a running container's namespace.
    fn namespace_of(&self, other: &str, kind: &str) -> Result<PathBuf, EngineError> {
        let other = self.container(other)?;
        match other.pid.filter(|_| is_active(other.phase)) {
            Some(pid) => Ok(format!("/proc/{pid}/ns/{kind}").into()),
            None => Err(EngineError::Conflict(format!("container {} is not running", other.id))),
        }
    }

    fn shared_memory_of(&self, other: &str) -> Result<(PathBuf, PathBuf), EngineError> {
        let file = self.namespace_of(other, "ipc")?;
        let other = self.container(other)?;
        let shm = match &other.spec.namespaces.ipc {
            IpcMode::Shareable => self.shared.options.shm_dir(&other.id),
            IpcMode::Host => "/dev/shm".into(),
            _ => {
                return Err(EngineError::Invalid(format!(
                    "container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                    other.id
                )));
            }
        };
        Ok((file, shm))
    }

    async fn make_shared_memory(&self, id: &str, spec: &ContainerSpec) -> Result<PathBuf, EngineError> {
        let dir = self.shared.options.shm_dir(id);
        let size = spec.shm_size.unwrap_or(SHM_SIZE);
        let target = dir.clone();
        blocking(move || mount_memory(&target, size)).await?;
        Ok(dir)
    }

    /// Takes a container's shared memory away; none is no error.
    pub(crate) fn drop_shared_memory(&self, container: &Container) -> Result<(), EngineError> {
        match container.spec.namespaces.ipc {
            IpcMode::Shareable => unmount(&self.shared.options.shm_dir(&container.id)),
            _ => Ok(()),
        }
    }

    /// Takes away the shared memory of containers that do not run.
    pub(crate) fn sweep_shared_memory(&self) -> Result<(), EngineError> {
        for id in self.stray_shared_memory() {
            tracing::info!(container = id, "shared memory without a container removed");
            unmount(&self.shared.options.shm_dir(&id))?;
        }
        Ok(())
    }

    /// Lists shared memory whose container does not run.
    pub(crate) fn stray_shared_memory(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.shared.options.shm_root()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let table = self.table();
        let used = |id: &str| {
            table.get(id).is_some_and(|entry| is_active(entry.record.container.phase) || entry.is_busy())
        };
        names.filter(|id| !used(id)).collect()
    }
}

fn within(what: &'static str) -> impl FnOnce(EngineError) -> EngineError {
    move |error| match error {
        EngineError::Conflict(text) => EngineError::Conflict(format!("{what}: {text}")),
        EngineError::Invalid(text) | EngineError::NotFound(text) => {
            EngineError::Invalid(format!("{what}: {text}"))
        }
        other => other,
    }
}

fn mount_memory(dir: &Path, size: u64) -> Result<(), EngineError> {
    // What a crash left there is not this run's.
    unmount(dir)?;
    std::fs::create_dir_all(dir).map_err(io(format!("make {}", dir.display())))?;
    let options =
        std::ffi::CString::new(format!("mode=1777,size={size}")).expect("a number has no zero byte");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("shm", dir, "tmpfs", flags, Some(options.as_c_str()))
        .map_err(|error| io(format!("mount {}", dir.display()))(error.into()))
}

fn unmount(dir: &Path) -> Result<(), EngineError> {
    loop {
        match rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not there, or no mount (any more).
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(io(format!("unmount {}", dir.display()))(error.into())),
        }
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io(format!("remove {}", dir.display()))(error))
        }
        _ => Ok(()),
    }
}
