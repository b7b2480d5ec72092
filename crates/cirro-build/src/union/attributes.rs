//! Mode, owner, times and extended attributes of what is copied.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// Bytes of one extended attribute, and of the list of their names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_EXTENDED_BYTES: usize = 64 << 10;

/// Bytes that are tried first: most files have no attributes, or few.
const USUAL_EXTENDED_BYTES: usize = 512;

/// What is carried over from one file to another beside its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits with set-id and sticky bits, `07777`.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds; left to the kernel if not known.
    pub(crate) modified: Option<(i64, i64)>,
    /// Number of a device.
    pub(crate) device: u64,
    /// Extended attributes, those of overlayfs excepted.
    pub(crate) extended: Vec<(OsString, Vec<u8>)>,
}

impl Attributes {
    /// Returns the attributes of something new that belongs to root.
    pub(crate) fn new(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0, modified: None, device: 0, extended: Vec::new() }
    }

    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: Some((stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0))),
            device: stat.st_rdev,
            extended: Vec::new(),
        }
    }

    /// Reads the extended attributes behind `file`, in the order of their names.
    pub(super) fn read_extended(&mut self, file: BorrowedFd<'_>) -> std::io::Result<()> {
        let names = grown(|buffer| rustix::fs::flistxattr(file, buffer))?.unwrap_or_default();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if [&b"trusted.overlay."[..], b"system."].iter().any(|own| name.starts_with(own)) {
                continue;
            }
            let name = OsStr::from_bytes(name);
            if let Some(value) = grown(|buffer| rustix::fs::fgetxattr(file, name, buffer))? {
                self.extended.push((name.to_owned(), value));
            }
        }
        self.extended.sort();
        Ok(())
    }

    /// Gives the attributes to an open file or directory.
    pub(crate) fn apply(&self, file: impl AsFd) -> std::io::Result<()> {
        // The order matters: a change of owner takes set-id bits and capabilities away.
        rustix::fs::fchown(&file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(self.mode))?;
        for (name, value) in &self.extended {
            match rustix::fs::fsetxattr(&file, name.as_os_str(), value, XattrFlags::empty()) {
                // A file system without them is no reason not to copy.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(times) = self.times() {
            rustix::fs::futimens(&file, &times)?;
        }
        Ok(())
    }

    /// Gives owner and times to a link or node, and the mode to a node.
    pub(crate) fn apply_at(&self, parent: impl AsFd, name: &OsStr, link: bool) -> std::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if !link {
            rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        }
        if let Some(times) = self.times() {
            rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn times(&self) -> Option<Timestamps> {
        let (seconds, nanoseconds) = self.modified?;
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        Some(Timestamps { last_access: time, last_modification: time })
    }
}

/// Reads into a buffer that grows once; `None` if there is nothing to read.
fn grown(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> std::io::Result<Option<Vec<u8>>> {
    for size in [USUAL_EXTENDED_BYTES, MAX_EXTENDED_BYTES] {
        let mut buffer = vec![0; size];
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(Errno::NOTSUP | Errno::NODATA) => return Ok(None),
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::RANGE.into())
}
