//! Device nodes and links below `/dev`.
//!
//! In a user namespace no node can be made: there the host's are bound, looked at by the helper first.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use rustix::io::Errno;

use super::inside::{Links, Sort, find, find_or_make, split};
use super::options::Binding;
use super::tree;
use crate::error::ContainerError;

/// Source: runtime-spec 1.2, `config-linux.md`, "Default Devices".
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Source: runtime-spec 1.2, `runtime-linux.md`, "Dev symbolic links".
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// One device, ready to be put in.
pub(super) struct Device {
    path: PathBuf,
    kind: FileType,
    number: u64,
    mode: Mode,
    owner: (u32, u32),
    /// The host's node, where none can be made.
    node: Option<OwnedFd>,
}

/// Lists the default devices and the document's, which may replace them.
pub(super) fn prepare(given: &[LinuxDevice], bind: bool) -> Result<Vec<Device>, ContainerError> {
    let mut devices = Vec::with_capacity(DEFAULT.len() + given.len());
    for (path, major, minor) in DEFAULT {
        if !given.iter().any(|device| device.path() == Path::new(path)) {
            devices.push(Device {
                path: path.into(),
                kind: FileType::CharacterDevice,
                number: rustix::fs::makedev(major, minor),
                mode: Mode::from_raw_mode(0o666),
                owner: (0, 0),
                node: None,
            });
        }
    }
    for device in given {
        devices.push(parse(device)?);
    }
    if bind {
        for device in &mut devices {
            device.node = Some(device.open_host().map_err(|error| {
                ContainerError::runtime(&format!("open device {}", device.path.display()), &error)
            })?);
        }
    }
    Ok(devices)
}

fn parse(device: &LinuxDevice) -> Result<Device, ContainerError> {
    let refuse = |why: &str| ContainerError::State(format!("device {}: {why}", device.path().display()));
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(refuse("no kind")),
    };
    let number = |value: i64| u32::try_from(value).map_err(|_| refuse("no number of a device"));
    let (major, minor) =
        if kind == FileType::Fifo { (0, 0) } else { (number(device.major())?, number(device.minor())?) };
    Ok(Device {
        path: device.path().clone(),
        kind,
        number: rustix::fs::makedev(major, minor),
        // Some give the whole mode, file type and all.
        mode: Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777),
        owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
        node: None,
    })
}

impl Device {
    fn open_host(&self) -> io::Result<OwnedFd> {
        let tree = tree::copy_of(&self.path, Binding::Single)?;
        let data = rustix::fs::fstat(&tree)?;
        if FileType::from_raw_mode(data.st_mode) != self.kind || data.st_rdev != self.number {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the host has another device there"));
        }
        tree::make_private(&tree)?;
        Ok(tree)
    }

    /// Puts it in. What is there already is left.
    pub(super) fn put(&self, root: &OwnedFd) -> Result<(), ContainerError> {
        let result = match &self.node {
            Some(node) => self.bind(root, node),
            None => self.make(root),
        };
        result
            .map_err(|error| ContainerError::runtime(&format!("make device {}", self.path.display()), &error))
    }

    fn make(&self, root: &OwnedFd) -> io::Result<()> {
        let (parent, name) = split(&self.path)?;
        let parent = find_or_make(root, parent, Sort::Directory, Links::Follow)?;
        match rustix::fs::mknodat(&parent, name, self.kind, self.mode, self.number) {
            Err(Errno::EXIST) => return Ok(()),
            result => result?,
        }
        if self.owner != (0, 0) {
            let (user, group) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
            rustix::fs::chownat(&parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn bind(&self, root: &OwnedFd, node: &OwnedFd) -> io::Result<()> {
        let place = find_or_make(root, &self.path, Sort::File, Links::Follow)?;
        tree::attach(node, place)
    }
}

/// Makes the links; one that is there already stays, but for `ptmx`, which must be the container's own.
pub(super) fn link_all(root: &OwnedFd) -> Result<(), ContainerError> {
    let core =
        find(root, Path::new("/proc/kcore"), Links::Refuse).is_ok().then_some(("/dev/core", "/proc/kcore"));
    for (path, target) in LINKS.into_iter().chain(core) {
        link(root, Path::new(path), target)
            .map_err(|error| ContainerError::runtime(&format!("make link {path}"), &error))?;
    }
    Ok(())
}

fn link(root: &OwnedFd, path: &Path, target: &str) -> io::Result<()> {
    let (parent, name) = split(path)?;
    let parent = find_or_make(root, parent, Sort::Directory, Links::Follow)?;
    if name == "ptmx" {
        let _ = rustix::fs::unlinkat(&parent, name, AtFlags::empty());
    }
    match rustix::fs::symlinkat(target, &parent, name) {
        Err(Errno::EXIST) => Ok(()),
        result => Ok(result?),
    }
}

/// The host's `/dev/null`, looked at and read-only, to hide files behind.
pub(super) fn host_null() -> io::Result<OwnedFd> {
    let tree = tree::copy_of(Path::new("/dev/null"), Binding::Single)?;
    if !tree::is_character_device(&tree, (1, 3))? {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the host's /dev/null is none"));
    }
    tree::make_private(&tree)?;
    tree::set_read_only(&tree)?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_replaces_a_default_device() {
        let json = serde_json::json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o020600},
                                      {"path": "/dev/pipe", "type": "p", "major": 0, "minor": 0}]);
        let given: Vec<LinuxDevice> = serde_json::from_value(json).expect("devices");
        let devices = prepare(&given, false).expect("devices");
        assert_eq!(devices.len(), 7);
        let null = devices.iter().find(|device| device.path == Path::new("/dev/null")).expect("null");
        assert_eq!(null.mode.as_raw_mode(), 0o600);
        assert!(devices.iter().any(|device| device.kind == FileType::Fifo));
    }
}
