//! The files of a container, as its processes see them: looked at, packed into a tar, unpacked from one.
//!
//! Everything goes through [`crate::confine`]: each step is relative to a descriptor, links are followed inside the root
//! only, and nothing of what is found there is ever executed or loaded (CVE-2018-15664, CVE-2019-14271). So it does no harm
//! that a process inside changes the tree at the same time.

mod copy;
mod extract;
mod pack;

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use crate::confine::{self, Directory, MAX_PATH, Missing, Tree};

pub use copy::copy_tree;
pub use extract::{Extract, ExtractError};

/// A container's root with all that is mounted in it.
pub struct Files {
    tree: Tree,
}

/// What a path stands for.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its last name as it was asked for; `/` for the root.
    pub name: String,
    /// What it is; a link is not followed unless the path ended in a slash.
    pub stat: Stat,
    /// Where a link leads, links followed as far as they exist.
    pub link_target: Option<String>,
}

/// A path as it was asked for.
struct Asked {
    /// Cleaned, from the root.
    path: Vec<u8>,
    /// Whether it must be a directory: it ended in `/` or `/.`.
    directory: bool,
}

impl Asked {
    fn new(path: &str) -> rustix::io::Result<Self> {
        if path.len() > MAX_PATH || path.contains('\0') {
            return Err(Errno::NAMETOOLONG);
        }
        let cleaned = confine::clean(path.as_bytes());
        let directory = cleaned.is_empty()
            || path.ends_with('/')
            || path.ends_with("/.")
            || path == "."
            || path.ends_with("..");
        Ok(Self { path: cleaned, directory })
    }

    /// The name that an archive of it has: docker's, which keeps a trailing `.`.
    fn base(&self, given: &str) -> Vec<u8> {
        match () {
            () if self.path.is_empty() => b"/".to_vec(),
            () if given.ends_with("/.") => b".".to_vec(),
            () => confine::split(&self.path).1.to_vec(),
        }
    }
}

impl Files {
    /// Takes an open root directory.
    pub fn new(root: OwnedFd) -> Self {
        Self { tree: Tree::mounted(root) }
    }

    /// Looks at a path.
    ///
    /// # Errors
    /// `ENOENT` and `ENOTDIR` as a process inside would get them.
    pub fn look(&self, path: &str) -> std::io::Result<Found> {
        let asked = Asked::new(path)?;
        let name = String::from_utf8_lossy(&asked.base(path)).into_owned();
        if asked.directory {
            let directory = self.tree.resolve(&asked.path, Missing::Fail)?;
            return Ok(Found { name, stat: rustix::fs::fstat(&directory.fd)?, link_target: None });
        }
        let (_, _, stat) = self.last(&asked)?;
        let link_target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = self.tree.follow(&asked.path)?;
                Some(format!("/{}", String::from_utf8_lossy(&target)))
            }
            _ => None,
        };
        Ok(Found { name, stat, link_target })
    }

    /// Returns the path that a directory has when every link in it is followed.
    ///
    /// # Errors
    /// `ENOENT` when it is not there, `ENOTDIR` when it is something else.
    pub fn resolve_directory(&self, path: &str) -> std::io::Result<String> {
        let directory = self.tree.resolve(&Asked::new(path)?.path, Missing::Fail)?;
        Ok(format!("/{}", String::from_utf8_lossy(&directory.path)))
    }

    /// Reads a regular file, links followed, at most `limit` bytes; nothing when there is none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self, path: &str, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
        use std::io::Read;
        let path = self.tree.follow(&Asked::new(path)?.path)?;
        let (parent, name) = confine::split(&path);
        let opened = self.tree.open_directory(parent).and_then(|directory| directory.open_file(name));
        let (file, _) = match opened {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL | Errno::ISDIR) => return Ok(None),
            opened => opened?,
        };
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Copies what is in a directory, links followed on the way to it, to the empty directory `to`; tells whether there
    /// is such a directory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn copy_directory(&self, path: &str, to: &OwnedFd) -> std::io::Result<bool> {
        let found = self.tree.resolve(&Asked::new(path)?.path, Missing::Fail);
        let directory = match found {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            found => found?,
        };
        copy_tree(&directory.fd, to, &|_, _| false)?;
        Ok(true)
    }

    /// Finds the last name of a path in its directory, without following it.
    fn last(&self, asked: &Asked) -> rustix::io::Result<(Directory, Vec<u8>, Stat)> {
        let (parent, name) = confine::split(&asked.path);
        let directory = self.tree.resolve(parent, Missing::Fail)?;
        let stat = rustix::fs::statat(&directory.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((directory, name.to_vec(), stat))
    }
}
