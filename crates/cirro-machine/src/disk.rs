//! Root disks: one base per image, and a copy-on-write layer per machine.
//!
//! `mkfs.ext4 -d` fills a file system from a directory: no loop device, no partition, nothing mounted to write to.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cirro_sys::mounts::Overlay;

use crate::files;
use crate::{MachineError, failed, qcow2};

const BLOCK: u64 = 4096;
/// What a guest may write beyond a fifth of what its image holds.
const ROOM: u64 = 512 << 20;
const MAX_CONTENT: u64 = 1 << 40;
const MAX_ENTRIES: u64 = 10_000_000;

/// Bytes and number of what layers hold.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Content {
    bytes: u64,
    entries: u64,
}

impl Content {
    /// Size of the disk for it: a multiple of a mebibyte.
    fn disk_size(self) -> u64 {
        (self.bytes + self.bytes / 5 + ROOM).next_multiple_of(1 << 20)
    }

    /// Many small files need more inodes than mkfs would choose.
    fn inodes(self) -> u64 {
        (self.entries + self.entries / 5 + 65_536).max(self.disk_size() / 16_384)
    }
}

/// Makes the base disk at `path` from layers, the top one first, unless it is there. `scratch` is for a short mount.
pub(crate) fn ensure_base(path: &Path, layers: &[PathBuf], scratch: &Path) -> Result<(), MachineError> {
    if path.is_file() {
        return Ok(());
    }
    if layers.is_empty() {
        return Err(MachineError::Invalid("the image has no layers".into()));
    }
    let content = measure(layers)?;
    let temporary = files::temporary(path);
    let made = make_base(&temporary, content, layers, scratch).and_then(|()| {
        std::fs::rename(&temporary, path).map_err(|error| failed(format!("write {}", path.display()), &error))
    });
    if made.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    made
}

fn make_base(file: &Path, content: Content, layers: &[PathBuf], scratch: &Path) -> Result<(), MachineError> {
    let program = files::program("mkfs.ext4", "e2fsprogs")?;
    let create = || -> std::io::Result<std::fs::File> {
        std::fs::remove_file(file).or_else(files::ignore_missing)?;
        let disk = std::fs::File::options().write(true).create_new(true).open(file)?;
        disk.set_len(content.disk_size())?;
        Ok(disk)
    };
    let disk = create().map_err(|error| failed("make the base disk", &error))?;
    let merged = Merged::of(layers, scratch).map_err(|error| failed("merge the image's layers", &error))?;
    let output = Command::new(program)
        .args(["-q", "-F", "-m", "1", "-E", "lazy_itable_init=1", "-N", &content.inodes().to_string(), "-d"])
        .arg(merged.path())
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed("run mkfs.ext4", &error))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let text: String = text.trim().chars().take(500).collect();
        return Err(failed("fill the base disk", &format!("mkfs.ext4: {}: {text}", output.status)));
    }
    disk.sync_all().map_err(|error| failed("write the base disk", &error))
}

/// Adds up what the layers hold, hidden files too.
fn measure(layers: &[PathBuf]) -> Result<Content, MachineError> {
    let mut content = Content::default();
    let mut left: Vec<PathBuf> = layers.to_vec();
    while let Some(directory) = left.pop() {
        measure_directory(&directory, &mut content, &mut left)
            .map_err(|error| failed(format!("look at layer {}", directory.display()), &error))?;
        if content.bytes > MAX_CONTENT || content.entries > MAX_ENTRIES {
            return Err(MachineError::Invalid("the image is too large for a disk".into()));
        }
    }
    Ok(content)
}

fn measure_directory(
    directory: &Path,
    content: &mut Content,
    left: &mut Vec<PathBuf>,
) -> std::io::Result<()> {
    content.bytes += BLOCK;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        content.entries += 1;
        if metadata.is_dir() {
            left.push(entry.path());
        } else {
            content.bytes = content.bytes.saturating_add(metadata.size().next_multiple_of(BLOCK));
        }
    }
    Ok(())
}

