//! Cgroups that workloads were asked to be below and that were not there: they go with the last of these workloads.
//!
//! One that was there before is somebody's and stays, with the limits that it has. Which ones were made is written down, since it
//! cannot be seen of a cgroup.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::event_loop::EventLoop;
use crate::cgroup::{Hierarchies, is_parent};
use crate::error::ContainerError;

const FILE: &str = "cgroup-parents";

/// Paths of the cgroups that were made.
#[derive(Debug)]
pub(super) struct Parents {
    file: PathBuf,
    made: BTreeSet<String>,
}

impl Parents {
    /// Reads what a predecessor wrote down.
    pub(super) fn load(directory: &Path) -> Self {
        let file = directory.join(FILE);
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        Self { file, made: text.lines().map(str::to_owned).collect() }
    }

    /// Notes which of a path's cgroups are still to be made.
    fn note(&mut self, path: &str, hierarchies: &Hierarchies) {
        let before = self.made.len();
        self.made.extend(upwards(path).filter(|path| !hierarchies.group(path).exists()));
        if self.made.len() != before {
            self.save();
        }
    }

    /// Removes those of a path's cgroups that were made and have nothing in them any more.
    pub(super) fn drop_empty(&mut self, path: &str, hierarchies: &Hierarchies) {
        let before = self.made.len();
        for path in upwards(path) {
            if !self.made.contains(&path) || !hierarchies.group(&path).remove_if_empty() {
                break;
            }
            self.made.remove(&path);
        }
        if self.made.len() != before {
            self.save();
        }
    }

    /// Written before the cgroups are made: one too many in it is found out when it is to be removed.
    fn save(&self) {
        let text: String = self.made.iter().map(|path| format!("{path}\n")).collect();
        let fresh = self.file.with_extension("new");
        let saved = match self.made.is_empty() {
            true => std::fs::remove_file(&self.file),
            false => std::fs::write(&fresh, text).and_then(|()| std::fs::rename(fresh, &self.file)),
        };
        if let Err(error) = saved {
            eprintln!("supervisor: save cgroups: {error}");
        }
    }
}

/// A path and those above it, but for the top.
fn upwards(path: &str) -> impl Iterator<Item = String> + '_ {
    let ends = path.match_indices('/').map(|(slash, _)| slash).skip(1).chain([path.len()]);
    let mut paths: Vec<String> = ends.map(|end| path[..end].to_owned()).collect();
    paths.reverse();
    paths.into_iter()
}

impl EventLoop {
    /// Refuses what cannot be the parent of a workload's cgroup.
    pub(super) fn check_parent(&self, parent: Option<&str>) -> Result<(), ContainerError> {
        match parent {
            Some(parent) if !is_parent(&self.name, parent) => {
                Err(ContainerError::State(format!("`{parent}` cannot be the parent of a cgroup")))
            }
            _ => Ok(()),
        }
    }

    /// Notes which cgroups a workload's parent will have to be made of.
    pub(super) fn note_parents(&mut self, parent: &str) {
        self.parents.note(parent, &self.hierarchies);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_gone_up_to_below_the_top() {
        assert_eq!(upwards("/a/b/c").collect::<Vec<_>>(), ["/a/b/c", "/a/b", "/a"]);
    }

    #[test]
    fn what_was_made_is_read_again() {
        let directory = tempfile::tempdir().expect("directory");
        let mut parents = Parents::load(directory.path());
        parents.made.extend(["/a/b".to_owned(), "/a".to_owned()]);
        parents.save();
        let mut again = Parents::load(directory.path());
        assert_eq!(again.made, parents.made);
        again.made.clear();
        again.save();
        assert!(Parents::load(directory.path()).made.is_empty());
    }

    #[test]
    fn a_parent_is_clean_and_not_in_the_clouds_own() {
        for (path, fits) in [
            ("/a", true),
            ("/a/b", true),
            ("/", false),
            ("a", false),
            ("/a/../b", false),
            ("/a//b", false),
            ("/cirro", false),
            ("/cirro/x", false),
            ("/cirro2", true),
        ] {
            assert_eq!(is_parent("cirro", path), fits, "{path}");
        }
    }
}
