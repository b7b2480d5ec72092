//! Ends what a failed test leaves: guardian, supervisor, workloads, cgroups, pinned namespaces. The engine's tests use it too.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Ends everything of the cloud with this name in this directory.
pub(crate) fn sweep(name: &str, directory: &Path) {
    // The guardian first: it starts supervisors. Ours are known by the directory on their command line.
    for role in ["guardian", "supervisor", ""] {
        while let Some(pid) = find_process(role, directory) {
            kill(pid);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    for _ in 0..100 {
        let groups = cgroups(name);
        if groups.is_empty() {
            break;
        }
        groups.iter().for_each(|group| clear_group(group));
        std::thread::sleep(Duration::from_millis(20));
    }
    let namespaces = std::fs::read_dir(directory.join("run/netns")).into_iter().flatten().flatten();
    for namespace in namespaces {
        let _ = Command::new("umount").arg("-l").arg(namespace.path()).output();
    }
}

fn kill(pid: i32) {
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
}

/// A cloud's cgroups in every hierarchy.
pub(crate) fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        found.push(root.path().join(name));
    }
    found.push(Path::new("/sys/fs/cgroup").join(name));
    found.retain(|path| path.is_dir());
    found
}

/// Ends what is in a cgroup and removes it.
pub(crate) fn clear_group(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            clear_group(&entry.path());
        }
    }
    for pid in std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        pid.parse().into_iter().for_each(kill);
    }
    let _ = std::fs::remove_dir(group);
}

/// The process with this role and directory on its command line.
pub(crate) fn find_process(role: &str, directory: &Path) -> Option<i32> {
    let directory = directory.to_string_lossy().into_owned();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(command) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let command = String::from_utf8_lossy(&command).into_owned();
        let words: Vec<&str> = command.split('\0').collect();
        let is_role = role.is_empty() || words.get(1) == Some(&role);
        // Helpers, and what they are making, have the supervisor's command line until they execute something.
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let is_role = is_role && (role != "supervisor" || name.trim() == "cirro-supervise");
        if is_role && pid != std::process::id() as i32 && words.iter().any(|word| word.contains(&directory)) {
            return Some(pid);
        }
    }
    None
}
