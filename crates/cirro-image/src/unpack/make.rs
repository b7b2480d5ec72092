//! What every unpacking makes in the same way: files, devices, pipes.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::metadata;
use crate::confine::Directory;
use crate::tarball::{Kind, Member};

/// Makes a new file; set-id bits wait until it has its owner.
pub(crate) fn file(parent: &Directory, name: &[u8], mode: u32) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&parent.fd, name, flags, Mode::from_raw_mode(mode & 0o777))
}

/// Refuses a device that cannot be: Linux has 12 and 20 bits; a character device 0/0 would be a whiteout to overlayfs.
pub(crate) fn check_device(member: &Member) -> rustix::io::Result<()> {
    let (major, minor) = member.device;
    let whiteout = member.kind == Kind::Character && member.device == (0, 0);
    if major > 0xfff || minor > 0xf_ffff || whiteout { Err(Errno::INVAL) } else { Ok(()) }
}

/// Makes a device or pipe, after [`check_device`], where nothing is.
pub(crate) fn node(member: &Member, parent: &Directory, name: &[u8]) -> rustix::io::Result<()> {
    let kind = match member.kind {
        Kind::Character => FileType::CharacterDevice,
        Kind::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let (major, minor) = member.device;
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(&parent.fd, name, kind, Mode::from_raw_mode(0o600), device)?;
    metadata::set_node(member, parent, name)
}
