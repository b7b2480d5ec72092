//! Fills a new tmpfs with what was at its place (`tmpcopyup`).
//!
//! The tree belongs to the image: links are copied and never followed, and everything goes by descriptor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};

/// Deeper trees are refused: each level holds descriptors.
const MOST_LEVELS: usize = 128;

/// Copies what is in the directory `from` into the directory `to`.
pub(super) fn copy(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    copy_directory(&open(from, ".", OFlags::DIRECTORY)?, &open(to, ".", OFlags::DIRECTORY)?, 0)
}

fn open(parent: impl AsFd, name: impl rustix::path::Arg, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, level: usize) -> io::Result<()> {
    if level > MOST_LEVELS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "directories nest too deep to be copied"));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let data = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(data.st_mode & 0o7777);
        match FileType::from_raw_mode(data.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode)?;
                let (below, new) = (open(from, name, OFlags::DIRECTORY)?, open(to, name, OFlags::DIRECTORY)?);
                copy_directory(&below, &new, level + 1)?;
            }
            FileType::RegularFile => copy_file(from, to, name, mode)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), to, name)?;
            }
            // Devices, pipes and sockets: as they are.
            other => rustix::fs::mknodat(to, name, other, mode, data.st_rdev)?,
        }
        keep_owner(to, name, &data)?;
    }
    Ok(())
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr, mode: Mode) -> io::Result<()> {
    let mut source = std::fs::File::from(open(from, name, OFlags::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut copy = std::fs::File::from(rustix::fs::openat(to, name, flags, mode)?);
    io::copy(&mut source, &mut copy).map(drop)
}

/// A change of owner takes set-user-id away, so the mode comes after it.
fn keep_owner(to: &OwnedFd, name: &std::ffi::CStr, data: &Stat) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(data.st_uid), Gid::from_raw(data.st_gid));
    rustix::fs::chownat(to, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(data.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(data.st_mode & 0o7777);
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_tree_is_copied_as_it_is() {
        let (from, to) = (tempfile::tempdir().expect("from"), tempfile::tempdir().expect("to"));
        std::fs::create_dir_all(from.path().join("a/b")).expect("directories");
        std::fs::write(from.path().join("a/b/file"), "words").expect("file");
        std::fs::set_permissions(from.path().join("a/b/file"), PermissionsExt::from_mode(0o4750))
            .expect("mode");
        symlink("/etc/passwd", from.path().join("a/link")).expect("link");
        let open =
            |path: &std::path::Path| rustix::fs::open(path, OFlags::PATH, Mode::empty()).expect("open");
        copy(open(from.path()), open(to.path())).expect("copy");
        assert_eq!(std::fs::read_to_string(to.path().join("a/b/file")).expect("read"), "words");
        let mode = std::fs::metadata(to.path().join("a/b/file")).expect("data").permissions().mode();
        assert_eq!(mode & 0o7777, 0o4750);
        let target = std::fs::read_link(to.path().join("a/link")).expect("link");
        assert_eq!(target, std::path::Path::new("/etc/passwd"));
    }
}
