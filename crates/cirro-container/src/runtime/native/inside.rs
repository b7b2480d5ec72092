//! Paths inside a container's root: found and made by descriptor, one component after the other, never by string.
//!
//! The root may belong to somebody who changes it while we look. Nothing here leaves it, whatever links say, and what was found
//! is used by its descriptor, so that it cannot become something else in between.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What is to be at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Directory,
    File,
}

/// Whether links inside the root may be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    Follow,
    Refuse,
}

/// Races with renames make the kernel answer `EAGAIN`; an attacker may keep at it, so not for ever.
const MOST_TRIES: usize = 64;

/// Opens a path as a place (`O_PATH`).
pub(super) fn find(root: impl AsFd, path: &Path, links: Links) -> io::Result<OwnedFd> {
    open(root, path, OFlags::PATH, links)
}

/// Opens a path.
pub(super) fn open(root: impl AsFd, path: &Path, flags: OFlags, links: Links) -> io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut flags = flags | OFlags::CLOEXEC;
    if links == Links::Refuse {
        resolve |= ResolveFlags::NO_SYMLINKS;
        flags |= OFlags::NOFOLLOW;
    }
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries < MOST_TRIES => tries += 1,
            result => return Ok(result?),
        }
    }
}

/// Opens a path as a place and makes what is missing of it.
pub(super) fn find_or_make(root: impl AsFd, path: &Path, sort: Sort, links: Links) -> io::Result<OwnedFd> {
    match find(&root, path, links) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let (mut made, mut place) = (PathBuf::from("/"), find(&root, Path::new("/"), links)?);
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        match component {
            Component::Normal(name) => {
                let last = components.peek().is_none();
                make_one(&place, name, if last { sort } else { Sort::Directory })?;
                made.push(name);
            }
            Component::ParentDir => drop(made.pop()),
            _ => continue,
        }
        place = find(&root, &made, links)?;
    }
    Ok(place)
}

/// Whether there is something at a path.
pub(super) fn is_there(root: impl AsFd, path: &Path) -> bool {
    find(&root, path, Links::Follow).is_ok()
}

/// A link that leads nowhere counts as being there; the caller finds that it cannot be opened.
fn make_one(parent: &OwnedFd, name: &OsStr, sort: Sort) -> io::Result<()> {
    let result = match sort {
        Sort::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Sort::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match result {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What a descriptor stands for.
pub(super) fn sort_of(place: impl AsFd) -> io::Result<Sort> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(place)?.st_mode);
    Ok(if kind == FileType::Directory { Sort::Directory } else { Sort::File })
}

/// Splits a path into what must be there and the name in it.
pub(super) fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} has no name", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_nowhere_but_inside() {
        let outside = tempfile::tempdir().expect("outside");
        let root = tempfile::tempdir().expect("root");
        std::fs::create_dir(root.path().join("real")).expect("directory");
        symlink("/real", root.path().join("absolute")).expect("link");
        symlink(outside.path(), root.path().join("out")).expect("link");
        symlink("../../../../..", root.path().join("up")).expect("link");
        let handle = rustix::fs::open(root.path(), OFlags::PATH, Mode::empty()).expect("open");
        find_or_make(&handle, Path::new("/absolute/a/b"), Sort::Directory, Links::Follow).expect("made");
        assert!(root.path().join("real/a/b").is_dir());
        find_or_make(&handle, Path::new("up/x/y"), Sort::File, Links::Follow).expect("made");
        assert!(root.path().join("x/y").is_file());
        // The link's target exists outside, not inside.
        assert!(find_or_make(&handle, Path::new("/out/evil"), Sort::File, Links::Follow).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).expect("list").count(), 0);
        assert!(find_or_make(&handle, Path::new("/absolute/c"), Sort::File, Links::Refuse).is_err());
        assert!(find(&handle, Path::new("/proc/self/root"), Links::Follow).is_err());
    }

    #[test]
    fn parents_are_counted_after_links() {
        let root = tempfile::tempdir().expect("root");
        std::fs::create_dir_all(root.path().join("a")).expect("directory");
        let handle = rustix::fs::open(root.path(), OFlags::PATH, Mode::empty()).expect("open");
        find_or_make(&handle, Path::new("/a/../../../b"), Sort::Directory, Links::Follow).expect("made");
        assert!(root.path().join("b").is_dir());
    }
}
