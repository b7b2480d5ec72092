//! `SOURCE_DATE_EPOCH` over what a step wrote: nothing in the layer is newer, so that the layer is the same whenever
//! it is made. What is older, such as a file that came out of an archive, keeps its time.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::error::Refusal;
use crate::tree::Cancel;

/// Each level holds a descriptor.
const MAX_DEPTH: usize = 500;

/// Takes the times in a layer's directory that are after `epoch` back to it; blocks. No link is followed.
pub(crate) fn clamp(upper: &Path, epoch: i64, cancel: &Cancel) -> Result<(), Refusal> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty()).map_err(|error| at(upper, error))?;
    directory(&root, epoch, cancel, 0).map_err(|error| match error {
        Stopped::Cancelled(refusal) => refusal,
        Stopped::Failed(error) => at(upper, error),
    })
}

enum Stopped {
    Cancelled(Refusal),
    Failed(Errno),
}

impl From<Errno> for Stopped {
    fn from(error: Errno) -> Self {
        Self::Failed(error)
    }
}

fn at(path: &Path, error: Errno) -> Refusal {
    Refusal::at(path)(error.into())
}

fn directory(dir: &OwnedFd, epoch: i64, cancel: &Cancel, depth: usize) -> Result<(), Stopped> {
    cancel.check().map_err(Stopped::Cancelled)?;
    if depth > MAX_DEPTH {
        return Err(Errno::LOOP.into());
    }
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            directory(&child, epoch, cancel, depth + 1)?;
        }
        if stat.st_mtime >= epoch && (stat.st_mtime, stat.st_mtime_nsec) != (epoch, 0) {
            let time = Timespec { tv_sec: epoch, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(dir.as_fd(), name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn nothing_is_newer_and_what_is_older_stays() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("d")).unwrap();
        std::fs::write(path("d/new"), "").unwrap();
        let old = std::fs::File::create(path("old")).unwrap();
        old.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(500)).unwrap();
        std::os::unix::fs::symlink(outside.path(), path("link")).unwrap();
        let before = outside.path().metadata().unwrap().mtime();
        clamp(dir.path(), 1000, &Cancel::default()).unwrap();
        let time = |name: &str| path(name).symlink_metadata().unwrap().mtime();
        assert_eq!([time("d"), time("d/new"), time("old"), time("link")], [1000, 1000, 500, 1000]);
        assert_eq!(outside.path().metadata().unwrap().mtime(), before);
    }
}
