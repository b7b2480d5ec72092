//! A container's root: overlay layers, mounted where only the helper and the container see it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use cirro_sys::mounts::Overlay;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::WorkloadDirectory;
use crate::error::ContainerError;
use crate::request::Rootfs;

/// Leaves the host's mount namespace and mounts the root at the bundle's `rootfs`.
pub(super) fn mount(rootfs: &Rootfs, directory: &WorkloadDirectory) -> Result<(), ContainerError> {
    cirro_sys::namespaces::leave_mount_namespace()
        .map_err(|error| ContainerError::runtime("leave mount namespace", &error))?;
    let empty = [directory.empty()];
    let lower = if rootfs.lower.is_empty() { &empty[..] } else { &rootfs.lower[..] };
    let overlay = Overlay { lower, upper: Some((&rootfs.upper, &rootfs.work)) };
    overlay
        .mount(&directory.bundle().join("rootfs"))
        .map_err(|error| ContainerError::runtime(&format!("mount overlay of {} layers", lower.len()), &error))
}

/// Makes a directory in the root, as docker does with a working directory that the image lacks. Links are followed inside the
/// root only.
pub(super) fn ensure_directory(rootfs: &Path, path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(rootfs, flags, Mode::empty())?;
    let mut made = std::path::PathBuf::from("/");
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        let parent = open_in(&root, &made, flags)?;
        made.push(name);
        match make_one(&parent, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    open_in(&root, &made, flags).map(drop)
}

fn make_one(parent: impl AsFd, name: &OsStr) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
}

fn open_in(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_inside_the_root_whatever_links_say() {
        let root = tempfile::tempdir().expect("root");
        std::fs::create_dir(root.path().join("real")).expect("directory");
        std::os::unix::fs::symlink("/real", root.path().join("link")).expect("link");
        ensure_directory(root.path(), Path::new("/link/a/b")).expect("made");
        assert!(root.path().join("real/a/b").is_dir());
        std::fs::write(root.path().join("file"), "").expect("file");
        assert!(ensure_directory(root.path(), Path::new("/file/x")).is_err());
    }
}
