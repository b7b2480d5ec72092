//! Counts what running containers and steps of builds have on the disk.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cirro_seams::container::Container;

use super::lock;
use super::marks::Written;
use crate::Engine;
use crate::containers::is_active;
use crate::error::{EngineError, blocking};

/// Files of one writer that are looked at. Who has more is counted too low, which only spares it.
const MAX_FILES: usize = 200_000;

impl Engine {
    /// Counts the bytes of every container that runs and of every step of a build.
    pub(super) async fn count_written(&self) -> Result<Written, EngineError> {
        let writers = self.writers();
        blocking(move || {
            Ok(writers.into_iter().map(|(id, directories)| (id, bytes_below(&directories))).collect())
        })
        .await
    }

    /// Lists who may write, and where.
    fn writers(&self) -> Vec<(String, Vec<PathBuf>)> {
        let mut writers: Vec<_> = {
            let table = self.table();
            let running = table.newest_first().filter(|entry| is_active(entry.record.container.phase));
            running
                .map(|entry| {
                    let container = &entry.record.container;
                    let mut directories = self.volumes_of(container);
                    directories.push(entry.record.root.upper.clone());
                    directories.push(self.shared.options.container_dir(&container.id));
                    (container.id.clone(), directories)
                })
                .collect()
        };
        let steps = lock(&self.shared.pressure.steps);
        writers.extend(steps.iter().map(|(id, step)| (id.clone(), vec![step.upper.clone()])));
        writers
    }

    /// Volumes below the data directory that a container may write to.
    fn volumes_of(&self, container: &Container) -> Vec<PathBuf> {
        let data_dir = &self.shared.options.data_dir;
        let mounts = container.mounts.iter();
        mounts
            .filter(|mount| !mount.read_only && mount.source.starts_with(data_dir))
            .map(|mount| mount.source.clone())
            .collect()
    }
}

/// Returns the bytes on the disk of what is below directories, as `du` counts. Links are not followed; what vanishes meanwhile does
/// not count, nor what is on another file system.
fn bytes_below(directories: &[PathBuf]) -> u64 {
    let mut seen = HashSet::new();
    let mut left: Vec<PathBuf> = directories.to_vec();
    let device = directories.first().map_or(0, |first| device_of(first));
    let (mut bytes, mut files) = (0, 0);
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            files += 1;
            if files > MAX_FILES {
                return bytes;
            }
            if meta.dev() != device {
                continue;
            }
            if meta.is_dir() {
                left.push(entry.path());
            } else if meta.nlink() > 1 && !seen.insert(meta.ino()) {
                continue;
            }
            bytes += meta.blocks() * 512;
        }
    }
    bytes
}

fn device_of(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).map_or(0, |meta| meta.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_on_the_disk_count_and_holes_and_links_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(path("a/sub")).unwrap();
        std::fs::create_dir_all(path("elsewhere")).unwrap();
        std::fs::write(path("a/sub/file"), vec![1; 300_000]).unwrap();
        std::fs::hard_link(path("a/sub/file"), path("a/again")).unwrap();
        std::fs::File::create(path("a/hole")).unwrap().set_len(8 << 40).unwrap();
        std::fs::write(path("elsewhere/file"), vec![1; 900_000]).unwrap();
        std::os::unix::fs::symlink(path("elsewhere"), path("a/link")).unwrap();
        let bytes = bytes_below(&[path("a")]);
        assert!((300_000..400_000).contains(&bytes), "{bytes}");
        assert!(bytes_below(&[path("a"), path("elsewhere")]) > 1_200_000);
        assert_eq!(bytes_below(&[path("none")]), 0);
    }
}
