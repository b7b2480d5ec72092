//! Views of a container's files: a tree of mounts that only the holder of its descriptor sees.
//!
//! A view is a detached copy of mounts, so paths below its descriptor cross from one mount into the next as they do for a
//! process inside, while the host's mount table has nothing of it and nothing has to be unmounted: it goes with the
//! descriptor. Copies can be made in the mount namespace they are in only; that is done by a thread of its own, which
//! leaves the process' namespace, makes the copy and ends. It reads no file and executes nothing in there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::mounts::Overlay;

/// Something that is mounted into a view.
#[derive(Debug)]
pub struct Part {
    /// Path on the host.
    pub source: PathBuf,
    /// Path in the view; links are followed inside it, and what is missing is made.
    pub target: PathBuf,
    /// Whether what is mounted below the source comes with it.
    pub recursive: bool,
    /// Whether nothing can be written to it.
    pub read_only: bool,
}

/// Makes the view of a container that does not run: its overlay with its parts mounted in order.
///
/// `at` is any directory; the overlay is mounted there for a moment, seen by nobody.
///
/// # Errors
/// The kernel's.
pub fn assemble(root: &Overlay<'_>, parts: &[Part], at: &Path) -> io::Result<OwnedFd> {
    // Opened before anything is mounted over a part of their paths.
    let sources = parts.iter().map(open_source).collect::<io::Result<Vec<_>>>()?;
    on_own_thread(|| {
        leave()?;
        let root = match root.detached() {
            Ok(root) => root,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                root.mount(at)?;
                open(at)?
            }
            Err(error) => return Err(error),
        };
        if parts.is_empty() {
            return copy_of(&root, false);
        }
        // Only what is mounted somewhere can have mounts in it.
        attach(&root, CWD, at)?;
        let root = open(at)?;
        for (part, (source, kind)) in parts.iter().zip(&sources) {
            add(&root, part, source, *kind)?;
        }
        copy_of(&root, true)
    })
}

/// Makes the view of a running container, given by the file of its mount namespace.
///
/// `hidden` are mount points whose mounts are left out (`/proc`); without `submounts` there is the root alone.
///
/// # Errors
/// The kernel's.
pub fn of_namespace(namespace: OwnedFd, hidden: &[&str], submounts: bool) -> io::Result<OwnedFd> {
    on_own_thread(|| {
        // SAFETY: only this thread's root, working directory and mask become its own.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS)? };
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
        if !submounts {
            return copy_of(&open(Path::new("/"))?, false);
        }
        // From here on in a copy of the container's mounts, so that it loses nothing.
        leave()?;
        for path in hidden {
            match rustix::mount::unmount(*path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        copy_of(&open(Path::new("/"))?, true)
    })
}

fn leave() -> io::Result<()> {
    // SAFETY: only this thread's view of mounts becomes its own; descriptors and memory are not touched.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS)? };
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", private)?)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn open_source(part: &Part) -> io::Result<(OwnedFd, FileType)> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if part.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let source = rustix::mount::open_tree(CWD, &part.source, flags)?;
    if part.read_only {
        set_read_only(&source)?;
    }
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&source)?.st_mode);
    Ok((source, kind))
}

/// Makes a detached mount, and what is mounted below it, read-only.
///
/// # Errors
/// The kernel's.
pub fn set_read_only(mount: impl AsFd) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is an empty C string, the structure is valid and its size is given.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn attach(mount: &OwnedFd, at: impl AsFd, path: &Path) -> io::Result<()> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.as_os_str().is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    Ok(rustix::mount::move_mount(mount, "", at, path, flags)?)
}

fn add(root: &OwnedFd, part: &Part, source: &OwnedFd, kind: FileType) -> io::Result<()> {
    let target = match resolve(root, &part.target) {
        Err(Errno::NOENT) => {
            make(root, &part.target, kind)?;
            resolve(root, &part.target)?
        }
        target => target?,
    };
    attach(source, &target, Path::new(""))
}

fn resolve(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    loop {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root, path, flags, Mode::empty(), how) {
            // Something was renamed meanwhile; the kernel asks for another try.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Makes a mount point and its parents.
fn make(root: &OwnedFd, path: &Path, kind: FileType) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent_fd = match resolve(root, parent) {
        Err(Errno::NOENT) => {
            make(root, parent, FileType::Directory)?;
            resolve(root, parent)?
        }
        parent => parent?,
    };
    let made = if kind == FileType::Directory {
        rustix::fs::mkdirat(&parent_fd, name, Mode::from_raw_mode(0o755))
    } else {
        rustix::fs::mknodat(&parent_fd, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Copies a mount, detached from everything.
fn copy_of(mount: &OwnedFd, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    match rustix::mount::open_tree(mount, "", flags | OpenTreeFlags::AT_EMPTY_PATH) {
        // One that is detached already cannot be copied before Linux 6.15, and need not be.
        Err(Errno::INVAL) if !recursive => Ok(rustix::io::fcntl_dupfd_cloexec(mount, 3)?),
        copy => Ok(copy?),
    }
}

fn on_own_thread(work: impl FnOnce() -> io::Result<OwnedFd> + Send) -> io::Result<OwnedFd> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("view".into())
            .stack_size(512 * 1024)
            .spawn_scoped(scope, work)?;
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_a_view_has_its_parts_and_the_host_sees_none_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let [lower, upper, work, at, volume] =
            ["lower", "upper", "work", "at", "volume"].map(|name| dir.path().join(name));
        for path in [&lower, &upper, &work, &at, &volume] {
            std::fs::create_dir(path).unwrap();
        }
        std::fs::write(lower.join("file"), "lower").unwrap();
        std::os::unix::fs::symlink("/../data", lower.join("link")).unwrap();
        std::fs::write(volume.join("inner"), "volume").unwrap();
        let part =
            Part { source: volume.clone(), target: "/link/deep".into(), recursive: true, read_only: true };
        std::fs::create_dir(lower.join("data")).unwrap();
        let lowers = [lower.clone()];
        let overlay = Overlay { lower: &lowers, upper: Some((&upper, &work)) };
        let view = assemble(&overlay, &[part], &at).unwrap();
        let read = |path: &str| {
            let file = rustix::fs::openat(&view, path, OFlags::RDONLY, Mode::empty()).unwrap();
            std::io::read_to_string(std::fs::File::from(file)).unwrap()
        };
        assert_eq!((read("file").as_str(), read("data/deep/inner").as_str()), ("lower", "volume"));
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let refused = rustix::fs::openat(&view, "data/deep/new", flags, Mode::RWXU).unwrap_err();
        assert_eq!(refused, Errno::ROFS);
        rustix::fs::openat(&view, "new", flags, Mode::RWXU).unwrap();
        assert!(upper.join("new").exists());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(dir.path().to_str().unwrap()));
        assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0);
    }

    #[test]
    fn root_a_view_of_a_namespace_leaves_out_what_is_hidden() {
        let namespace = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY, Mode::empty()).unwrap();
        let view = of_namespace(namespace, &["/proc", "/none"], true).unwrap();
        let hidden = rustix::fs::openat(&view, "proc/self", OFlags::PATH, Mode::empty());
        assert_eq!(hidden.unwrap_err(), Errno::NOENT);
        assert!(Path::new("/proc/self").exists());
        rustix::fs::openat(&view, "etc/passwd", OFlags::RDONLY, Mode::empty()).unwrap();
    }
}
