//! Copies a directory of an image into a new volume: modes, owners, links and times as they are.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, Timespec, Timestamps};

use crate::layers::{Found, child, gid, list, uid};

const MAX_DEPTH: usize = 256;

/// Copies a merged directory into `target`, an empty directory.
pub(super) fn copy_tree(parts: &[OwnedFd], target: &Path) -> io::Result<()> {
    let target = open_dir(CWD, target.as_os_str())?;
    copy_dir(parts, &target, 0)
}

fn open_dir<Fd: AsFd>(at: Fd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn copy_dir(parts: &[OwnedFd], target: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(rustix::io::Errno::LOOP.into());
    }
    for name in list(parts)? {
        match child(parts, &name)? {
            Some(Found::Directory(below)) => {
                rustix::fs::mkdirat(target, &name, Mode::from_raw_mode(0o700))?;
                copy_dir(&below, &open_dir(target, &name)?, depth + 1)?;
            }
            Some(Found::Other(dir, name)) => copy_other(&dir, &name, target)?,
            None => {}
        }
    }
    let stat = rustix::fs::fstat(&parts[0])?;
    rustix::fs::fchown(target, Some(uid(&stat)), Some(gid(&stat)))?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(rustix::fs::futimens(target, &times(&stat))?)
}

fn copy_other(from: &OwnedFd, name: &OsStr, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut source = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut copy = File::from(rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?);
            io::copy(&mut source, &mut copy)?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, name)?;
        }
        kind @ (FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo) => {
            rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
        }
        // A socket nobody listens on is of no use.
        _ => return Ok(()),
    }
    rustix::fs::chownat(to, name, Some(uid(&stat)), Some(gid(&stat)), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // After the owner: changing that takes set-user-id away.
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::layers::Layers;

    #[test]
    fn a_merged_directory_is_copied_with_modes_owners_and_links_as_root() {
        let dir = tempfile::tempdir().unwrap();
        let (top, base, volume) =
            (dir.path().join("top"), dir.path().join("base"), dir.path().join("volume"));
        for path in [&top.join("data"), &base.join("data/sub"), &volume] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(base.join("data/a"), "base").unwrap();
        fs::write(top.join("data/a"), "top").unwrap();
        fs::write(base.join("data/sub/b"), "b").unwrap();
        fs::set_permissions(base.join("data/sub/b"), fs::Permissions::from_mode(0o4711)).unwrap();
        std::os::unix::fs::chown(base.join("data/sub"), Some(33), Some(34)).unwrap();
        symlink("/etc/passwd", base.join("data/link")).unwrap();
        let layers = Layers::open([top.as_path(), base.as_path()]).unwrap();
        let Some(Found::Directory(parts)) = layers.find("/data").unwrap() else { panic!("no directory") };
        copy_tree(&parts, &volume).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "top");
        assert_eq!(fs::metadata(volume.join("sub/b")).unwrap().permissions().mode() & 0o7777, 0o4711);
        assert_eq!(fs::metadata(volume.join("sub")).unwrap().uid(), 33);
        assert_eq!(fs::read_link(volume.join("link")).unwrap(), Path::new("/etc/passwd"));
    }
}
