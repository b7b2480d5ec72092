//! The reserved file: space that the daemon gives back to itself when there is none left.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// The file's name below the data directory.
const NAME: &str = "reserve";

/// The reserved file of a data directory.
pub(crate) struct Reserve(PathBuf);

impl Reserve {
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self(data_dir.join(NAME))
    }

    /// Whether the space is held.
    pub(crate) fn is_held(&self) -> bool {
        self.0.exists()
    }

    /// Takes space. A file of another size, or one that a crash left without its space, is replaced; 0 bytes are none.
    pub(crate) fn take(&self, bytes: u64) -> io::Result<()> {
        let held = |meta: std::fs::Metadata| meta.len() == bytes && meta.blocks() * 512 >= bytes;
        if std::fs::symlink_metadata(&self.0).is_ok_and(held) {
            return Ok(());
        }
        self.give_up()?;
        if bytes == 0 {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.0)?;
        allocate(&file, bytes).inspect_err(|_| drop(self.give_up()))
    }

    /// Gives the space back.
    pub(crate) fn give_up(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_is_taken_once_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(directory.path());
        assert!(!reserve.is_held());
        reserve.take(1 << 20).unwrap();
        let inode = std::fs::metadata(&reserve.0).unwrap().ino();
        reserve.take(1 << 20).unwrap();
        assert_eq!(std::fs::metadata(&reserve.0).unwrap().ino(), inode, "it is there already");
        reserve.take(2 << 20).unwrap();
        assert!(std::fs::metadata(&reserve.0).unwrap().blocks() * 512 >= 2 << 20);
        reserve.give_up().unwrap();
        reserve.give_up().unwrap();
        assert!(!reserve.is_held());
        std::fs::File::create(&reserve.0).unwrap().set_len(1 << 20).unwrap();
        reserve.take(1 << 20).unwrap();
        assert!(std::fs::metadata(&reserve.0).unwrap().blocks() * 512 >= 1 << 20, "a hole holds nothing");
        reserve.take(0).unwrap();
        assert!(!reserve.is_held());
    }
}
