//! The files of an image as one tree: for those who want a build's files and not its image.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::BuildError;
use crate::archive::MAX_ENTRIES;
use crate::error::Refusal;
use crate::union::{Attributes, Child, Cursor, Last, Union, Walked};

/// The layers of an image, seen as one.
pub struct ImageTree {
    union: Union,
}

/// What an entry of a tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeKind {
    /// A directory.
    Directory,
    /// A file of so many bytes.
    File(u64),
    /// A symbolic link to this target.
    Link(Vec<u8>),
    /// A named pipe.
    Pipe,
    /// A device, major and minor number.
    Device {
        /// Whether it is one of blocks.
        block: bool,
        /// The two numbers.
        numbers: (u32, u32),
    },
}

/// An entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Its path from the root, without a slash before it.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: TreeKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
}

impl ImageTree {
    /// Opens unpacked layers, the top one first; blocks.
    ///
    /// # Errors
    /// [`BuildError::Request`] if one cannot be opened.
    pub fn open(layers: &[PathBuf]) -> Result<Self, BuildError> {
        let union = Union::read_only(layers).map_err(|error| failed(&error))?;
        Ok(Self { union })
    }

    /// Lists the entries, directories before what is in them and names in their order; blocks. Sockets are left out.
    ///
    /// # Errors
    /// [`BuildError::Request`] if something cannot be read, or there is too much.
    pub fn list(&self) -> Result<Vec<TreeEntry>, BuildError> {
        let mut entries = Vec::new();
        list(&mut self.union.root(), Path::new(""), &mut entries).map_err(|error| failed(&error))?;
        Ok(entries)
    }

    /// Opens a file; blocks.
    ///
    /// # Errors
    /// [`BuildError::Request`] if it is not there, or no file.
    pub fn open_file(&self, path: &[u8]) -> Result<File, BuildError> {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let opened = match self.union.walk(path, Last::Keep) {
            Ok(Walked::Other(_, entry)) if entry.kind() == FileType::RegularFile => entry.open(),
            Ok(_) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error),
        };
        opened.map_err(Refusal::at(path)).map_err(|refusal| failed(&refusal))
    }

    /// Writes everything as a tar; blocks.
    ///
    /// # Errors
    /// [`BuildError::Request`] if something cannot be read or `out` fails.
    pub fn write_tar(&self, out: &mut dyn Write) -> Result<(), BuildError> {
        let mut tar = tar::Builder::new(out);
        for entry in self.list()? {
            self.append(&mut tar, &entry).map_err(|error| failed(&error))?;
        }
        tar.finish().map_err(|error| failed(&error))
    }

    fn append(&self, tar: &mut tar::Builder<&mut dyn Write>, entry: &TreeEntry) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0.into());
        header.set_gid(entry.owner.1.into());
        header.set_mtime(u64::try_from(entry.modified.0).unwrap_or(0));
        header.set_size(0);
        let path = Path::new(std::ffi::OsStr::from_bytes(&entry.path));
        match &entry.kind {
            TreeKind::Directory => header.set_entry_type(tar::EntryType::Directory),
            TreeKind::Pipe => header.set_entry_type(tar::EntryType::Fifo),
            TreeKind::Device { block, numbers } => {
                let kind = if *block { tar::EntryType::Block } else { tar::EntryType::Char };
                header.set_entry_type(kind);
                header.set_device_major(numbers.0)?;
                header.set_device_minor(numbers.1)?;
            }
            TreeKind::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                return tar.append_link(&mut header, path, std::ffi::OsStr::from_bytes(target));
            }
            TreeKind::File(size) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(*size);
                let file = self.open_file(&entry.path).map_err(io::Error::other)?;
                return tar.append_data(&mut header, path, file.take(*size));
            }
        }
        tar.append_data(&mut header, path, io::empty())
    }
}

fn failed(error: &dyn std::fmt::Display) -> BuildError {
    BuildError::Request { message: format!("read the image's files: {error}") }
}

fn list(cursor: &mut Cursor, path: &Path, entries: &mut Vec<TreeEntry>) -> io::Result<()> {
    for name in cursor.names()? {
        if entries.len() >= MAX_ENTRIES {
            return Err(io::Error::other(format!("more than {MAX_ENTRIES} files")));
        }
        let path = path.join(&name);
        match cursor.look(&name)? {
            Some(Child::Directory(level)) => {
                cursor.enter(level)?;
                entries.push(entry_of(&path, TreeKind::Directory, &cursor.attributes()?));
                list(cursor, &path, entries)?;
                cursor.leave();
            }
            Some(Child::Other(entry)) => {
                let attributes = entry.attributes()?;
                let kind = match entry.kind() {
                    FileType::RegularFile => TreeKind::File(entry.size()),
                    FileType::Symlink => TreeKind::Link(entry.target()?.as_bytes().to_vec()),
                    FileType::Fifo => TreeKind::Pipe,
                    FileType::CharacterDevice | FileType::BlockDevice => TreeKind::Device {
                        block: entry.kind() == FileType::BlockDevice,
                        numbers: (rustix::fs::major(attributes.device), rustix::fs::minor(attributes.device)),
                    },
                    _ => continue,
                };
                entries.push(entry_of(&path, kind, &attributes));
            }
            None => {}
        }
    }
    Ok(())
}

fn entry_of(path: &Path, kind: TreeKind, attributes: &Attributes) -> TreeEntry {
    TreeEntry {
        path: path.as_os_str().as_bytes().to_vec(),
        kind,
        mode: attributes.mode,
        owner: (attributes.uid, attributes.gid),
        modified: attributes.modified.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_one_tree_and_one_tar() {
        let layers = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [top, below] = &layers;
        std::fs::create_dir(below.path().join("a")).unwrap();
        std::fs::write(below.path().join("a/f"), "below").unwrap();
        std::fs::write(below.path().join("b"), "kept").unwrap();
        std::fs::create_dir(top.path().join("a")).unwrap();
        std::fs::write(top.path().join("a/f"), "top").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", top.path().join("link")).unwrap();
        let tree = ImageTree::open(&layers.each_ref().map(|dir| dir.path().to_owned())).unwrap();
        let paths: Vec<_> = tree.list().unwrap().into_iter().map(|entry| entry.path).collect();
        assert_eq!(paths, [&b"a"[..], b"a/f", b"b", b"link"]);
        let mut bytes = Vec::new();
        tree.write_tar(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut text = String::new();
        for entry in archive.entries().unwrap() {
            entry.unwrap().read_to_string(&mut text).unwrap();
        }
        assert_eq!(text, "topkept");
        // A link leads nowhere.
        assert!(tree.open_file(b"link").is_err() && tree.open_file(b"../etc/passwd").is_err());
    }
}