/// The layers as one tree.
enum Merged {
    /// One layer is the tree itself.
    Single(PathBuf),
    /// A mount that nobody sees; it goes with the descriptor, also when we are killed.
    Detached(OwnedFd),
    /// Before Linux 6.7: a mount at a path, taken away when this is dropped.
    Mounted(PathBuf),
}

impl Merged {
    fn of(layers: &[PathBuf], scratch: &Path) -> std::io::Result<Self> {
        if let [single] = layers {
            return Ok(Self::Single(single.clone()));
        }
        let overlay = Overlay { lower: layers, upper: None };
        if let Ok(mount) = overlay.detached() {
            return Ok(Self::Detached(mount));
        }
        unmount(scratch);
        std::fs::create_dir_all(scratch)?;
        overlay.mount(scratch)?;
        Ok(Self::Mounted(scratch.to_owned()))
    }

    /// A path that a child process may open while this lives.
    fn path(&self) -> PathBuf {
        match self {
            Self::Single(path) | Self::Mounted(path) => path.clone(),
            Self::Detached(mount) => format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd()).into(),
        }
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        if let Self::Mounted(path) = self {
            unmount(path);
        }
    }
}

/// Takes away what is mounted at `path`, also by a process that was killed.
fn unmount(path: &Path) {
    while rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).is_ok() {}
}

/// Makes a machine's own disk above a base unless it is there.
pub(crate) fn ensure_own(path: &Path, base: &Path) -> Result<(), MachineError> {
    if path.is_file() {
        return Ok(());
    }
    let size = std::fs::metadata(base).map_err(|error| failed("look at the base disk", &error))?.len();
    let bytes = base.to_str().and_then(|base| qcow2::empty(size, base)).ok_or_else(|| {
        MachineError::Invalid(format!("the base disk {} is too large or its path too long", base.display()))
    })?;
    files::write_private(path, &[&bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debugfs(disk: &Path, request: &str) -> String {
        let output =
            Command::new("/usr/sbin/debugfs").arg("-R").arg(request).arg(disk).output().expect("e2fsprogs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn root_a_base_disk_holds_the_merged_layers() {
        let directory = tempfile::tempdir().unwrap();
        let (top, bottom) = (directory.path().join("top"), directory.path().join("bottom"));
        for layer in [&top, &bottom] {
            std::fs::create_dir_all(layer.join("etc")).unwrap();
        }
        std::fs::write(top.join("etc/who"), "top").unwrap();
        std::fs::write(bottom.join("etc/who"), "bottom").unwrap();
        std::fs::write(bottom.join("etc/gone"), "still here").unwrap();
        std::fs::write(bottom.join("etc/kept"), "kept").unwrap();
        let mode = rustix::fs::Mode::empty();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            top.join("etc/gone"),
            rustix::fs::FileType::CharacterDevice,
            mode,
            0,
        )
        .unwrap();

        let (base, scratch) = (directory.path().join("base.ext4"), directory.path().join("merged"));
        ensure_base(&base, &[top, bottom], &scratch).unwrap();
        assert_eq!(debugfs(&base, "cat /etc/who"), "top");
        assert_eq!(debugfs(&base, "cat /etc/kept"), "kept");
        assert!(!debugfs(&base, "ls /etc").contains("gone"));
        let metadata = std::fs::metadata(&base).unwrap();
        assert!(metadata.len() >= ROOM && metadata.blocks() * 512 < 64 << 20, "large, but sparse");
        assert!(!files::temporary(&base).exists());
    }

    #[test]
    fn a_disk_that_cannot_be_made_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base.ext4");
        let missing = [directory.path().join("no-layer")];
        assert!(ensure_base(&base, &missing, directory.path()).is_err());
        assert!(ensure_base(&base, &[], directory.path()).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn many_small_files_get_their_inodes() {
        let content = Content { bytes: 100 << 20, entries: 1_000_000 };
        assert_eq!(content.disk_size(), 632 << 20);
        assert!(content.inodes() > 1_200_000);
    }
}
