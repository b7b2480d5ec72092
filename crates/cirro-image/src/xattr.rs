//! Extended attributes, and those of them that belong to overlayfs.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Marks a directory that hides the one below it.
pub(crate) const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Overlayfs' own, in a mount by root and in one with `userxattr`.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// What the kernel takes as a value.
const MAX_VALUE: usize = 64 << 10;
/// What the kernel takes as a list of names.
const MAX_LIST: usize = 64 << 10;

/// Names an entry of an open directory for the calls that have no `...at` form.
///
/// The descriptor fixes the directory, and the `l...xattr` calls do not follow the last component.
pub(crate) fn path_at(directory: impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Tells whether an attribute is overlayfs' own: in a layer from outside it would forge the mount's structure.
pub(crate) fn is_overlay(name: &[u8]) -> bool {
    OVERLAY.iter().any(|prefix| name.starts_with(prefix))
}

/// Tells whether an attribute is a part of a layer: what programs and people set, not what this host adds.
pub(crate) fn is_portable(name: &[u8]) -> bool {
    let kept: [&[u8]; 4] = [b"user.", b"trusted.", b"security.capability", b"system.posix_acl_"];
    !is_overlay(name) && kept.iter().any(|prefix| name.starts_with(prefix))
}

/// Sets an attribute by [`path_at`]'s path. A file system that has no such attributes is not an error, as in docker.
pub(crate) fn set(path: &[u8], name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
    supported(name, rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()))
}

/// Sets an attribute of an open file.
pub(crate) fn set_open(fd: impl AsFd, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
    supported(name, rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()))
}

fn supported(name: &[u8], result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    if result == Err(Errno::OPNOTSUPP) {
        tracing::debug!(name = %String::from_utf8_lossy(name), "attribute is not supported here");
        return Ok(());
    }
    result
}

/// Reads an attribute of an open file, if it has it.
pub(crate) fn get_open(fd: impl AsFd, name: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; MAX_VALUE];
    match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Removes an attribute.
pub(crate) fn remove(path: &[u8], name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::lremovexattr(path, name)
}

/// Reads every attribute, in the order of their names.
pub(crate) fn all(path: &[u8]) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let size = match rustix::fs::llistxattr_query(path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut list = vec![0; size.min(MAX_LIST)];
    let length = rustix::fs::llistxattr(path, &mut list[..])?;
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; MAX_VALUE];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}
