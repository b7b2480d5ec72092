//! Mounts as descriptors: made or copied detached, changed, then attached.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use cirro_sys::mounts::{Change, change};
use rustix::fs::{CWD, FileType};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::options::{Attributes, Binding, propagation};

/// Source: linux/magic.h.
pub(super) const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// Copies the mount at a path of ours; links are followed.
pub(super) fn copy_of(path: &Path, binding: Binding) -> io::Result<OwnedFd> {
    let below =
        if binding == Binding::Recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    Ok(open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | below)?)
}

/// Copies the mount at a place; it must be in our mount namespace.
pub(super) fn copy_at(place: impl AsFd, binding: Binding) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags |= OpenTreeFlags::AT_EMPTY_PATH;
    if binding == Binding::Recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(place, "", flags)?)
}

/// Makes a filesystem, detached and writable, whatever `attributes` say of that: `set_attributes` comes later.
pub(super) fn new(
    kind: &str,
    source: Option<&Path>,
    data: &[(String, Option<String>)],
    attributes: Attributes,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(source) = source {
        fsconfig_set_string(&context, "source", source)?;
    }
    for (key, value) in data {
        match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(&context, key.as_str()),
        }
        .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("option `{key}`: {error}")))?;
    }
    fsconfig_create(&context)?;
    let writable = attributes.set & !super::options::READ_ONLY;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(writable).unwrap_or(0));
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Sets and clears attributes of a mount, with what is below or without.
pub(super) fn set_attributes(mount: impl AsFd, attributes: Attributes, recursive: bool) -> io::Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    let Attributes { set, clear } = attributes;
    change(mount, Change { set, clear, recursive, ..Change::default() })
}

/// Sets how a mount shares what is mounted below it.
pub(super) fn set_propagation(mount: impl AsFd, (kind, recursive): (u64, bool)) -> io::Result<()> {
    change(mount, Change { propagation: kind, recursive, ..Change::default() })
}

/// Cuts a copy off from what it was copied from.
pub(super) fn make_private(mount: impl AsFd) -> io::Result<()> {
    set_propagation(mount, (propagation::PRIVATE, true))
}

/// Shows owners through a user namespace's map.
pub(super) fn set_id_map(mount: impl AsFd, map: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    change(mount, Change { id_map: Some(map), recursive, ..Change::default() })
}

/// Makes a mount read-only.
pub(super) fn set_read_only(mount: impl AsFd) -> io::Result<()> {
    set_attributes(mount, Attributes { set: super::options::READ_ONLY, clear: 0 }, false)
}

/// Attaches a detached mount to a place.
pub(super) fn attach(mount: impl AsFd, place: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", place, "", flags)?)
}

/// Whether a descriptor is a place on the kernel's own procfs (CVE-2019-16884, CVE-2025-52881).
pub(super) fn is_procfs(place: impl AsFd) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(place)?.f_type as u64 == PROC_SUPER_MAGIC)
}

/// Whether a descriptor is that very character device.
pub(super) fn is_character_device(place: impl AsFd, number: (u32, u32)) -> io::Result<bool> {
    let data = rustix::fs::fstat(place)?;
    let is = (rustix::fs::major(data.st_rdev), rustix::fs::minor(data.st_rdev));
    Ok(FileType::from_raw_mode(data.st_mode) == FileType::CharacterDevice && is == number)
}
