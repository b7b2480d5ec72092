//! `COPY` and `ADD`: which sources are meant, their content key, and how they come into a layer.
//!
//! All of it blocks. A transfer is made in two passes over the same [`Source`]: [`Transfer::key`] reads everything
//! that decides the result, and [`Transfer::write`] writes it when no layer is known under that key.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;

use crate::archive::{Opened, Ownership, Unpacker};
use crate::error::Refusal;
use crate::ignore::Ignore;
use crate::key::Key;
use crate::pattern::{Pattern, Wildcards, has_wildcards};
use crate::trace::Inputs;
use crate::tree::{Cancel, Changes, Hasher, Receiver, Traversal, Writer, base_name};
use crate::union::{Attributes, Last, Union, Walked};

const MAX_MATCHES: usize = 1 << 20;

/// Where sources are taken from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) root: Union,
    /// The rules of the build context; other sources have none.
    pub(crate) ignore: Option<std::sync::Arc<Ignore>>,
    /// Whether nobody needs it after the build.
    pub(crate) is_ours: bool,
}

/// One source as it is written, expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A path or pattern.
    Path(String),
    /// A here-document: the name it gets in a directory, and its content.
    Document { name: String, content: String },
    /// Something that is fetched.
    Remote(Arc<Remote>),
}

/// A file or tree that is not here before it is needed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// The source as it is written.
    pub(crate) url: String,
    /// What stands for its content.
    pub(crate) identity: String,
    /// Where it is in what is fetched.
    pub(crate) path: String,
    pub(crate) is_directory: bool,
}

/// A `COPY` or `ADD` with everything expanded.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    pub(crate) wanted: Vec<Wanted>,
    /// Absolute path in the image.
    pub(crate) destination: PathBuf,
    /// Whether the destination was written as a directory, with a slash at its end.
    pub(crate) into_directory: bool,
    /// Whether local archives are unpacked.
    pub(crate) unpack: bool,
    /// Whether fetched archives are.
    pub(crate) unpack_remote: bool,
    pub(crate) changes: Changes,
    /// Whether the owner was asked for; else what is in an archive keeps its own.
    pub(crate) chown: bool,
    /// `--parents`: whether sources keep the directories of their paths.
    pub(crate) parents: bool,
    /// `--exclude`: what is left out, by its path from the source that holds it.
    pub(crate) exclude: Option<Ignore>,
}

/// A source that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picked {
    /// Path from the source's root as it was written or matched.
    path: String,
    /// Directories below the destination that it goes into.
    parents: PathBuf,
    found: Found,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Directory,
    File,
    Archive,
    Document(String),
    Remote(Arc<Remote>),
}

impl Transfer {
    /// Finds the sources.
    ///
    /// # Errors
    /// If a path is not there or ignored, or a pattern matches nothing.
    pub(crate) fn pick(&self, source: &Source, cancel: &Cancel) -> Result<Vec<Picked>, Refusal> {
        let mut picked = Vec::new();
        for wanted in &self.wanted {
            match wanted {
                Wanted::Document { name, content } => {
                    let (path, found) = (name.clone(), Found::Document(content.clone()));
                    picked.push(Picked { path, parents: PathBuf::new(), found });
                }
                Wanted::Remote(remote) => {
                    let (path, found) = (remote.path.clone(), Found::Remote(remote.clone()));
                    picked.push(Picked { path, parents: PathBuf::new(), found });
                }
                Wanted::Path(path) => self.pick_path(source, path, cancel, &mut picked)?,
            }
        }
        if picked.is_empty() {
            return Err(Refusal::new("no source files were specified"));
        }
        if picked.len() > 1 && !self.into_directory && !self.parents {
            return Err(Refusal::new(
                "When using COPY with more than one source file, the destination must be a directory and end with a /",
            ));
        }
        Ok(picked)
    }

