//! Trees: one traversal of what `COPY` and `ADD` take, and the two that receive it.
//!
//! [`Traversal`] walks a source and hands entries to a [`Receiver`]: [`Hasher`] makes the content key of them,
//! [`Writer`] the new layer. Both see the same entries with the same attributes, so a key cannot miss what is written.

use std::collections::{HashMap, hash_map};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::accounts::Owner;
use crate::error::Refusal;
use crate::ignore::Ignore;
use crate::key::Key;
use crate::mode::ModeChange;
use crate::trace::{Inputs, short};
use crate::union::{Attributes, Child, Cursor, Entry, Existing, Inode};

/// Tells blocking work that nobody waits for it any more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Stops the work.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Fails once the work is stopped.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.0.load(Ordering::Relaxed) { Err(Refusal::new("the build was cancelled")) } else { Ok(()) }
    }
}

/// What `--chown`, `--chmod` and `SOURCE_DATE_EPOCH` change about what is copied.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    pub(crate) owner: Option<Owner>,
    pub(crate) mode: Option<ModeChange>,
    /// Seconds since 1970.
    pub(crate) modified: Option<i64>,
}

impl Changes {
    /// Changes the attributes of something that is copied.
    pub(crate) fn apply(&self, mut attributes: Attributes, is_directory: bool) -> Attributes {
        if let Some(mode) = &self.mode {
            attributes.mode = mode.apply(attributes.mode, is_directory);
        }
        self.apply_to_parent(&mut attributes);
        attributes
    }

    /// Returns the attributes of a directory that is made on the way to the destination.
    pub(crate) fn parent(&self) -> Attributes {
        let mut attributes = Attributes::new(0o755);
        self.apply_to_parent(&mut attributes);
        attributes
    }

    fn apply_to_parent(&self, attributes: &mut Attributes) {
        if let Some(owner) = self.owner {
            (attributes.uid, attributes.gid) = (owner.uid, owner.gid);
        }
        if let Some(modified) = self.modified {
            attributes.modified = Some((modified, 0));
        }
    }
}

/// Files with several names, by the first of them.
#[derive(Debug, Default)]
pub(crate) struct Links(HashMap<Inode, PathBuf>);

impl Links {
    /// Returns the name that a file was seen under before, or notes this one.
    fn first(&mut self, inode: Option<Inode>, path: impl FnOnce() -> PathBuf) -> Option<PathBuf> {
        match self.0.entry(inode?) {
            hash_map::Entry::Occupied(known) => Some(known.get().clone()),
            hash_map::Entry::Vacant(new) => {
                new.insert(path());
                None
            }
        }
    }
}

/// Takes the entries of a tree in order.
pub(crate) trait Receiver {
    /// Goes into a directory.
    fn enter(&mut self, name: &OsStr, attributes: &Attributes) -> Result<(), Refusal>;
    /// Leaves the directory that was entered last.
    fn leave(&mut self, attributes: &Attributes) -> Result<(), Refusal>;
    /// Takes a file; `is_changed` if these are not its own attributes.
    fn file(
        &mut self,
        name: &OsStr,
        attributes: &Attributes,
        file: &Entry,
        is_changed: bool,
    ) -> Result<(), Refusal>;
    /// Takes a symbolic link.
    fn link(&mut self, name: &OsStr, attributes: &Attributes, target: &OsStr) -> Result<(), Refusal>;
    /// Takes a pipe, socket or device.
    fn node(&mut self, name: &OsStr, attributes: &Attributes, kind: FileType) -> Result<(), Refusal>;
}

/// A walk through a source tree.
pub(crate) struct Traversal<'a> {
    /// Rules over paths from the source's root, if it is the build context.
    pub(crate) ignore: Option<&'a Ignore>,
    /// Rules over paths from the source itself, whose path from the root stands with them.
    pub(crate) exclude: Option<(&'a Ignore, &'a str)>,
    pub(crate) changes: &'a Changes,
    pub(crate) cancel: &'a Cancel,
}

