//! A stack of layer directories read and written as the one tree that overlayfs would show.
//!
//! ## Theory of operation
//! [`Union`] holds the roots: at most one upper directory that is written, and the lower ones, the top first.
//! [`Union::walk`] resolves a path as a process inside would (symbolic links start again at the union's root) and
//! gives a [`Cursor`]: the chain of merged directories from the root down to the one where the path ends.
//! A cursor lists, opens and writes children of its last directory.
//!
//! Every step opens *one* component, by its parent's descriptor, with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
//! RESOLVE_NO_XDEV`; links are read and followed here, never by the kernel. So nothing that a layer or an archive
//! holds can lead out of the layers' directories.
//!
//! Whiteouts (character device 0/0) and opaque marks (`trusted.overlay.opaque`) end a lookup as in overlayfs.
//! `redirect_dir` and `metacopy` are not understood: whoever mounts the layers turns them off.
//!
//! Source: Linux `Documentation/filesystems/overlayfs.rst`.

mod attributes;
mod cursor;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use cirro_seams::build::WorkingLayer;

pub(crate) use attributes::Attributes;
pub(crate) use cursor::{Cursor, Existing};

/// Symbolic links followed in one walk, the kernel's number.
const MAX_LINKS: usize = 40;
/// Depth of a tree: each level of a walk holds its descriptors open.
const MAX_DEPTH: usize = 200;

/// The roots of a stack of layers.
#[derive(Debug, Clone)]
pub(crate) struct Union {
    upper: Option<Arc<OwnedFd>>,
    lowers: Vec<Arc<OwnedFd>>,
}

/// Whether the last component of a path is followed if it is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    Follow,
    Keep,
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) enum Walked {
    /// To a directory.
    Directory(Cursor),
    /// To something else, in the directory of the cursor.
    Other(Cursor, Entry),
    /// Nowhere: these components below the cursor's directory are missing.
    Missing(Cursor, Vec<OsString>),
}

/// A child of a merged directory.
#[derive(Debug)]
pub(crate) enum Child {
    Directory(Level),
    Other(Entry),
}

/// A file, link or node, by the layer directory that holds it.
#[derive(Debug)]
pub(crate) struct Entry {
    parent: Arc<OwnedFd>,
    name: OsString,
    in_upper: bool,
    stat: Stat,
}

/// A file as the kernel tells it from others.
pub(crate) type Inode = (u64, u64);

/// One merged directory: its place in the upper layer, if it has one, and in the lower ones.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    name: OsString,
    upper: Option<Arc<OwnedFd>>,
    lowers: Vec<Arc<OwnedFd>>,
}

impl Union {
    /// Opens a working layer: its upper directory is written, `lower` is read.
    pub(crate) fn open(layer: &WorkingLayer) -> std::io::Result<Self> {
        let upper = Some(open_root(&layer.upper)?);
        Ok(Self { upper, ..Self::read_only(&layer.lower)? })
    }

    /// Opens directories, the top one first, to be read only.
    pub(crate) fn read_only(directories: &[PathBuf]) -> std::io::Result<Self> {
        let lowers = directories.iter().map(|path| open_root(path)).collect::<Result<_, _>>()?;
        Ok(Self { upper: None, lowers })
    }

    /// Opens one directory to be written.
    pub(crate) fn directory(path: &Path) -> std::io::Result<Self> {
        Ok(Self { upper: Some(open_root(path)?), lowers: Vec::new() })
    }

    /// Returns a cursor at the root.
    pub(crate) fn root(&self) -> Cursor {
        Cursor::new(Level { name: OsString::new(), upper: self.upper.clone(), lowers: self.lowers.clone() })
    }