    fn pick_path(
        &self,
        source: &Source,
        path: &str,
        cancel: &Cancel,
        picked: &mut Vec<Picked>,
    ) -> Result<(), Refusal> {
        // What stands before `/./` is not kept by `--parents`.
        let dropped = path.find("/./").map_or(0, |pivot| components(&path[..pivot]).len());
        let components = components(path);
        if !has_wildcards(path) {
            let path = components.join("/");
            let found = self.find(source, &path)?.ok_or_else(|| match source.ignore {
                Some(_) => Refusal::new(format!(
                    "file not found in build context or excluded by .dockerignore: stat {path}: file does not exist"
                )),
                None => Refusal::new(format!("stat {path}: file does not exist")),
            })?;
            picked.extend(self.place_picked(path, dropped, found));
            return Ok(());
        }
        let mut matches = Vec::new();
        glob(source, String::new(), &components, cancel, &mut matches)?;
        matches.sort();
        matches.dedup();
        for path in matches {
            if let Some(found) = self.find(source, &path)? {
                picked.extend(self.place_picked(path, dropped, found));
            }
        }
        Ok(())
    }

    /// Says where a source that was found goes; nowhere if it is excluded.
    fn place_picked(&self, path: String, dropped: usize, found: Found) -> Option<Picked> {
        let excludes = |path: &str| self.exclude.as_ref().is_some_and(|rules| rules.ignores(path));
        if found != Found::Directory && (excludes(&path) || excludes(&base_name(&path).to_string_lossy())) {
            return None;
        }
        let mut parents = PathBuf::new();
        if self.parents {
            parents.extend(path.split('/').skip(dropped));
            if found != Found::Directory {
                parents.pop();
            }
        }
        Some(Picked { path, parents, found })
    }

    /// Looks at one source; `None` if it is missing or ignored.
    fn find(&self, source: &Source, path: &str) -> Result<Option<Found>, Refusal> {
        let walked = match source.root.walk(Path::new(path), Last::Follow) {
            Ok(walked) => walked,
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(None),
            Err(error) => return Err(Refusal::at(path)(error)),
        };
        let ignored = |real: &Path| {
            let real = real.to_string_lossy();
            let ignores = |path: &str| {
                !path.is_empty() && source.ignore.as_ref().is_some_and(|ignore| ignore.ignores(path))
            };
            // A link does not bring an ignored file back.
            ignores(path) || ignores(real.trim_start_matches('/'))
        };
        match walked {
            // An ignored directory may hold exceptions; the traversal finds them.
            Walked::Directory(cursor) => {
                let exceptions = source.ignore.as_ref().is_some_and(|ignore| ignore.has_exceptions());
                Ok((exceptions || !ignored(&cursor.path())).then_some(Found::Directory))
            }
            Walked::Other(cursor, entry) => {
                if ignored(&cursor.path().join(base_name(path))) {
                    return Ok(None);
                }
                if !self.unpack || entry.kind() != FileType::RegularFile {
                    return Ok(Some(Found::File));
                }
                let file = entry.open().map_err(Refusal::at(path))?;
                // What looks compressed and is not, is a file like any other.
                let is_tar = match Opened::new(file) {
                    Ok(opened) => opened.is_tar() && opened.head.iter().any(|byte| *byte != 0),
                    Err(_) => false,
                };
                Ok(Some(if is_tar { Found::Archive } else { Found::File }))
            }
            Walked::Missing(..) => Ok(None),
        }
    }

