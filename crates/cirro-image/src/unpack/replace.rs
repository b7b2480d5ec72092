//! Makes room for an entry: a later one of the same name replaces the earlier, as in every tar program.
//!
//! Contents that the recipe speaks of are not lost by that: they move aside, to `displaced/N`.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Removed, Unpacker};
use crate::confine::{self, Directory};

impl Unpacker<'_> {
    /// Removes what has this name, if anything has.
    pub(super) fn remove(&mut self, parent: &Directory, name: &[u8]) -> rustix::io::Result<Removed> {
        let stat = match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Removed::Nothing),
            Err(errno) => return Err(errno),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.parent = None;
                self.remove_directory(&parent.join(name))?;
                rustix::fs::unlinkat(&parent.fd, name, AtFlags::REMOVEDIR)?;
                return Ok(Removed::Other);
            }
            FileType::Symlink => self.parent = None,
            _ => self.set_aside(&stat, parent, name)?,
        }
        rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty())?;
        Ok(if is_whiteout(&stat) { Removed::Whiteout } else { Removed::Other })
    }

    /// Removes everything in a directory. Paths are bounded, and so is the recursion.
    fn remove_directory(&mut self, path: &[u8]) -> rustix::io::Result<()> {
        let names = confine::names(&self.tree.open_directory(path)?.fd)?;
        for (name, _) in names {
            // Opened anew each time: a deep tree must not use up the descriptors.
            let directory = self.tree.open_directory(path)?;
            let stat = rustix::fs::statat(&directory.fd, &name[..], AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let path = directory.join(&name);
                drop(directory);
                self.remove_directory(&path)?;
                let directory = self.tree.open_directory(confine::parent(&path))?;
                rustix::fs::unlinkat(&directory.fd, &name[..], AtFlags::REMOVEDIR)?;
            } else {
                self.set_aside(&stat, &directory, &name)?;
                rustix::fs::unlinkat(&directory.fd, &name[..], AtFlags::empty())?;
            }
        }
        Ok(())
    }

    /// Links a file that the recipe speaks of into `displaced`.
    fn set_aside(&mut self, stat: &Stat, parent: &Directory, name: &[u8]) -> rustix::io::Result<()> {
        let Some(note) = self.contents.get(&stat.st_ino) else { return Ok(()) };
        let displaced = match &self.displaced {
            Some(displaced) => displaced,
            None => {
                rustix::fs::mkdirat(&self.layer, "displaced", Mode::RWXU)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(&self.layer, "displaced", flags, Mode::empty())?;
                self.displaced.insert(opened)
            }
        };
        match rustix::fs::linkat(&parent.fd, name, displaced, note.to_string(), AtFlags::empty()) {
            // Another name of the same file was replaced before.
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }
}

/// Tells whether overlayfs takes a file for a whiteout.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