    /// Resolves `path` from the root; `..` stops there.
    ///
    /// # Errors
    /// `ENOTDIR` if something on the way is not a directory, `ELOOP` after 40 links.
    pub(crate) fn walk(&self, path: &Path, last: Last) -> std::io::Result<Walked> {
        let mut cursor = self.root();
        let mut left: VecDeque<Step> = steps(path).collect();
        let mut links = 0;
        while let Some(step) = left.pop_front() {
            let name = match step {
                Step::Root => {
                    cursor.return_to_root();
                    continue;
                }
                Step::Up => {
                    cursor.leave();
                    continue;
                }
                Step::Down(name) => name,
            };
            match cursor.look(&name)? {
                Some(Child::Directory(level)) => cursor.push(level)?,
                None => return Ok(Walked::Missing(cursor, missing(name, left))),
                Some(Child::Other(entry)) => {
                    let ends = left.is_empty();
                    if entry.kind() == FileType::Symlink && !(ends && last == Last::Keep) {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Errno::LOOP.into());
                        }
                        let target = entry.target()?;
                        for step in steps(Path::new(&target)).collect::<Vec<_>>().into_iter().rev() {
                            left.push_front(step);
                        }
                    } else if ends {
                        return Ok(Walked::Other(cursor, entry));
                    } else {
                        return Err(Errno::NOTDIR.into());
                    }
                }
            }
        }
        Ok(Walked::Directory(cursor))
    }

    /// Returns a cursor at the directory `path`; missing ones are made with `attributes`.
    pub(crate) fn make_directories(&self, path: &Path, attributes: &Attributes) -> std::io::Result<Cursor> {
        match self.walk(path, Last::Follow)? {
            Walked::Directory(cursor) => Ok(cursor),
            Walked::Other(..) => Err(Errno::NOTDIR.into()),
            Walked::Missing(mut cursor, missing) => {
                cursor.make_directories(&missing, attributes)?;
                Ok(cursor)
            }
        }
    }

    /// Reads the file at `path`, at most `limit` bytes; `None` if it is not there or not a file.
    pub(crate) fn read(&self, path: &Path, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
        use std::io::Read;
        let entry = match self.walk(path, Last::Follow) {
            Ok(Walked::Other(_, entry)) if entry.kind() == FileType::RegularFile => entry,
            Err(error) if error.raw_os_error() != Some(Errno::NOTDIR.raw_os_error()) => return Err(error),
            _ => return Ok(None),
        };
        let mut bytes = Vec::new();
        entry.open()?.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(std::io::Error::other(format!("more than {limit} bytes")));
        }
        Ok(Some(bytes))
    }
}

impl Entry {
    /// Returns what it is.
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Returns what tells it from other files, if it has more than one name.
    pub(crate) fn shared_inode(&self) -> Option<Inode> {
        (self.stat.st_nlink > 1).then_some((self.stat.st_dev, self.stat.st_ino))
    }

    /// Says whether it is a file of these attributes, extended ones aside, and of this length.
    pub(crate) fn is_same(&self, attributes: &Attributes, size: u64) -> bool {
        self.kind() == FileType::RegularFile
            && self.size() == size
            && Attributes::of(&self.stat) == Attributes { device: self.stat.st_rdev, ..attributes.clone() }
    }

    /// Returns its length, if it is a file.
    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }

    /// Returns its name in its directory.
    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Reads the target of a symbolic link.
    pub(crate) fn target(&self) -> std::io::Result<OsString> {
        let target = rustix::fs::readlinkat(&*self.parent, &self.name, Vec::new())?;
        Ok(OsStr::from_bytes(target.as_bytes()).to_owned())
    }

    /// Opens a file to be read.
    pub(crate) fn open(&self) -> std::io::Result<std::fs::File> {
        // Not to hang on what is not a file, should it have changed since it was looked at.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open_child(&*self.parent, &self.name, flags)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL.into());
        }
        Ok(file.into())
    }

    /// Reads mode, owner, times and extended attributes.
    pub(crate) fn attributes(&self) -> std::io::Result<Attributes> {
        let mut attributes = Attributes::of(&self.stat);
        if self.kind() == FileType::RegularFile {
            attributes.read_extended(self.open()?.as_fd())?;
        }
        Ok(attributes)
    }
}

enum Step {
    Root,
    Up,
    Down(OsString),
}

fn steps(path: &Path) -> impl Iterator<Item = Step> + '_ {
    path.components().filter_map(|component| match component {
        Component::RootDir => Some(Step::Root),
        Component::ParentDir => Some(Step::Up),
        Component::Normal(name) => Some(Step::Down(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Collects what is left of a path below a missing component, where `..` can only be taken lexically.
fn missing(first: OsString, left: VecDeque<Step>) -> Vec<OsString> {
    let mut names = vec![first];
    for step in left {
        match step {
            Step::Down(name) => names.push(name),
            Step::Up => drop(names.pop()),
            Step::Root => {}
        }
    }
    names
}

fn open_root(path: &Path) -> std::io::Result<Arc<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Arc::new(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Opens one component below `parent`.
fn open_child(parent: impl AsFd, name: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

fn open_directory(parent: impl AsFd, name: &OsStr) -> rustix::io::Result<Arc<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_child(parent, name, flags).map(Arc::new)
}

/// Looks at one component below `parent`; `None` if it is not there.
fn stat(parent: impl AsFd, name: &OsStr) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: impl AsFd) -> rustix::io::Result<bool> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(&directory, "trusted.overlay.opaque", &mut value[..]) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