    /// Adds to the key everything that decides what [`Self::write`] writes.
    pub(crate) fn key(
        &self,
        source: &Source,
        picked: &[Picked],
        cancel: &Cancel,
        key: &mut Key,
        inputs: &mut Inputs,
    ) -> Result<(), Refusal> {
        key.field(self.destination.as_os_str().as_bytes());
        key.number(self.into_directory.into());
        key.number(self.changes.modified.map_or(0, i64::cast_unsigned));
        let parent = self.changes.parent();
        key.list([parent.uid.to_le_bytes(), parent.gid.to_le_bytes()]);
        for one in picked {
            let name = base_name(&one.path);
            key.field(name.as_bytes());
            if self.parents {
                key.field(one.parents.as_os_str().as_bytes());
            }
            let mut hasher = match one.found {
                Found::Directory => Hasher::directory(&mut *key, &mut *inputs, &one.path),
                _ => Hasher::file_at(&mut *key, &mut *inputs, &one.path),
            };
            match &one.found {
                Found::Document(content) => {
                    hasher.key.field(b"document");
                    hasher.key.number(self.document_attributes().mode.into());
                    hasher.key.field(content.as_bytes());
                    hasher.inputs.note(format!("here-document {}", one.path), content.as_bytes());
                }
                Found::Archive => {
                    hasher.key.field(b"archive");
                    hasher.key.field(format!("{:?}", self.changes.mode).as_bytes());
                    hasher.key.number(self.chown.into());
                    self.hand_over(source, one, &name, cancel, &mut hasher)?;
                }
                Found::Remote(remote) => {
                    hasher.key.field(b"remote");
                    hasher.key.field(remote.identity.as_bytes());
                    hasher.key.field(format!("{:?}", self.changes.mode).as_bytes());
                    hasher.key.number(self.unpack_remote.into());
                    hasher.inputs.note(format!("what is at {}", remote.url), remote.identity.as_bytes());
                }
                Found::Directory | Found::File => {
                    hasher.key.field(b"tree");
                    self.hand_over(source, one, &name, cancel, &mut hasher)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the sources into `into`.
    pub(crate) fn write(
        &self,
        source: &Source,
        remote: &BTreeMap<String, Source>,
        picked: &[Picked],
        into: &Union,
        cancel: &Cancel,
    ) -> Result<(), Refusal> {
        for one in picked {
            let missing = || Refusal::new(format!("{}: not fetched", one.path));
            let (source, found) = match &one.found {
                Found::Remote(wanted) => {
                    let source = remote.get(&wanted.url).ok_or_else(missing)?;
                    (source, self.fetched(source, wanted)?)
                }
                found => (source, found.clone()),
            };
            match &found {
                Found::Directory => {
                    let cursor = self.directory(into, &self.destination.join(&one.parents))?;
                    self.hand_over(
                        source,
                        one,
                        OsStr::new(""),
                        cancel,
                        &mut Writer::new(cursor).taking(source.is_ours),
                    )?;
                }
                Found::Archive => self.unpack(source, one, into, cancel)?,
                Found::File => {
                    let (cursor, name) = self.place(into, one)?;
                    self.hand_over(
                        source,
                        one,
                        &name,
                        cancel,
                        &mut Writer::new(cursor).taking(source.is_ours),
                    )?;
                }
                Found::Remote(_) => return Err(missing()),
                Found::Document(content) => {
                    let (cursor, name) = self.place(into, one)?;
                    let attributes = self.document_attributes();
                    Writer::new(cursor).write_bytes(&name, &attributes, content.as_bytes())?;
                }
            }
        }
        Ok(())
    }

    /// Says what was fetched.
    fn fetched(&self, source: &Source, remote: &Remote) -> Result<Found, Refusal> {
        let local = Self { unpack: self.unpack_remote, ..self.clone() };
        match local.find(source, &remote.path)? {
            Some(Found::Directory) if remote.is_directory => Ok(Found::Directory),
            Some(found) if !remote.is_directory => Ok(found),
            _ => Err(Refusal::new(format!("{}: no directory {} in it", remote.url, remote.path))),
        }
    }

    /// Gives a source to a receiver: a directory's contents, or the file under the name `name`.
    fn hand_over(
        &self,
        source: &Source,
        one: &Picked,
        name: &OsStr,
        cancel: &Cancel,
        receiver: &mut dyn Receiver,
    ) -> Result<(), Refusal> {
        let exclude = self.exclude.as_ref().map(|rules| (rules, one.path.as_str()));
        let ignore = source.ignore.as_deref();
        let traversal = Traversal { ignore, exclude, changes: &self.changes, cancel };
        let path = Path::new(&one.path);
        match source.root.walk(path, Last::Follow).map_err(Refusal::at(path))? {
            Walked::Directory(mut cursor) => traversal.contents(&mut cursor, &one.path, receiver),
            Walked::Other(_, entry) => traversal.entry(&entry, name, &one.path, receiver),
            Walked::Missing(..) => Err(Refusal::new(format!("stat {}: file does not exist", one.path))),
        }
    }

    fn unpack(&self, source: &Source, one: &Picked, into: &Union, cancel: &Cancel) -> Result<(), Refusal> {
        let path = Path::new(&one.path);
        let Walked::Other(_, entry) = source.root.walk(path, Last::Follow).map_err(Refusal::at(path))? else {
            return Err(Refusal::new(format!("stat {}: file does not exist", one.path)));
        };
        let base = self.directory(into, &self.destination.join(&one.parents))?.path();
        let owner = self.changes.owner.filter(|_| self.chown);
        let changes = Changes { owner, ..self.changes.clone() };
        let unpacker =
            Unpacker { union: into, base, ownership: Ownership::Archive, changes: &changes, cancel };
        let opened = Opened::new(entry.open().map_err(Refusal::at(path))?)?;
        unpacker.unpack(opened).map_err(|refusal| Refusal::new(format!("{}: {refusal}", one.path)))
    }

    /// Decides where a single file goes: into the destination if that is a directory, else in its place.
    fn place(
        &self,
        into: &Union,
        one: &Picked,
    ) -> Result<(crate::union::Cursor, std::ffi::OsString), Refusal> {
        let destination = &self.destination.join(&one.parents);
        if self.into_directory || self.parents {
            return Ok((self.directory(into, destination)?, base_name(&one.path)));
        }
        let walked = into.walk(destination, Last::Follow);
        match walked.map_err(|error| Self::not_there(destination, error))? {
            Walked::Directory(cursor) => Ok((cursor, base_name(&one.path))),
            // A link stays, what it leads to is replaced.
            Walked::Other(cursor, entry) => Ok((cursor, entry.name().to_owned())),
            Walked::Missing(mut cursor, mut missing) => {
                let name = missing.pop().unwrap_or_else(|| base_name(&one.path));
                let made = cursor.make_directories(&missing, &self.changes.parent());
                made.map_err(|error| Self::not_there(destination, error))?;
                Ok((cursor, name))
            }
        }
    }

    fn directory(&self, into: &Union, path: &Path) -> Result<crate::union::Cursor, Refusal> {
        let made = into.make_directories(path, &self.changes.parent());
        made.map_err(|error| Self::not_there(path, error))
    }

    fn not_there(path: &Path, error: std::io::Error) -> Refusal {
        match error.kind() {
            std::io::ErrorKind::NotADirectory => {
                Refusal::new(format!("cannot copy to non-directory: {}", path.display()))
            }
            _ => Refusal::at(path)(error),
        }
    }

    fn document_attributes(&self) -> Attributes {
        self.changes.apply(Attributes::new(0o644), false)
    }
}

/// Splits a source path; it is taken from the source's root, which `..` does not leave.
fn components(path: &str) -> Vec<&str> {
    let mut components = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(components.pop()),
            part => components.push(part),
        }
    }
    components
}

/// Finds the paths that match a pattern, component by component.
fn glob(
    source: &Source,
    base: String,
    components: &[&str],
    cancel: &Cancel,
    matches: &mut Vec<String>,
) -> Result<(), Refusal> {
    cancel.check()?;
    let Some((component, rest)) = components.split_first() else {
        if matches.len() == MAX_MATCHES {
            return Err(Refusal::new(format!("more than {MAX_MATCHES} sources match")));
        }
        matches.push(base);
        return Ok(());
    };
    let below = |name: &str| if base.is_empty() { name.to_owned() } else { format!("{base}/{name}") };
    if *component == "**" {
        glob(source, base.clone(), rest, cancel, matches)?;
        return descend(source, &base, components, cancel, matches);
    }
    if !has_wildcards(component) {
        return glob(source, below(component), rest, cancel, matches);
    }
    let pattern = Pattern::parse(component, Wildcards::Path)
        .map_err(|_| Refusal::new(format!("syntax error in pattern {component}")))?;
    let names = match source.root.walk(Path::new(&base), Last::Follow) {
        Ok(Walked::Directory(cursor)) => cursor.names().map_err(Refusal::at(&base))?,
        _ => return Ok(()),
    };
    for name in names.iter().filter_map(|name| name.to_str()).filter(|name| pattern.matches(name)) {
        glob(source, below(name), rest, cancel, matches)?;
    }
    Ok(())
}

/// Tries the patterns, of which the first is `**`, in every directory of `base`. Links are not followed: their targets
/// are found where they are.
fn descend(
    source: &Source,
    base: &str,
    components: &[&str],
    cancel: &Cancel,
    matches: &mut Vec<String>,
) -> Result<(), Refusal> {
    let Ok(Walked::Directory(cursor)) = source.root.walk(Path::new(base), Last::Follow) else {
        return Ok(());
    };
    for name in cursor.names().map_err(Refusal::at(base))?.iter().filter_map(|name| name.to_str()) {
        let below = if base.is_empty() { name.to_owned() } else { format!("{base}/{name}") };
        if let Ok(Walked::Directory(_)) = source.root.walk(Path::new(&below), Last::Keep) {
            glob(source, below, components, cancel, matches)?;
        }
    }
    Ok(())
}
