//! A mount namespace with nearly nothing in it, from which those of containers are copied.
//!
//! A new mount namespace is a copy of its parent's, mount by mount, and giving up the host's mounts afterwards costs as much again.
//! All that a container needs of the host comes as detached mounts, so its namespace is copied from this seed: three mounts, however
//! many the host has. procfs and sysfs are among them, because a user namespace may only make what it can already see.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use cirro_sys::process::{clone_child, wait_for};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::options::{Attributes, Binding};
use super::tree;

/// `CLONE_NEWNS`.
const NEW_MOUNTS: i32 = 0x2_0000;
/// Where a container's root is attached first.
pub(super) const ROOT: &str = "/rootfs";

/// Makes the namespace. Called once, by a process with one thread.
pub(super) fn make() -> io::Result<OwnedFd> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let pid = clone_child(NEW_MOUNTS, None, || i32::from(plant(&theirs).is_err()))?;
    drop(theirs);
    let mut descriptors = Vec::new();
    let received = cirro_sys::descriptors::receive(&ours, &mut [0; 1], &mut descriptors);
    wait_for(pid)?;
    received?;
    descriptors.pop().ok_or_else(|| io::Error::other("no namespace came"))
}

fn plant(answer: &OwnedFd) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let shown = ["/proc", "/sys"];
    let trees = shown.map(|path| tree::copy_of(Path::new(path), Binding::Single));
    let root = tree::new("tmpfs", Some(Path::new("cirro")), &[], Attributes::default())?;
    for name in ["rootfs", "proc", "sys"] {
        rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o755))?;
    }
    // Any directory will do; this one is everywhere.
    let place = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    tree::attach(&root, &place)?;
    change_root(&root)?;
    for (path, tree) in shown.into_iter().zip(trees) {
        let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        tree::attach(tree?, &place)?;
    }
    let namespace = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    cirro_sys::descriptors::send(answer, b"n", &[namespace.as_fd()])?;
    Ok(())
}

/// Makes an attached mount the root and lets go of the old one.
pub(super) fn change_root(root: impl AsFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // The old root comes to lie over the new one, at the same place.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

#[cfg(test)]
mod tests {
    /// Needs a process with one thread, which a test is not: what is seen of it is in the tests of containers.
    #[test]
    fn a_threaded_process_makes_none() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || receiver.recv().is_ok());
        assert_eq!(super::make().expect_err("refused").kind(), std::io::ErrorKind::Unsupported);
        sender.send(()).expect("thread waits");
        other.join().expect("thread ends");
    }
}
