//! A container's terminal: from its own devpts, controlled by its first process, at `/dev/console`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::channel::{Word, say};
use super::inside::{Links, Sort, find, find_or_make, split};
use super::options::Binding;
use super::tree;
use crate::runtime::ptmx;

/// Opens it, hands the master over, and returns the side that the program gets.
pub(super) fn open(
    root: &OwnedFd,
    size: Option<(u16, u16)>,
    user: u32,
    status: &OwnedFd,
) -> io::Result<OwnedFd> {
    let (master, slave) = ptmx::open_in(root)?;
    if let Some(size) = size {
        ptmx::set_size(&master, size)?;
    }
    if user != 0 {
        rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(user)), None)?;
    }
    show_as_console(root, &slave)?;
    say(status, &Word::Terminal, Some(master.as_fd()))?;
    Ok(slave)
}

/// What is bound is the open terminal itself, not a path of the container's (CVE-2025-52565), to a place without links.
fn show_as_console(root: &OwnedFd, slave: &OwnedFd) -> io::Result<()> {
    let copy = tree::copy_at(slave, Binding::Single)?;
    let (meant, found) = (rustix::fs::fstat(slave)?, rustix::fs::fstat(&copy)?);
    if (meant.st_dev, meant.st_ino, meant.st_rdev) != (found.st_dev, found.st_ino, found.st_rdev) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the terminal has become something else"));
    }
    let path = Path::new("/dev/console");
    let (parent, name) = split(path)?;
    let parent = find_or_make(root, parent, Sort::Directory, Links::Follow)?;
    let flags = OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::RDONLY
        | OFlags::NONBLOCK
        | OFlags::EXCL
        | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600)) {
        Ok(_) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    tree::attach(copy, find(root, path, Links::Refuse)?)
}
