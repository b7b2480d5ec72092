//! Network namespaces: made, pinned to a file, entered.
//!
//! A namespace belongs to a thread, never to the process: whoever works inside one does it on a thread of
//! its own that ends with the work, so no other code ever finds itself in a wrong namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
}

impl Netns {
    /// Opens a namespace by its file.
    ///
    /// # Errors
    /// `InvalidInput` when the file is no namespace (a pin that did not survive a reboot, say).
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OwnedFd::from(File::open(path)?);
        if !is_namespace(file.as_fd())? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a namespace file"));
        }
        Ok(Self { file })
    }

    /// Opens the calling thread's namespace.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Makes a namespace that lives as long as something has it open.
    pub fn fresh() -> io::Result<Self> {
        on_own_thread(|| {
            unshare()?;
            Self::current()
        })?
    }

    /// Makes a namespace and pins it to a new file. On error no file is left behind.
    pub fn create_pinned(path: &Path) -> io::Result<Self> {
        File::options().write(true).create_new(true).open(path)?;
        let made = on_own_thread(|| {
            unshare()?;
            mount_bind("/proc/thread-self/ns/net", path)?;
            Self::open(path)
        });
        match made {
            Ok(Ok(netns)) => Ok(netns),
            Ok(Err(error)) | Err(error) => {
                let _ = unpin(path);
                Err(error)
            }
        }
    }

    /// Returns a number that no other living namespace has.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.file)?.st_ino)
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    ///
    /// # Errors
    /// When the thread cannot be made or may not enter; `work` then has not run.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread(|| {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })?
    }

    /// Lends the descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Removes a namespace's pin and file; no error when there is none.
pub fn unpin(path: &Path) -> io::Result<()> {
    // The file may have been mounted over more than once by a crashed start.
    while unmount(path, UnmountFlags::DETACH).is_ok() {}
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_namespace(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(file)?.f_type as u64 == NSFS_MAGIC)
}

fn unshare() -> io::Result<()> {
    // SAFETY: only the calling thread changes its network namespace; descriptors and memory are not touched.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)? };
    Ok(())
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .stack_size(512 * 1024)
            .spawn_scoped(scope, work)?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_a_pinned_namespace_is_entered_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("one");
        let netns = Netns::create_pinned(&path).unwrap();
        assert_ne!(netns.inode().unwrap(), Netns::current().unwrap().inode().unwrap());
        let inside = netns.run(|| Netns::current().unwrap().inode().unwrap()).unwrap();
        assert_eq!(inside, netns.inode().unwrap());
        assert!(Netns::create_pinned(&path).is_err());
        assert_eq!(Netns::open(&path).unwrap().inode().unwrap(), inside);
        unpin(&path).unwrap();
        assert!(!path.exists());
        unpin(&path).unwrap();
    }

    #[test]
    fn an_ordinary_file_is_no_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Netns::open(file.path()).is_err());
    }
}
