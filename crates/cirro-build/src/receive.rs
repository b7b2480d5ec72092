//! A build context that comes entry by entry, files' contents in pieces and several files at a time.
//!
//! What comes is as hostile as a tar (see [`crate::archive`]): names with `..` are refused, links are made but only ever
//! followed inside the root, devices are refused, entries and bytes are bounded. Everything belongs to root.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::BuildError;
use crate::archive::{MAX_BYTES, MAX_ENTRIES, MAX_PATH_BYTES, names};
use crate::error::Refusal;
use crate::tree::Writer;
use crate::union::{Attributes, Existing, Last, Union, Walked};

/// What an entry of a context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextEntry {
    /// A directory.
    Directory,
    /// A file, whose content comes later.
    File,
    /// A symbolic link to this target.
    Link(Vec<u8>),
    /// Another name of this file, which has come.
    HardLink(Vec<u8>),
    /// A named pipe.
    Pipe,
    /// A socket, which nothing can be built of.
    Socket,
    /// A device.
    Device,
}

/// Writes a context into a directory; blocks.
pub struct ContextWriter {
    union: Union,
    /// An earlier state of the context.
    before: Option<Union>,
    directories: Vec<(PathBuf, Attributes)>,
    entries: usize,
}

/// A file whose content is still to come.
pub struct ContextFile {
    file: std::fs::File,
    path: PathBuf,
    attributes: Attributes,
}

impl ContextWriter {
    /// Opens `dir`, which is there and empty. `before` is what an earlier writer has written, to take files of.
    ///
    /// # Errors
    /// [`BuildError::Context`] if one of them cannot be opened.
    pub fn open(dir: &Path, before: Option<&Path>) -> Result<Self, BuildError> {
        let open = |dir: &Path| Union::directory(dir).map_err(Refusal::at(dir)).map_err(wrong);
        let (union, before) = (open(dir)?, before.map(open).transpose()?);
        Ok(Self { union, before, directories: Vec::new(), entries: 0 })
    }

    /// Makes a file that the earlier state of the context has with the same mode, time and size: another name of that one.
    /// Returns whether there is such a file.
    ///
    /// # Errors
    /// [`BuildError::Context`] as [`Self::add`].
    pub fn reuse(
        &mut self,
        path: &[u8],
        mode: u32,
        modified: (i64, i64),
        size: u64,
    ) -> Result<bool, BuildError> {
        let Some(before) = &self.before else { return Ok(false) };
        let names = names(path).map_err(wrong)?;
        let Some((name, parents)) = names.split_last() else { return Ok(false) };
        let mut attributes = Attributes::new(mode & 0o7777);
        attributes.modified = Some(modified);
        let parents_path = Path::new("/").join(parents.iter().collect::<PathBuf>());
        // What cannot be looked at is sent again.
        let Ok(Walked::Other(at, file)) = before.walk(&parents_path.join(name), Last::Keep) else {
            return Ok(false);
        };
        // A link on the way leads to a file that was not listed under this path.
        if at.path() != parents_path || !file.is_same(&attributes, size) {
            return Ok(false);
        }
        let mut cursor = self.parent(parents).map_err(wrong)?;
        let taken = cursor.take_file(name, &file);
        let taken = taken.map_err(Refusal::at(names.iter().collect::<PathBuf>())).map_err(wrong)?;
        self.entries += usize::from(taken);
        if self.entries > MAX_ENTRIES {
            return Err(wrong(Refusal::new(format!("more than {MAX_ENTRIES} entries"))));
        }
        Ok(taken)
    }

