//! What there is of workloads that do not exist: cgroups with their processes, directories.

use std::collections::BTreeSet;
use std::fs::read_dir;

use super::event_loop::EventLoop;
use crate::guardian::GUARDED_GROUP;

impl EventLoop {
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
        for name in self.hierarchies.group(&self.name).children() {
            if name == GUARDED_GROUP || known.contains(name.as_str()) {
                continue;
            }
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
