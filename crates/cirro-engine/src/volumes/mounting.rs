//! Volumes that something is mounted on: a tmpfs, another directory, a server's files.
//!
//! As with dockerd the mount is the host's, at the volume's directory, so that all who use the volume see the same; it is there as
//! long as a container runs that uses the volume. What a crash leaves of it is swept at the next start, and no volume is
//! removed with something mounted on it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::path::Path;

use cirro_seams::container::Container;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::{Volume, local};
use crate::Engine;
use crate::containers::is_active;
use crate::error::{EngineError, blocking, io};

/// Attributes of a bind take a second step.
const REMOUNTED: MountFlags = MountFlags::RDONLY
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC)
    .union(MountFlags::NOATIME)
    .union(MountFlags::NODIRATIME);

impl Engine {
    /// Mounts what the volumes of a container that is about to run want.
    pub(crate) async fn mount_volumes(&self, container: &Container) -> Result<(), EngineError> {
        for volume in self.mounted_volumes_of(container) {
            let _guard = self.shared.keyed.lock(&format!("volume {}", volume.name)).await;
            let path = volume.mountpoint.display().to_string();
            self.mounted_by().entry(volume.name.clone()).or_default().insert(container.id.clone());
            self.mount_locked(&volume).await.map_err(|error| {
                EngineError::Failed(format!("error while mounting volume '{path}': {error}"))
            })?;
        }
        Ok(())
    }

    /// Unmounts those volumes of a container that has ended that no other one uses.
    pub(crate) async fn unmount_volumes(&self, container: &Container) -> Result<(), EngineError> {
        for volume in self.mounted_volumes_of(container) {
            let _guard = self.shared.keyed.lock(&format!("volume {}", volume.name)).await;
            if let Some(users) = self.mounted_by().get_mut(&volume.name) {
                users.remove(&container.id);
            }
            self.unmount_unused_locked(&volume, Some(&container.id)).await?;
        }
        Ok(())
    }

    fn mounted_by(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        self.shared.volume_users.lock().expect("no panic while it is held")
    }

    /// Unmounts every volume that no container uses.
    pub(crate) async fn sweep_mounted_volumes(&self) -> Result<(), EngineError> {
        for volume in self.volumes() {
            if local::wanted(&volume.options).is_some() {
                let _guard = self.shared.keyed.lock(&format!("volume {}", volume.name)).await;
                self.unmount_unused_locked(&volume, None).await?;
            }
        }
        Ok(())
    }

    /// Lists volumes that are mounted though nobody uses them.
    pub(crate) fn idle_mounted_volumes(&self) -> Vec<String> {
        let idle = |volume: &Volume| {
            local::wanted(&volume.options).is_some()
                && !self.is_used(&volume.name, None)
                && is_mounted(&volume.mountpoint)
        };
        self.volumes().into_iter().filter(idle).map(|volume| volume.name).collect()
    }

    fn mounted_volumes_of(&self, container: &Container) -> Vec<Volume> {
        let table = self.volume_table();
        let names = container.mounts.iter().filter_map(|mount| mount.name.as_ref());
        let volumes = names.filter_map(|name| table.get(name));
        volumes.filter(|volume| local::wanted(&volume.options).is_some()).cloned().collect()
    }

    /// Mounts a volume whose lock is held; one that is mounted stays as it is.
    pub(super) async fn mount_locked(&self, volume: &Volume) -> Result<(), EngineError> {
        let Some(mut wanted) = local::wanted(&volume.options) else { return Ok(()) };
        if let Some(name) = wanted.server_name().map(str::to_owned) {
            let unknown = |why: String| {
                EngineError::Failed(format!("error resolving passed in network volume address: {why}"))
            };
            let addresses =
                cirro_net::resolve_host(&name).await.map_err(|error| unknown(error.to_string()))?;
            let address = addresses.first().ok_or_else(|| unknown(format!("lookup {name}: no such host")))?;
            wanted.set_server(&name, *address);
        }
        let target = volume.mountpoint.clone();
        blocking(move || if is_mounted(&target) { Ok(()) } else { mount(&wanted, &target) }).await
    }

    /// Unmounts a volume whose lock is held, unless somebody other than `but` uses it.
    pub(super) async fn unmount_unused_locked(
        &self,
        volume: &Volume,
        but: Option<&str>,
    ) -> Result<(), EngineError> {
        if local::wanted(&volume.options).is_none() || self.is_used(&volume.name, but) {
            return Ok(());
        }
        let target = volume.mountpoint.clone();
        blocking(move || unmount(&target)).await
    }

    /// Whether somebody has had a volume mounted, or a container that runs has it since before this daemon.
    fn is_used(&self, volume: &str, but: Option<&str>) -> bool {
        if self.mounted_by().get(volume).is_some_and(|users| !users.is_empty()) {
            return true;
        }
        let table = self.table();
        table.newest_first().any(|entry| {
            let container = &entry.record.container;
            Some(container.id.as_str()) != but
                && container.mounts.iter().any(|mount| mount.name.as_deref() == Some(volume))
                && is_active(container.phase)
        })
    }
}

/// Whether something is mounted at a path. A server that does not answer is not asked.
pub(super) fn is_mounted(path: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(CWD, path, flags, StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn mount(wanted: &local::Wanted, target: &Path) -> Result<(), EngineError> {
    try_mount(wanted, target).map_err(|errno| {
        // What was mounted before a later step failed.
        let _ = unmount(target);
        let mut text = format!("mount {}:{}", wanted.device, target.display());
        if !wanted.flags.is_empty() {
            text.push_str(&format!(", flags: {:#x}", wanted.flags.bits()));
        }
        if !wanted.data.is_empty() {
            text.push_str(&format!(", data: {}", wanted.told()));
        }
        EngineError::Failed(format!("failed to mount local volume: {text}: {}", reason(errno)))
    })
}

fn try_mount(wanted: &local::Wanted, target: &Path) -> Result<(), Errno> {
    let text = |text: &str| CString::new(text).map_err(|_| Errno::INVAL);
    let data = text(&wanted.data)?;
    let data = (!wanted.data.is_empty()).then_some(data.as_c_str());
    rustix::mount::mount(wanted.device.as_str(), target, wanted.kind.as_str(), wanted.flags, data)?;
    if wanted.flags.contains(MountFlags::BIND) && wanted.flags.intersects(REMOUNTED) {
        let flags = (wanted.flags & REMOUNTED) | MountFlags::BIND;
        rustix::mount::mount_remount(target, flags, c"")?;
    }
    match wanted.propagation {
        Some(propagation) => rustix::mount::mount_change(target, propagation),
        None => Ok(()),
    }
}

/// Takes away whatever is mounted at a path; nothing is no error.
pub(super) fn unmount(target: &Path) -> Result<(), EngineError> {
    loop {
        match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not there, or no mount (any more).
            Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
            Err(error) => return Err(io(format!("unmount {}", target.display()))(error.into())),
        }
    }
}

/// An error as Go writes it.
fn reason(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_gos() {
        assert_eq!(reason(Errno::NODEV), "no such device");
        assert_eq!(reason(Errno::NOENT), "no such file or directory");
    }

    #[test]
    fn a_directory_is_not_mounted_and_unmounting_nothing_is_no_error_as_root() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_mounted(directory.path()) && is_mounted(Path::new("/proc")));
        unmount(directory.path()).unwrap();
        unmount(&directory.path().join("missing")).unwrap();
    }
}
