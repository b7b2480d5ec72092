//! What there is of workloads that do not exist: cgroups with their processes, directories.

use std::collections::BTreeSet;
use std::fs::read_dir;

use super::event_loop::EventLoop;
use crate::guardian::GUARDED_GROUP;
use crate::runtime::WorkloadDirectory;

impl EventLoop {
    /// Ends what runs in cgroups of a cloud of this name and was made by nobody that we know of: its run directory is gone.
    pub(super) fn end_strays(&mut self) {
        for id in self.stray_groups() {
            let directory = WorkloadDirectory::new(&self.directory, &id);
            self.discard(&id, directory);
        }
    }

    /// Names of the cgroups without a workload.
    fn stray_groups(&self) -> Vec<String> {
        let known = |name: &String| {
            name == GUARDED_GROUP
                || self.workloads.contains_key(name)
                || self.removals.iter().any(|removal| removal.id == *name)
        };
        self.hierarchies.group(&self.name).children().into_iter().filter(|name| !known(name)).collect()
    }

    /// Finds cgroups and directories without a workload, and removes them with their processes if asked to.
    pub(super) fn strays(&self, remove: bool) -> Vec<String> {
        let mut known: BTreeSet<&str> = self.workloads.keys().map(String::as_str).collect();
        known.extend(self.removals.iter().map(|removal| removal.id.as_str()));
        let mut found = Vec::new();
        for entry in read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory && !name.starts_with('.') && !known.contains(name.as_str()) {
                found.push(format!("directory {}", entry.path().display()));
                if remove {
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
        }
        for name in self.stray_groups() {
            let group = self.group(&name);
            found.push(format!("cgroup /{}/{name} with {} processes", self.name, group.processes().len()));
            if remove {
                group.signal_all(9);
                let _ = group.remove();
            }
        }
        found
    }
}