    /// Makes an entry; returns the file if it is one. `mode` has the permission bits, `modified` seconds and nanoseconds.
    ///
    /// # Errors
    /// [`BuildError::Context`] for names that leave the root, devices, too many entries.
    pub fn add(
        &mut self,
        path: &[u8],
        entry: &ContextEntry,
        mode: u32,
        modified: (i64, i64),
    ) -> Result<Option<ContextFile>, BuildError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(wrong(Refusal::new(format!("more than {MAX_ENTRIES} entries"))));
        }
        let mut attributes = Attributes::new(mode & 0o7777);
        attributes.modified = Some(modified);
        self.make(path, entry, attributes).map_err(wrong)
    }

    fn make(
        &mut self,
        path: &[u8],
        entry: &ContextEntry,
        attributes: Attributes,
    ) -> Result<Option<ContextFile>, Refusal> {
        let names = names(path)?;
        let shown = names.iter().collect::<PathBuf>();
        let Some((name, parents)) = names.split_last() else { return Ok(None) };
        let mut writer = Writer::new(self.parent(parents)?);
        match entry {
            ContextEntry::Directory => {
                writer.cursor.make_directory(name, Existing::Replace).map_err(Refusal::at(&shown))?;
                self.directories.push((writer.cursor.path(), attributes));
            }
            ContextEntry::File => {
                let file = writer.cursor.make_file(name).map_err(Refusal::at(&shown))?;
                return Ok(Some(ContextFile { file, path: shown, attributes }));
            }
            ContextEntry::Link(target) if !target.is_empty() && target.len() < MAX_PATH_BYTES => {
                let made = writer.cursor.make_link(name, OsStr::from_bytes(target), &attributes);
                made.map_err(Refusal::at(shown))?;
            }
            ContextEntry::HardLink(target) => self.hard_link(&mut writer, name, target, &shown)?,
            ContextEntry::Pipe => {
                let made = writer.cursor.make_node(name, FileType::Fifo, &attributes);
                made.map_err(Refusal::at(shown))?;
            }
            ContextEntry::Socket => {}
            ContextEntry::Link(_) => {
                return Err(Refusal::new(format!(
                    "{}: link without a target, or with too long a one",
                    shown.display()
                )));
            }
            ContextEntry::Device => {
                return Err(Refusal::new(format!(
                    "{}: a device in a context is not supported",
                    shown.display()
                )));
            }
        }
        Ok(None)
    }

    fn parent(&self, parents: &[OsString]) -> Result<crate::union::Cursor, Refusal> {
        let path: PathBuf = Path::new("/").join(parents.iter().collect::<PathBuf>());
        self.union.make_directories(&path, &Attributes::new(0o755)).map_err(Refusal::at(path))
    }

    fn hard_link(
        &self,
        writer: &mut Writer,
        name: &OsStr,
        target: &[u8],
        shown: &Path,
    ) -> Result<(), Refusal> {
        let path = Path::new("/").join(names(target)?.iter().collect::<PathBuf>());
        match self.union.walk(&path, Last::Keep).map_err(Refusal::at(&path))? {
            Walked::Other(_, file) => writer.cursor.make_hard_link(name, &file).map_err(Refusal::at(shown)),
            Walked::Directory(_) | Walked::Missing(..) => Err(Refusal::new(format!(
                "{}: hard link to {}, which is not a file of the context",
                shown.display(),
                path.display()
            ))),
        }
    }

    /// Gives the directories their times, which what was written into them has changed.
    ///
    /// # Errors
    /// [`BuildError::Context`] if that fails.
    pub fn finish(self) -> Result<(), BuildError> {
        for (path, attributes) in self.directories {
            let walked = self.union.walk(&path, Last::Keep).map_err(Refusal::at(&path)).map_err(wrong)?;
            if let Walked::Directory(mut cursor) = walked {
                cursor.set_attributes(&attributes).map_err(Refusal::at(path)).map_err(wrong)?;
            }
        }
        Ok(())
    }
}

impl ContextFile {
    /// Appends to the file. `total` is what the context has had of bytes so far.
    ///
    /// # Errors
    /// [`BuildError::Context`] if it cannot be written, or the context is too large.
    pub fn write(&mut self, bytes: &[u8], total: &mut u64) -> Result<(), BuildError> {
        *total += bytes.len() as u64;
        if *total > MAX_BYTES {
            return Err(wrong(Refusal::new(format!("more than {MAX_BYTES} bytes"))));
        }
        self.file.write_all(bytes).map_err(Refusal::at(&self.path)).map_err(wrong)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`BuildError::Context`] if its attributes cannot be set.
    pub fn finish(self) -> Result<(), BuildError> {
        self.attributes.apply(&self.file).map_err(Refusal::at(self.path)).map_err(wrong)
    }
}

