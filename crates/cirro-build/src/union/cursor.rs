//! A place in a union: the chain of merged directories from the root down.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::{Attributes, Child, Entry, Level, MAX_DEPTH};
use super::{is_opaque, is_whiteout, open_directory, stat};

/// Entries of one directory.
const MAX_ENTRIES: usize = 1 << 20;

/// A merged directory and its parents.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    /// Never empty; the first is the root.
    levels: Vec<Level>,
}

/// What becomes of something that stands where a directory is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays, and is an error unless it is a directory.
    Keep,
    /// It goes, unless it is a directory.
    Replace,
}

impl Cursor {
    pub(super) fn new(root: Level) -> Self {
        Self { levels: vec![root] }
    }

    fn here(&self) -> &Level {
        self.levels.last().expect("a cursor always has its root")
    }

    pub(super) fn push(&mut self, level: Level) -> std::io::Result<()> {
        if self.levels.len() > MAX_DEPTH {
            return Err(std::io::Error::other(format!("directories nested more than {MAX_DEPTH} deep")));
        }
        self.levels.push(level);
        Ok(())
    }

    pub(super) fn return_to_root(&mut self) {
        self.levels.truncate(1);
    }

    /// Goes to the parent; the root is its own.
    pub(crate) fn leave(&mut self) {
        if self.levels.len() > 1 {
            self.levels.pop();
        }
    }

    /// Returns the directory's path from the root.
    pub(crate) fn path(&self) -> PathBuf {
        let mut path = PathBuf::from("/");
        path.extend(self.levels.iter().skip(1).map(|level| &level.name));
        path
    }