impl Traversal<'_> {
    /// Says whether `path`, from the source's root, is left out.
    pub(crate) fn ignores(&self, path: &str) -> bool {
        if path.is_empty() {
            return false;
        }
        let excluded = || {
            let (rules, base) = self.exclude?;
            let rest = path.strip_prefix(base).map(|rest| rest.trim_start_matches('/'))?;
            Some(!rest.is_empty() && rules.ignores(rest))
        };
        self.ignore.is_some_and(|ignore| ignore.ignores(path)) || excluded().unwrap_or(false)
    }

    /// Says whether a directory that is left out may hold something that is not.
    fn has_exceptions(&self) -> bool {
        self.ignore.is_some_and(Ignore::has_exceptions)
            || self.exclude.is_some_and(|(rules, _)| rules.has_exceptions())
    }

    /// Hands over what is in the directory of `source`, whose path from the root is `path`.
    pub(crate) fn contents(
        &self,
        source: &mut Cursor,
        path: &str,
        receiver: &mut dyn Receiver,
    ) -> Result<(), Refusal> {
        for name in source.names().map_err(Refusal::at(path))? {
            self.cancel.check()?;
            let path = join(path, &name);
            match source.look(&name).map_err(Refusal::at(&path))? {
                Some(Child::Directory(level)) => {
                    source.enter(level).map_err(Refusal::at(&path))?;
                    if self.keeps_directory(source, &path)? {
                        self.directory(source, &name, &path, receiver)?;
                    }
                    source.leave();
                }
                Some(Child::Other(entry)) if !self.ignores(&path) => {
                    self.entry(&entry, &name, &path, receiver)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Hands over one thing that is not a directory, under the name `name`.
    pub(crate) fn entry(
        &self,
        entry: &Entry,
        name: &OsStr,
        path: &str,
        receiver: &mut dyn Receiver,
    ) -> Result<(), Refusal> {
        let own = entry.attributes().map_err(Refusal::at(path))?;
        let attributes = self.changes.apply(own.clone(), false);
        match entry.kind() {
            FileType::RegularFile => receiver.file(name, &attributes, entry, own != attributes),
            FileType::Symlink => {
                receiver.link(name, &attributes, &entry.target().map_err(Refusal::at(path))?)
            }
            kind => receiver.node(name, &attributes, kind),
        }
    }

    fn directory(
        &self,
        source: &mut Cursor,
        name: &OsStr,
        path: &str,
        receiver: &mut dyn Receiver,
    ) -> Result<(), Refusal> {
        let attributes = self.changes.apply(source.attributes().map_err(Refusal::at(path))?, true);
        receiver.enter(name, &attributes)?;
        self.contents(source, path, receiver)?;
        receiver.leave(&attributes)
    }

    /// Says whether a directory is copied: it is not ignored, or an exception brings something in it back.
    fn keeps_directory(&self, directory: &mut Cursor, path: &str) -> Result<bool, Refusal> {
        if !self.ignores(path) {
            return Ok(true);
        }
        if !self.has_exceptions() {
            return Ok(false);
        }
        for name in directory.names().map_err(Refusal::at(path))? {
            self.cancel.check()?;
            let path = join(path, &name);
            let kept = match directory.look(&name).map_err(Refusal::at(&path))? {
                Some(Child::Directory(level)) => {
                    directory.enter(level).map_err(Refusal::at(&path))?;
                    let kept = self.keeps_directory(directory, &path)?;
                    directory.leave();
                    kept
                }
                Some(Child::Other(_)) => !self.ignores(&path),
                None => false,
            };
            if kept {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Joins a path from a source's root with a name; what is not UTF-8 is replaced, patterns see no bytes.
fn join(path: &str, name: &OsStr) -> String {
    let name = name.to_string_lossy();
    if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") }
}

/// Computes the content key of a tree, and notes its files one by one. Times are no part of it.
pub(crate) struct Hasher<'a> {
    pub(crate) key: &'a mut Key,
    pub(crate) inputs: &'a mut Inputs,
    /// Path of the directory that is being hashed, with a slash at its end unless it is the root.
    path: String,
    /// Path of the only file, if it is one that is hashed.
    single: Option<String>,
    links: Links,
}

impl<'a> Hasher<'a> {
    /// Hashes what is in the directory `path`.
    pub(crate) fn directory(key: &'a mut Key, inputs: &'a mut Inputs, path: &str) -> Self {
        let path = path.trim_matches('/');
        let path = if path.is_empty() || path == "." { String::new() } else { format!("{path}/") };
        Self { key, inputs, path, single: None, links: Links::default() }
    }

    /// Hashes the file `path`.
    pub(crate) fn file_at(key: &'a mut Key, inputs: &'a mut Inputs, path: &str) -> Self {
        let (path, single) = (String::new(), Some(path.to_owned()));
        Self { key, inputs, path, single, links: Links::default() }
    }

    fn header(&mut self, kind: &str, name: &OsStr, attributes: &Attributes) {
        self.key.field(kind.as_bytes());
        self.key.field(name.as_bytes());
        self.attributes(attributes);
    }

    fn attributes(&mut self, attributes: &Attributes) {
        for number in [attributes.mode, attributes.uid, attributes.gid] {
            self.key.number(number.into());
        }
        self.key.list(attributes.extended.iter().flat_map(|(name, value)| [name.as_bytes(), value]));
    }

    fn note(&mut self, name: &OsStr, attributes: &Attributes, content: &[u8]) {
        let path = match &self.single {
            Some(path) => path.clone(),
            None => format!("{}{}", self.path, name.to_string_lossy()),
        };
        let extended =
            attributes.extended.iter().flat_map(|(name, value)| [name.as_bytes(), value]).flatten();
        let owner = [attributes.mode, attributes.uid, attributes.gid].map(u32::to_le_bytes);
        let all: Vec<u8> =
            owner.concat().into_iter().chain(extended.copied()).chain(content.iter().copied()).collect();
        self.inputs.note_file(&path, short(&all));
    }
}

impl Receiver for Hasher<'_> {
    fn enter(&mut self, name: &OsStr, attributes: &Attributes) -> Result<(), Refusal> {
        self.header("directory", name, attributes);
        self.note(name, attributes, b"directory");
        self.path.push_str(&name.to_string_lossy());
        self.path.push('/');
        Ok(())
    }

    fn leave(&mut self, _: &Attributes) -> Result<(), Refusal> {
        self.key.field(b"leave");
        let parent = self.path.trim_end_matches('/').rfind('/').map_or(0, |slash| slash + 1);
        self.path.truncate(parent);
        Ok(())
    }

    fn file(&mut self, name: &OsStr, attributes: &Attributes, file: &Entry, _: bool) -> Result<(), Refusal> {
        if let Some(first) = self.links.first(file.shared_inode(), || Path::new(&self.path).join(name)) {
            self.header("hard link", name, attributes);
            self.key.field(first.as_os_str().as_bytes());
            self.note(name, attributes, first.as_os_str().as_bytes());
            return Ok(());
        }
        self.header("file", name, attributes);
        let digest = file.open().and_then(|content| self.key.content(content)).map_err(Refusal::at(name))?;
        self.note(name, attributes, &digest);
        Ok(())
    }

    fn link(&mut self, name: &OsStr, attributes: &Attributes, target: &OsStr) -> Result<(), Refusal> {
        self.header("link", name, attributes);
        self.key.field(target.as_bytes());
        self.note(name, attributes, target.as_bytes());
        Ok(())
    }

    fn node(&mut self, name: &OsStr, attributes: &Attributes, kind: FileType) -> Result<(), Refusal> {
        self.header("node", name, attributes);
        self.key.number(kind.as_raw_mode().into());
        self.key.number(attributes.device);
        self.note(name, attributes, b"node");
        Ok(())
    }
}

/// Writes a tree below a cursor.
pub(crate) struct Writer {
    pub(crate) cursor: Cursor,
    links: Links,
    /// Whether files are taken over and not copied.
    takes: bool,
}

impl Writer {
    /// Writes below the cursor's directory.
    pub(crate) fn new(cursor: Cursor) -> Self {
        Self { cursor, links: Links::default(), takes: false }
    }

    /// Takes files over where that is the same as to copy them, if their source is not needed any more.
    pub(crate) fn taking(self, takes: bool) -> Self {
        Self { takes, ..self }
    }

    fn path(&self, name: &OsStr) -> PathBuf {
        self.cursor.path().join(name)
    }

    /// Names the destination when something of the other sort is in the way, as BuildKit words it.
    fn blocked(&self, name: &OsStr) -> impl FnOnce(std::io::Error) -> Refusal + use<> {
        let path = self.path(name);
        move |error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ISDIR) => {
                Refusal::new(format!("cannot replace to directory {} with file", path.display()))
            }
            Some(Errno::NOTDIR) => Refusal::new(format!("cannot copy to non-directory: {}", path.display())),
            _ => Refusal::at(path)(error),
        }
    }

    /// Makes a file with what `content` gives.
    pub(crate) fn write_file(
        &mut self,
        name: &OsStr,
        attributes: &Attributes,
        fill: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>,
    ) -> Result<(), Refusal> {
        let mut file = self.cursor.make_file(name).map_err(self.blocked(name))?;
        fill(&mut file).and_then(|()| attributes.apply(&file)).map_err(Refusal::at(self.path(name)))
    }

    /// Makes a file with these bytes.
    pub(crate) fn write_bytes(
        &mut self,
        name: &OsStr,
        attributes: &Attributes,
        bytes: &[u8],
    ) -> Result<(), Refusal> {
        self.write_file(name, attributes, |file| file.write_all(bytes))
    }
}

impl Receiver for Writer {
    fn enter(&mut self, name: &OsStr, _: &Attributes) -> Result<(), Refusal> {
        let blocked = self.blocked(name);
        self.cursor.make_directory(name, Existing::Keep).map(drop).map_err(blocked)
    }

    fn leave(&mut self, attributes: &Attributes) -> Result<(), Refusal> {
        // Only now: what was written into the directory has changed its time.
        let path = self.cursor.path();
        self.cursor.set_attributes(attributes).map_err(Refusal::at(path))?;
        self.cursor.leave();
        Ok(())
    }

    fn file(
        &mut self,
        name: &OsStr,
        attributes: &Attributes,
        file: &Entry,
        is_changed: bool,
    ) -> Result<(), Refusal> {
        let inode = file.shared_inode();
        if let Some(first) = self.links.first(inode, || self.cursor.path().join(name)) {
            let blocked = self.blocked(name);
            let linked = match self.cursor.entry_at(&first) {
                Ok(Some(entry)) => self.cursor.make_hard_link(name, &entry),
                Ok(None) => Err(Errno::NOENT.into()),
                Err(error) => Err(error),
            };
            return linked.map_err(blocked);
        }
        // What has another name already may be in a layer already.
        if self.takes && !is_changed && inode.is_none() {
            let blocked = self.blocked(name);
            if self.cursor.take_file(name, file).map_err(blocked)? {
                return Ok(());
            }
        }
        let mut content = file.open().map_err(Refusal::at(self.path(name)))?;
        self.write_file(name, attributes, |file| copy_content(&mut content, file))
    }

    fn link(&mut self, name: &OsStr, attributes: &Attributes, target: &OsStr) -> Result<(), Refusal> {
        let blocked = self.blocked(name);
        self.cursor.make_link(name, target, attributes).map_err(blocked)
    }

    fn node(&mut self, name: &OsStr, attributes: &Attributes, kind: FileType) -> Result<(), Refusal> {
        let blocked = self.blocked(name);
        self.cursor.make_node(name, kind, attributes).map_err(blocked)
    }
}

/// Copies a file's content: shares its blocks where the file system can, else copies inside of the kernel.
fn copy_content(from: &mut std::fs::File, to: &mut std::fs::File) -> std::io::Result<()> {
    if rustix::fs::ioctl_ficlone(&*to, &*from).is_ok() {
        return Ok(());
    }
    // The standard library tries copy_file_range first, and falls back to reading and writing.
    std::io::copy(from, to).map(drop)
}

/// Returns the last component of a path as it was written; a source `.` or `/` has none.
pub(crate) fn base_name(path: &str) -> OsString {
    std::path::Path::new(path).file_name().map(OsStr::to_owned).unwrap_or_default()
}
