//! Copies a tree within this host: types, contents, modes, owners, times, hard links and extended attributes.
//!
//! Overlayfs' own attributes and whiteouts are copied as they are: of a layer's directory the copy is the same layer. What
//! vanishes before it is reached is left out, and so are sockets, on which nobody listens in a copy.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::confine::names;
use crate::xattr;

/// Each level holds two descriptors open.
const MAX_DEPTH: usize = 400;

/// Copies everything in the directory `from`, and its own attributes, to the directory `to`, which is empty.
///
/// What `skip` takes (a path below `from`, and what it is) is left out.
///
/// # Errors
/// The kernel's; what was copied before stays.
pub fn copy_tree(from: &OwnedFd, to: &OwnedFd, skip: &dyn Fn(&Path, &Stat) -> bool) -> io::Result<()> {
    let mut copy = Copy { skip, links: HashMap::new() };
    copy.directory(from, to, Path::new(""), 0)
}

struct Copy<'a> {
    skip: &'a dyn Fn(&Path, &Stat) -> bool,
    /// Where the first name of each file with several is, by device and inode.
    links: HashMap<(u64, u64), (OwnedFd, Vec<u8>)>,
}

impl Copy<'_> {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, path: &Path, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG.into());
        }
        let listed = open(from, b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        for (name, _) in names(&listed)? {
            use std::os::unix::ffi::OsStrExt;
            let below: PathBuf = path.join(std::ffi::OsStr::from_bytes(&name));
            match self.entry(from, to, &name, &below, depth) {
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
                done => done?,
            }
        }
        let stat = rustix::fs::fstat(from)?;
        copy_attributes(&xattr::path_at(from, b"."), &xattr::path_at(to, b"."))?;
        rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        Ok(rustix::fs::futimens(to, &times(&stat))?)
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &[u8],
        path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (self.skip)(path, &stat) {
            return Ok(());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => {
                let source = open(from, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                let target = open(to, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                return self.directory(&source, &target, path, depth + 1);
            }
            FileType::Socket => return Ok(()),
            _ => {}
        }
        if stat.st_nlink > 1 {
            if let Some((dir, first)) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return Ok(rustix::fs::linkat(dir, &first[..], to, name, AtFlags::empty())?);
            }
            self.links.insert((stat.st_dev, stat.st_ino), (to.try_clone()?, name.to_vec()));
        }
        match kind {
            FileType::RegularFile => copy_contents(from, to, name)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), to, name)?;
            }
            _ => rustix::fs::mknodat(to, name, kind, Mode::RUSR, stat.st_rdev)?,
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            // After the owner: changing that takes set-user-id and capabilities away.
            rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        }
        copy_attributes(&xattr::path_at(from, name), &xattr::path_at(to, name))?;
        Ok(rustix::fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn open(at: impl AsFd, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn copy_contents(from: &OwnedFd, to: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let mut source = File::from(open(from, name, OFlags::RDONLY | OFlags::NONBLOCK)?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut target = File::from(rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
    if !source.metadata()?.is_file() {
        return Err(Errno::NOENT.into());
    }
    // The standard library lets the kernel copy, sharing blocks where the file system can.
    io::copy(&mut source, &mut target).map(drop)
}

fn copy_attributes(from: &[u8], to: &[u8]) -> io::Result<()> {
    for (name, value) in xattr::all(from)? {
        // What the host's security module adds is the copy's own.
        if name != b"security.selinux" {
            xattr::set(to, &name, &value)?;
        }
    }
    Ok(())
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
