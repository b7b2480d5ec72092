//! Bounds what a container's root may take, where the file system keeps project quotas.
//!
//! Each bounded root is a project of its own. Its number is one that no file of the file system has: the file system itself says
//! so, which holds after a crash, and for roots in the trash until their last file is gone. Clouds on one file system
//! begin to count at different numbers.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cirro_sys::quota;

/// Numbers of one cloud.
const PROJECTS: u32 = 1 << 14;
/// Below are the numbers that people use.
const FIRST: u32 = 1 << 30;

/// Why a root cannot be bounded; docker's words, which its tests look for, and what would help.
pub(crate) const UNSUPPORTED: &str = "--storage-opt is supported only for overlay over xfs with 'pquota' mount option \
                                      (or ext4 with features project,quota and mount option 'prjquota')";

/// Gives numbers to roots.
#[derive(Default)]
pub(crate) struct Projects {
    /// Held from the choice of a number until a file has it.
    choosing: Mutex<()>,
}

impl Projects {
    /// Bounds what is made below directories, which are on one file system and empty, together.
    pub(crate) fn bound(&self, near: &Path, directories: &[&Path], bytes: u64) -> io::Result<()> {
        let base = File::open(near)?;
        let first = FIRST | (base.metadata()?.ino() as u32 & 0xffff) << PROJECTS.ilog2();
        let _choosing = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        for project in first..first + PROJECTS {
            if quota::usage(&base, project)?.inodes > 0 {
                continue;
            }
            quota::limit(&base, project, bytes)?;
            for directory in directories {
                quota::assign(File::open(directory)?, project)?;
            }
            return Ok(());
        }
        Err(io::Error::other(format!("all {PROJECTS} projects of this cloud are in use")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tmpfs keeps no project quotas, whoever asks.
    #[test]
    fn a_file_system_without_project_quotas_is_told_from_a_failure() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let bound = Projects::default().bound(directory.path(), &[directory.path()], 1 << 20);
        let error = bound.unwrap_err();
        assert!(quota::is_unsupported(&error), "{error}");
    }
}
