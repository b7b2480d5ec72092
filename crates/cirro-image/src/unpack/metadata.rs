//! Owner, mode, extended attributes and time of what was unpacked.
//!
//! The order matters: chown clears set-id bits and capabilities, access control lists change the
//! mode, and writing attributes does not change the modification time.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid};

use crate::confine::Directory;
use crate::tarball::{Member, Time};
use crate::xattr;

type Result = rustix::io::Result<()>;

pub(crate) fn set_directory(member: &Member, directory: &Directory) -> Result {
    let fd = directory.fd.as_fd();
    rustix::fs::fchown(fd, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))?;
    portable(member).try_for_each(|(name, value)| xattr::set_open(fd, name, value))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(member.mode))
}

pub(crate) fn set_owner_and_mode(fd: impl AsFd, uid: u32, gid: u32, mode: u32) -> Result {
    rustix::fs::fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))
}

/// A file that was just made with the owner and mode in `made`; most often these are right already.
pub(crate) fn set_file(member: &Member, file: impl AsFd, made: &Stat) -> Result {
    let fd = file.as_fd();
    if (made.st_uid, made.st_gid) != (member.uid, member.gid) {
        rustix::fs::fchown(fd, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))?;
    }
    portable(member).try_for_each(|(name, value)| xattr::set_open(fd, name, value))?;
    if made.st_mode & 0o7777 != member.mode || !member.xattrs.is_empty() {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(member.mode))?;
    }
    set_time(fd, member.time)
}

pub(crate) fn set_symlink(member: &Member, parent: &Directory, name: &[u8]) -> Result {
    set_owner(member, parent, name)?;
    set_xattrs(member, &xattr::path_at(&parent.fd, name))?;
    set_time_at(member, parent, name)
}

/// A device or FIFO that was just made, which is why its mode can be set through its name.
pub(crate) fn set_node(member: &Member, parent: &Directory, name: &[u8]) -> Result {
    set_owner(member, parent, name)?;
    set_xattrs(member, &xattr::path_at(&parent.fd, name))?;
    rustix::fs::chmodat(&parent.fd, name, Mode::from_raw_mode(member.mode), AtFlags::empty())?;
    set_time_at(member, parent, name)
}

pub(crate) fn set_time(fd: impl AsFd, time: Time) -> Result {
    rustix::fs::futimens(fd, &timestamps(time))
}

fn set_owner(member: &Member, parent: &Directory, name: &[u8]) -> Result {
    let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
    rustix::fs::chownat(&parent.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

fn set_time_at(member: &Member, parent: &Directory, name: &[u8]) -> Result {
    rustix::fs::utimensat(&parent.fd, name, &timestamps(member.time), AtFlags::SYMLINK_NOFOLLOW)
}

fn set_xattrs(member: &Member, path: &[u8]) -> Result {
    portable(member).try_for_each(|(name, value)| xattr::set(path, name, value))
}

/// Overlayfs' own attributes are dropped: from outside they would forge the mount's structure.
fn portable(member: &Member) -> impl Iterator<Item = (&[u8], &[u8])> {
    member
        .xattrs
        .iter()
        .filter(|(name, _)| !xattr::is_overlay(name))
        .map(|(name, value)| (&name[..], &value[..]))
}

fn timestamps(time: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
    }
}
