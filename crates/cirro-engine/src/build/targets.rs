//! Keeps what the runtime puts into a root to mount things on out of the layer that a step makes.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;

use cirro_container::Rootfs;
use rustix::fs::{AtFlags, FileType};

use crate::containers::create::open_layers;
use crate::layers::{Found, Layers, is_whiteout, parent_in_layer};

const TARGETS: [&str; 6] = ["/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/proc", "/sys", "/dev"];

/// Paths that the layer did not have before the step, the deepest first.
pub(super) struct MountTargets {
    absent: Vec<Vec<OsString>>,
}

impl MountTargets {
    /// Looks at a layer before a step runs over it with mounts of its own at `own`.
    pub(super) fn look<'a>(root: &Rootfs, own: impl IntoIterator<Item = &'a str>) -> io::Result<Self> {
        let layers = open_layers(root)?;
        let mut absent: Vec<Vec<OsString>> = Vec::new();
        for target in TARGETS.into_iter().chain(own) {
            let names = layers.resolve(target)?;
            for length in 1..=names.len() {
                let path = names[..length].to_vec();
                if !absent.contains(&path) && !exists(root, &path)? {
                    absent.push(path);
                }
            }
        }
        absent.sort_by_key(|path| std::cmp::Reverse(path.len()));
        Ok(Self { absent })
    }

    /// Takes them out again after the step; what the step itself made is left alone.
    pub(super) fn clean(&self, root: &Rootfs) -> io::Result<()> {
        let below = Layers::open(root.lower.iter().map(|dir| dir.as_path()))?;
        for path in &self.absent {
            let Some(parent) = parent_in_layer(&root.upper, path)? else { continue };
            let name = path.last().expect("paths have a name");
            let Ok(stat) = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                // Empty when the runtime made it: the step saw what was mounted there.
                FileType::RegularFile if stat.st_size == 0 => {
                    rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
                }
                FileType::Directory if !was_changed(&below, path, &stat)? => remove_if_empty(&parent, name)?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn exists(root: &Rootfs, path: &[OsString]) -> io::Result<bool> {
    let Some(parent) = parent_in_layer(&root.upper, path)? else { return Ok(false) };
    let name = path.last().expect("paths have a name");
    match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(!is_whiteout(&stat)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a directory that was copied up differs from what is below it.
fn was_changed(below: &Layers, path: &[OsString], stat: &rustix::fs::Stat) -> io::Result<bool> {
    let full: std::path::PathBuf = std::iter::once(OsString::from("/")).chain(path.iter().cloned()).collect();
    match below.find(&full.to_string_lossy())? {
        Some(Found::Directory(parts)) => {
            let before = rustix::fs::fstat(&parts[0])?;
            let of = |stat: &rustix::fs::Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
            Ok(of(&before) != of(stat))
        }
        _ => Ok(false),
    }
}

fn remove_if_empty(parent: &OwnedFd, name: &OsString) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn root() -> (tempfile::TempDir, Rootfs) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["upper", "work", "lower/etc"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        let root = Rootfs { lower: vec![path("lower")], upper: path("upper"), work: path("work") };
        (dir, root)
    }

    #[test]
    fn what_the_runtime_made_goes_and_what_the_step_made_stays() {
        let (_dir, root) = root();
        let targets = MountTargets::look(&root, []).unwrap();
        fs::create_dir_all(root.upper.join("etc")).unwrap();
        fs::create_dir_all(root.upper.join("proc")).unwrap();
        fs::write(root.upper.join("etc/hosts"), "").unwrap();
        fs::write(root.upper.join("etc/own"), "").unwrap();
        targets.clean(&root).unwrap();
        assert!(!root.upper.join("proc").exists() && !root.upper.join("etc/hosts").exists());
        assert!(root.upper.join("etc/own").exists());
        fs::remove_file(root.upper.join("etc/own")).unwrap();
        targets.clean(&root).unwrap();
        assert!(!root.upper.join("etc").exists());
    }

    #[test]
    fn what_was_there_before_and_what_was_changed_stays() {
        let (_dir, root) = root();
        fs::create_dir_all(root.upper.join("etc")).unwrap();
        fs::write(root.upper.join("etc/hosts"), "").unwrap();
        fs::create_dir_all(root.lower[0].join("dev")).unwrap();
        let targets = MountTargets::look(&root, []).unwrap();
        fs::create_dir_all(root.upper.join("dev")).unwrap();
        fs::set_permissions(root.upper.join("dev"), fs::Permissions::from_mode(0o700)).unwrap();
        targets.clean(&root).unwrap();
        assert!(root.upper.join("etc/hosts").exists());
        assert!(root.upper.join("dev").exists());
    }

    /// CVE-2024-23652: a step puts a link in the place of a mount point's parent, and the cleaning up removes what is
    /// on the host where the link leads.
    #[test]
    fn a_hostile_link_leads_nowhere() {
        let (dir, root) = root();
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("point")).unwrap();
        fs::write(outside.join("hosts"), "").unwrap();
        let targets = MountTargets::look(&root, ["/mnt/point", "/mnt/hosts"]).unwrap();
        symlink(&outside, root.upper.join("etc")).unwrap();
        symlink(&outside, root.upper.join("mnt")).unwrap();
        targets.clean(&root).unwrap();
        assert!(outside.join("hosts").exists() && outside.join("point").exists());
        assert!(root.upper.join("mnt").is_symlink());
    }
}
