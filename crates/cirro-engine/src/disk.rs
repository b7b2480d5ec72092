//! Explains every byte below the data directory: what kind of thing it belongs to.
//!
//! Counted as `du` does, in blocks and each inode once, so that the sum is `du`'s. Works on the directory alone, with or
//! without a running engine.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What bytes below the data directory belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskKind {
    /// Unpacked layers of images, and of the build cache.
    Layers,
    /// Layers as they came from a registry.
    Blobs,
    /// What containers wrote in their roots.
    Containers,
    /// What containers wrote to their standard streams.
    Logs,
    /// Volumes.
    Volumes,
    /// Disks, consoles and kernels of virtual machines.
    Machines,
    /// Records and objects.
    Store,
    /// Uploads, builds and unpacking under way.
    Work,
    /// What is being deleted.
    Trash,
    /// Kept for the daemon when the disk is full.
    Reserve,
    /// Everything else: keys, small files, the directories themselves.
    Rest,
}

impl DiskKind {
    /// Every kind, in the order to show them.
    pub const ALL: [Self; 11] = [
        Self::Layers,
        Self::Blobs,
        Self::Containers,
        Self::Logs,
        Self::Volumes,
        Self::Machines,
        Self::Store,
        Self::Work,
        Self::Trash,
        Self::Reserve,
        Self::Rest,
    ];

    /// Returns a word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Layers => "layers",
            Self::Blobs => "blobs",
            Self::Containers => "containers",
            Self::Logs => "logs",
            Self::Volumes => "volumes",
            Self::Machines => "machines",
            Self::Store => "store",
            Self::Work => "work",
            Self::Trash => "trash",
            Self::Reserve => "reserve",
            Self::Rest => "rest",
        }
    }

    /// Tells by a path below the data directory.
    fn of(path: &Path) -> Self {
        let mut names = path.iter().filter_map(|name| name.to_str());
        let top = names.next().unwrap_or_default();
        match top {
            "layers" | "empty" => Self::Layers,
            "blobs" => Self::Blobs,
            "roots" => Self::Containers,
            "containers" if names.nth(1).is_some_and(|name| name.contains("-json.log")) => Self::Logs,
            "containers" => Self::Containers,
            "logs" => Self::Logs,
            "volumes" | "pods" => Self::Volumes,
            "machines" | "instances" | "disks" | "kernel" => Self::Machines,
            "scratch" | "temporary" | "tmp" | "uploads" | "spool" => Self::Work,
            "trash" => Self::Trash,
            "reserve" => Self::Reserve,
            file if file.ends_with(".redb") || file == "store" => Self::Store,
            _ => Self::Rest,
        }
    }
}

/// How much each kind takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes by kind; a kind without any is absent.
    pub kinds: BTreeMap<DiskKind, u64>,
    /// Bytes by kind and the name below the kind's directory: a layer's, a container's, a volume's.
    pub items: BTreeMap<(DiskKind, String), u64>,
}

impl DiskUsage {
    /// Counts everything below a data directory. What vanishes meanwhile does not count.
    ///
    /// # Errors
    /// When the directory itself cannot be read.
    pub fn of(data_dir: &Path) -> io::Result<Self> {
        let mut usage = Self::default();
        let mut seen = HashSet::new();
        let root = std::fs::symlink_metadata(data_dir)?;
        usage.add(Path::new(""), blocks(&root));
        let mut left = vec![PathBuf::new()];
        while let Some(path) = left.pop() {
            let entries = match std::fs::read_dir(data_dir.join(&path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                entries => entries.into_iter().flatten().flatten(),
            };
            for entry in entries {
                let Ok(meta) = entry.metadata() else { continue };
                let below = path.join(entry.file_name());
                if meta.is_dir() {
                    left.push(below.clone());
                } else if meta.nlink() > 1 && !seen.insert((meta.dev(), meta.ino())) {
                    continue;
                }
                // As du does by default, other file systems are counted where they are mounted.
                usage.add(&below, blocks(&meta));
            }
        }
        Ok(usage)
    }

    /// Returns the bytes of everything: what `du` says.
    pub fn total(&self) -> u64 {
        self.kinds.values().sum()
    }

    fn add(&mut self, path: &Path, bytes: u64) {
        let kind = DiskKind::of(path);
        *self.kinds.entry(kind).or_default() += bytes;
        if let Some(name) = path.iter().nth(1) {
            *self.items.entry((kind, name.to_string_lossy().into_owned())).or_default() += bytes;
        }
    }
}

/// The kernel counts in units of 512 bytes, whatever the file system's are.
fn blocks(meta: &std::fs::Metadata) -> u64 {
    meta.blocks() * 512
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_byte_has_a_kind_and_the_sum_is_dus() {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str, size: usize| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![1; size]).unwrap();
        };
        make("layers/aa/diff/file", 100_000);
        make("roots/c1/upper/file", 50_000);
        make("containers/c1/c1-json.log", 9_000);
        make("containers/c1/c1-json.log.1", 9_000);
        make("containers/c1/hosts", 10);
        make("volumes/v1/_data/x", 20_000);
        make("node.redb", 70_000);
        make("strange/file", 5_000);
        fs::hard_link(dir.path().join("layers/aa/diff/file"), dir.path().join("roots/c1/upper/same"))
            .unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("volumes/v1/_data/link")).unwrap();
        let usage = DiskUsage::of(dir.path()).unwrap();
        let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(dir.path()).output().unwrap();
        let du: u64 = String::from_utf8(du.stdout).unwrap().split('\t').next().unwrap().parse().unwrap();
        assert_eq!(usage.total(), du);
        for (kind, least) in [
            (DiskKind::Layers, 0),
            (DiskKind::Containers, 50_000),
            (DiskKind::Logs, 18_000),
            (DiskKind::Volumes, 20_000),
            (DiskKind::Store, 70_000),
            (DiskKind::Rest, 5_000),
        ] {
            assert!(usage.kinds[&kind] >= least, "{kind:?}");
        }
        assert!(usage.items[&(DiskKind::Volumes, "v1".into())] >= 20_000);
        assert!(DiskUsage::of(&dir.path().join("none")).is_err());
    }
}