    /// Looks for a child, through whiteouts and opaque marks.
    pub(crate) fn look(&self, name: &OsStr) -> std::io::Result<Option<Child>> {
        let here = self.here();
        let mut level = Level { name: name.to_owned(), upper: None, lowers: Vec::new() };
        let places = here.upper.iter().map(|fd| (fd, true)).chain(here.lowers.iter().map(|fd| (fd, false)));
        let mut places = places.peekable();
        while let Some((parent, in_upper)) = places.next() {
            let Some(stat) = stat(&**parent, name)? else { continue };
            if is_whiteout(&stat) {
                break;
            }
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                if level.is_empty() {
                    let entry = Entry { parent: parent.clone(), name: name.to_owned(), in_upper, stat };
                    return Ok(Some(Child::Other(entry)));
                }
                break;
            }
            let directory = open_directory(&**parent, name)?;
            let opaque = places.peek().is_some() && is_opaque(&*directory)?;
            if in_upper {
                level.upper = Some(directory);
            } else {
                level.lowers.push(directory);
            }
            if opaque {
                break;
            }
        }
        Ok((!level.is_empty()).then_some(Child::Directory(level)))
    }

    /// Goes into a child that [`Self::look`] found.
    pub(crate) fn enter(&mut self, level: Level) -> std::io::Result<()> {
        self.push(level)
    }

    /// Lists the names in the directory, in their order.
    pub(crate) fn names(&self) -> std::io::Result<Vec<OsString>> {
        let here = self.here();
        // A whiteout keeps its name from being seen in the layers below.
        let mut seen: BTreeMap<OsString, bool> = BTreeMap::new();
        for directory in here.upper.iter().chain(&here.lowers) {
            for entry in rustix::fs::Dir::read_from(&**directory)? {
                let entry = entry?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." || seen.contains_key(name) {
                    continue;
                }
                let hidden = matches!(entry.file_type(), FileType::CharacterDevice | FileType::Unknown)
                    && stat(&**directory, name)?.is_some_and(|stat| is_whiteout(&stat));
                seen.insert(name.to_owned(), !hidden);
                if seen.len() > MAX_ENTRIES {
                    return Err(std::io::Error::other(format!("more than {MAX_ENTRIES} entries")));
                }
            }
        }
        Ok(seen.into_iter().filter_map(|(name, shown)| shown.then_some(name)).collect())
    }

    /// Reads the directory's own mode, owner, times and extended attributes.
    pub(crate) fn attributes(&self) -> std::io::Result<Attributes> {
        self.here().attributes()
    }

    /// Gives the directory new attributes.
    pub(crate) fn set_attributes(&mut self, attributes: &Attributes) -> std::io::Result<()> {
        attributes.apply(&*self.upper()?)
    }

    /// Makes the child directory `name` and goes into it; says whether it is new.
    ///
    /// # Errors
    /// `ENOTDIR` if something else stands there and is to be kept.
    pub(crate) fn make_directory(&mut self, name: &OsStr, existing: Existing) -> std::io::Result<bool> {
        match self.look(name)? {
            Some(Child::Directory(level)) => {
                self.push(level)?;
                return Ok(false);
            }
            Some(Child::Other(_)) if existing == Existing::Keep => return Err(Errno::NOTDIR.into()),
            Some(Child::Other(_)) | None => {}
        }
        let upper = self.upper()?;
        // What the upper layer hid so far must stay hidden.
        let hid = remove(&upper, name)?;
        rustix::fs::mkdirat(&*upper, name, Mode::RWXU)?;
        let directory = open_directory(&*upper, name)?;
        if hid {
            rustix::fs::fsetxattr(&*directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
        }
        self.push(Level { name: name.to_owned(), upper: Some(directory), lowers: Vec::new() })?;
        Ok(true)
    }

    /// Makes these directories, each in the one before, and goes into the last.
    pub(crate) fn make_directories(
        &mut self,
        names: &[OsString],
        attributes: &Attributes,
    ) -> std::io::Result<()> {
        for name in names {
            self.make_directory(name, Existing::Keep)?;
            self.set_attributes(attributes)?;
        }
        Ok(())
    }

    /// Finds what is no directory at a path from the root without links in it.
    pub(crate) fn entry_at(&self, path: &Path) -> std::io::Result<Option<Entry>> {
        let mut cursor = self.clone();
        cursor.return_to_root();
        let mut found = None;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            match (cursor.look(name)?, &found) {
                (Some(Child::Directory(level)), None) => cursor.push(level)?,
                (Some(Child::Other(entry)), None) => found = Some(entry),
                _ => return Ok(None),
            }
        }
        Ok(found)
    }

    /// Makes an empty file in place of whatever file, link or node is there.
    ///
    /// # Errors
    /// `EISDIR` if a directory is there.
    pub(crate) fn make_file(&mut self, name: &OsStr) -> std::io::Result<std::fs::File> {
        let upper = self.clear(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&*upper, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Makes a symbolic link, as [`Self::make_file`].
    pub(crate) fn make_link(
        &mut self,
        name: &OsStr,
        target: &OsStr,
        attributes: &Attributes,
    ) -> std::io::Result<()> {
        let upper = self.clear(name)?;
        rustix::fs::symlinkat(target, &*upper, name)?;
        attributes.apply_at(&*upper, name, true)
    }

    /// Makes a pipe, socket or device, as [`Self::make_file`].
    pub(crate) fn make_node(
        &mut self,
        name: &OsStr,
        kind: FileType,
        attributes: &Attributes,
    ) -> std::io::Result<()> {
        let upper = self.clear(name)?;
        rustix::fs::mknodat(&*upper, name, kind, Mode::from_raw_mode(attributes.mode), attributes.device)?;
        attributes.apply_at(&*upper, name, false)
    }

    /// Makes a hard link to a file of the upper layer, as [`Self::make_file`].
    ///
    /// # Errors
    /// `EXDEV` if the file is in a lower layer.
    pub(crate) fn make_hard_link(&mut self, name: &OsStr, file: &Entry) -> std::io::Result<()> {
        if !file.in_upper {
            return Err(Errno::XDEV.into());
        }
        let upper = self.clear(name)?;
        Ok(rustix::fs::linkat(&*file.parent, &file.name, &*upper, name, AtFlags::empty())?)
    }

    /// Gives a file from elsewhere a name here, as [`Self::make_file`]; says whether that can be done.
    pub(crate) fn take_file(&mut self, name: &OsStr, file: &Entry) -> std::io::Result<bool> {
        let upper = self.clear(name)?;
        match rustix::fs::linkat(&*file.parent, &file.name, &*upper, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // Another file system or project, or one without links.
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::NOTSUP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Clears the way for something new that is not a directory; returns the upper directory.
    fn clear(&mut self, name: &OsStr) -> std::io::Result<Arc<OwnedFd>> {
        if let Some(Child::Directory(_)) = self.look(name)? {
            return Err(Errno::ISDIR.into());
        }
        let upper = self.upper()?;
        remove(&upper, name)?;
        Ok(upper)
    }

    /// Returns the directory in the upper layer; copies it and its parents up if they are not there.
    fn upper(&mut self) -> std::io::Result<Arc<OwnedFd>> {
        let mut parent: Option<Arc<OwnedFd>> = None;
        for level in &mut self.levels {
            let upper = match (&level.upper, parent) {
                (Some(upper), _) => upper.clone(),
                (None, Some(parent)) => level.copy_up(&parent)?,
                (None, None) => return Err(Errno::ROFS.into()),
            };
            parent = Some(upper);
        }
        parent.ok_or_else(|| Errno::ROFS.into())
    }
}

impl Level {
    fn is_empty(&self) -> bool {
        self.upper.is_none() && self.lowers.is_empty()
    }

    fn attributes(&self) -> std::io::Result<Attributes> {
        let directory = self.upper.iter().chain(&self.lowers).next().ok_or(Errno::NOENT)?;
        let mut attributes = Attributes::of(&rustix::fs::fstat(&**directory)?);
        attributes.read_extended(directory.as_fd())?;
        Ok(attributes)
    }

    fn copy_up(&mut self, parent: &OwnedFd) -> std::io::Result<Arc<OwnedFd>> {
        let attributes = self.attributes()?;
        match rustix::fs::mkdirat(parent, &self.name, Mode::RWXU) {
            // Another cursor was here first.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let upper = open_directory(parent, &self.name)?;
        attributes.apply(&*upper)?;
        self.upper = Some(upper.clone());
        Ok(upper)
    }
}

/// Removes a file, link or node from the upper layer; says whether there was one.
fn remove(upper: &OwnedFd, name: &OsStr) -> std::io::Result<bool> {
    match rustix::fs::unlinkat(upper, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