fn wrong(refusal: Refusal) -> BuildError {
    BuildError::Context { message: refusal.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const TIME: (i64, i64) = (1_000_000, 0);

    fn add(writer: &mut ContextWriter, path: &str, entry: ContextEntry) -> Result<(), BuildError> {
        let file = writer.add(path.as_bytes(), &entry, 0o640, TIME)?;
        if let Some(mut file) = file {
            let mut total = 0;
            file.write(b"one ", &mut total)?;
            file.write(b"two", &mut total)?;
            file.finish()?;
        }
        Ok(())
    }

    #[test]
    fn entries_are_written_with_their_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ContextWriter::open(dir.path(), None).unwrap();
        add(&mut writer, "a", ContextEntry::Directory).unwrap();
        add(&mut writer, "a/f", ContextEntry::File).unwrap();
        add(&mut writer, "b/without/parents", ContextEntry::File).unwrap();
        add(&mut writer, "link", ContextEntry::Link(b"/etc/passwd".to_vec())).unwrap();
        add(&mut writer, "hard", ContextEntry::HardLink(b"a/f".to_vec())).unwrap();
        add(&mut writer, "socket", ContextEntry::Socket).unwrap();
        writer.finish().unwrap();
        let meta = |path: &str| dir.path().join(path).symlink_metadata().unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("hard")).unwrap(), "one two");
        assert_eq!(
            (meta("a/f").mode() & 0o7777, meta("a/f").mtime(), meta("a").mtime()),
            (0o640, TIME.0, TIME.0)
        );
        assert_eq!(meta("hard").ino(), meta("a/f").ino());
        assert!(meta("link").is_symlink() && !dir.path().join("socket").exists());
    }

    #[test]
    fn what_an_earlier_context_has_gets_another_name() {
        let (before, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut writer = ContextWriter::open(before.path(), None).unwrap();
        for path in ["a/same", "a/other", "b/f"] {
            add(&mut writer, path, ContextEntry::File).unwrap();
        }
        add(&mut writer, "link", ContextEntry::Link(b"b".to_vec())).unwrap();
        writer.finish().unwrap();
        let mut writer = ContextWriter::open(dir.path(), Some(before.path())).unwrap();
        let size = "one two".len() as u64;
        let mut reuse =
            |path: &str, mode, time, size| writer.reuse(path.as_bytes(), mode, time, size).unwrap();
        assert!(reuse("a/same", 0o640, TIME, size));
        assert!(!reuse("a/other", 0o640, TIME, size + 1), "another length");
        assert!(!reuse("a/other", 0o644, TIME, size), "another mode");
        assert!(!reuse("a/other", 0o640, (TIME.0, 1), size), "another time");
        assert!(!reuse("a", 0o640, TIME, size) && !reuse("none", 0o640, TIME, size));
        assert!(!reuse("link/f", 0o640, TIME, size), "a link on the way is not followed");
        assert!(writer.reuse(b"../x", 0o640, TIME, size).is_err());
        writer.finish().unwrap();
        let inode = |dir: &tempfile::TempDir, path: &str| dir.path().join(path).metadata().unwrap().ino();
        assert_eq!(inode(&before, "a/same"), inode(&dir, "a/same"));
        assert!(!dir.path().join("a/other").exists());
    }

    #[test]
    fn nothing_leaves_the_root() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ContextWriter::open(dir.path(), None).unwrap();
        let out = outside.path().as_os_str().as_bytes().to_vec();
        add(&mut writer, "out", ContextEntry::Link(out)).unwrap();
        // The link leads to a directory of that name below the root, not to the host's.
        add(&mut writer, "out/f", ContextEntry::File).unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        for (path, entry) in [
            ("../x", ContextEntry::File),
            ("a/../../x", ContextEntry::Directory),
            ("hard", ContextEntry::HardLink(b"../etc/passwd".to_vec())),
            ("missing", ContextEntry::HardLink(b"none".to_vec())),
            ("empty", ContextEntry::Link(Vec::new())),
            ("device", ContextEntry::Device),
            ("nul\0", ContextEntry::File),
        ] {
            assert!(add(&mut writer, path, entry).is_err(), "{path:?}");
        }
    }
}
