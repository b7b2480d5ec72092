//! The cgroups of a workload in every hierarchy of the host: version 1, version 2, or both at once.
//!
//! This module does what must work whoever made the groups, also after a crash: find the processes, end them, freeze them,
//! remove the groups. Limits and counts are in its children.

mod devices;
mod doors;
mod resources;
mod statistics;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cirro_sys::process::send_signal;

pub(crate) use doors::Doors;
pub use statistics::{
    BlockCount, BlockStatistics, CgroupVersion, CpuStatistics, MemoryStatistics, PidsStatistics, Statistics,
};

/// Returns the path of a workload's cgroups: below the cloud's, or below another one.
pub(crate) fn path(cloud: &str, parent: Option<&str>, id: &str) -> String {
    match parent {
        Some(parent) => format!("{parent}/{id}"),
        None => format!("/{cloud}/{id}"),
    }
}

/// Whether a path can be that of a parent: absolute, clean, not the top, and not in the cloud's own.
pub(crate) fn is_parent(cloud: &str, path: &str) -> bool {
    let Some(below) = path.strip_prefix('/') else { return false };
    below.split('/').all(|name| !matches!(name, "" | "." | "..") && !name.contains('\0'))
        && below.split('/').next() != Some(cloud)
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// On version 2: those that no version 1 hierarchy has taken.
    controllers: Vec<String>,
    unified: bool,
}

/// The version of the interface to a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The directory of a workload's group where a controller is found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Home {
    Version1(PathBuf),
    Unified(PathBuf),
}

impl Home {
    fn version(&self) -> Version {
        match self {
            Self::Version1(_) => Version::One,
            Self::Unified(_) => Version::Two,
        }
    }

    fn directory(&self) -> &Path {
        match self {
            Self::Version1(directory) | Self::Unified(directory) => directory,
        }
    }
}

/// All hierarchies of the host.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// Finds what is mounted.
    pub(crate) fn detect() -> io::Result<Self> {
        let mut found = parse(&fs::read_to_string("/proc/self/mountinfo")?);
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy is mounted"));
        }
        for unified in found.iter_mut().filter(|hierarchy| hierarchy.unified) {
            let controllers =
                fs::read_to_string(unified.mount.join("cgroup.controllers")).unwrap_or_default();
            unified.controllers = controllers.split_whitespace().map(str::to_owned).collect();
        }
        Ok(Self(found))
    }

    /// Whether there are version 1 hierarchies with controllers.
    pub(crate) fn has_version_1(&self) -> bool {
        self.0.iter().any(|hierarchy| !hierarchy.unified)
    }

    /// Whether the memory of swap can be limited (`swapaccount`).
    pub(crate) fn limits_swap(&self) -> bool {
        match self.group("/").home("memory") {
            Some(Home::Version1(memory)) => memory.join("memory.memsw.limit_in_bytes").exists(),
            _ => true,
        }
    }

    /// The group `path` (like `/cirro/ID`) in all of them.
    pub(crate) fn group(&self, path: &str) -> Group {
        Group { hierarchies: self.clone(), path: path.trim_start_matches('/').to_owned() }
    }
}

fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(mount)) = (left.next(), left.next()) else { continue };
        let mut right = right.split(' ');
        let (Some(kind), Some(options)) = (right.next(), right.nth(1)) else { continue };
        let unified = kind == "cgroup2";
        if root != "/"
            || !(unified || kind == "cgroup")
            || found.iter().any(|one| one.mount == Path::new(mount))
        {
            continue;
        }
        let controllers = if unified {
            // Named by a file of the hierarchy.
            Vec::new()
        } else {
            let plain = |option: &&str| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children" | "none");
            options.split(',').filter(plain).map(str::to_owned).collect()
        };
        found.push(Hierarchy { mount: PathBuf::from(mount), controllers, unified });
    }
    found
}

/// A group as a container sees it mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The directory's name below `/sys/fs/cgroup`.
    pub(crate) name: String,
    /// Further names, one per controller of several.
    pub(crate) links: Vec<String>,
    /// Of the group.
    pub(crate) directory: PathBuf,
    /// Of the whole hierarchy.
    pub(crate) hierarchy: PathBuf,
    pub(crate) unified: bool,
}

/// One workload's groups.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    hierarchies: Hierarchies,
    path: String,
}

impl Group {
    fn directories(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.hierarchies.0.iter().map(|hierarchy| (hierarchy, hierarchy.mount.join(&self.path)))
    }

    /// Where a controller is found, by its name in version 1 (`blkio`).
    fn home(&self, controller: &str) -> Option<Home> {
        let has = |hierarchy: &Hierarchy, name: &str| hierarchy.controllers.iter().any(|one| one == name);
        self.directories().find_map(|(hierarchy, directory)| match (hierarchy.unified, controller) {
            (false, _) if has(hierarchy, controller) => Some(Home::Version1(directory)),
            (true, "blkio") if has(hierarchy, "io") => Some(Home::Unified(directory)),
            (true, _) if has(hierarchy, controller) => Some(Home::Unified(directory)),
            _ => None,
        })
    }

    /// Names of the groups below, in any hierarchy.
    pub(crate) fn children(&self) -> std::collections::BTreeSet<String> {
        let below = self.directories().flat_map(|(_, directory)| children(&directory));
        below.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
    }

    /// Removes those of the groups that have nothing in them. Returns whether none is left.
    pub(crate) fn remove_if_empty(&self) -> bool {
        for (_, directory) in self.directories() {
            let _ = fs::remove_dir(directory);
        }
        !self.exists()
    }

    /// Whether the workload has a group in any hierarchy.
    pub(crate) fn exists(&self) -> bool {
        self.directories().any(|(_, directory)| directory.is_dir())
    }

    fn unified(&self) -> Option<PathBuf> {
        self.directories().find(|(hierarchy, _)| hierarchy.unified).map(|(_, directory)| directory)
    }

    /// Lists the groups as a container would see them mounted.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let show = |(hierarchy, directory): (&Hierarchy, PathBuf)| {
            let name = hierarchy.mount.file_name()?.to_string_lossy().into_owned();
            let several = !hierarchy.unified && hierarchy.controllers.len() > 1;
            let links =
                hierarchy.controllers.iter().filter(|one| several && **one != name).cloned().collect();
            let (hierarchy, unified) = (hierarchy.mount.clone(), hierarchy.unified);
            Some(Shown { name, links, directory, hierarchy, unified })
        };
        self.directories().filter_map(show).collect()
    }

    /// Makes the groups where they are missing.
    pub(crate) fn make(&self) -> io::Result<Doors> {
        for (hierarchy, directory) in self.directories() {
            make(hierarchy, &directory)?;
        }
        self.doors_where(|_| true)
    }

    /// The way into the group of version 2 only; a child that is born there enters the others by itself.
    pub(crate) fn birthplace(&self) -> io::Result<Doors> {
        self.doors_where(|hierarchy| hierarchy.unified)
    }

    /// Moves the calling process, which has one thread, into the groups of version 1.
    pub(crate) fn enter_version_1(&self) -> io::Result<()> {
        self.doors_where(|hierarchy| !hierarchy.unified)?.enter()
    }

    fn doors_where(&self, wanted: impl Fn(&Hierarchy) -> bool) -> io::Result<Doors> {
        let directories = self.directories().filter(|(hierarchy, _)| wanted(hierarchy));
        Doors::open(directories.map(|(hierarchy, directory)| (hierarchy.unified, directory)))
    }

    /// Makes the groups where they are missing and moves the calling process in.
    pub(crate) fn make_and_join(&self) -> io::Result<()> {
        for (hierarchy, directory) in self.directories() {
            join(hierarchy, &directory)?;
        }
        Ok(())
    }

    /// As [`make_and_join`](Self::make_and_join), only where libcgroups makes none: version 2 beside version 1, and hierarchies
    /// without a controller. Without this the workload would stay in the supervisor's.
    pub(crate) fn join_uncontrolled(&self) -> io::Result<()> {
        if !self.hierarchies.has_version_1() {
            return Ok(());
        }
        for (hierarchy, directory) in self.directories() {
            if hierarchy.unified || hierarchy.controllers.iter().all(|name| name.starts_with("name=")) {
                join(hierarchy, &directory)?;
            }
        }
        Ok(())
    }

    /// Moves the calling process to the top of every hierarchy, so that its groups can be removed.
    pub(crate) fn leave(&self) {
        for hierarchy in &self.hierarchies.0 {
            let _ = fs::write(hierarchy.mount.join("cgroup.procs"), "0");
        }
    }

    /// Lists the processes in any of the groups and in those below.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for (_, directory) in self.directories() {
            collect(&directory, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Sends a signal to every process; forked ones may escape any but SIGKILL, which is sent until none is left alive.
    pub(crate) fn signal_all(&self, signal: i32) {
        if let Some(unified) = self.unified().filter(|_| signal == 9) {
            let _ = fs::write(unified.join("cgroup.kill"), "1");
        }
        // A few rounds, for what forks meanwhile; what is left is met again when the groups are removed.
        for _ in 0..if signal == 9 { 3 } else { 1 } {
            for pid in self.processes() {
                let _ = send_signal(pid, signal);
            }
        }
    }

    /// Freezes or thaws.
    pub(crate) fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        if let Some(Home::Version1(freezer)) = self.home("freezer") {
            return fs::write(freezer.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" });
        }
        let unified = self.unified().ok_or(io::ErrorKind::NotFound)?;
        fs::write(unified.join("cgroup.freeze"), if frozen { "1" } else { "0" })
    }

    /// Whether everything in it stands still.
    pub(crate) fn is_frozen(&self) -> bool {
        let read = |file: PathBuf| fs::read_to_string(file).unwrap_or_default();
        if let Some(Home::Version1(freezer)) = self.home("freezer") {
            return read(freezer.join("freezer.state")).trim() == "FROZEN";
        }
        self.unified().is_some_and(|unified| read(unified.join("cgroup.events")).contains("frozen 1"))
    }

    /// How often the kernel killed a process of the group for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = match self.home("memory") {
            Some(Home::Version1(memory)) => memory.join("memory.oom_control"),
            Some(Home::Unified(unified)) => unified.join("memory.events"),
            None => return 0,
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes the groups and those below. Fails with `ResourceBusy` while processes are in them.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let mut result = Ok(());
        for (_, directory) in self.directories() {
            if let Err(error) = remove_tree(&directory) {
                result = Err(error);
            }
        }
        result
    }
}

fn join(hierarchy: &Hierarchy, directory: &Path) -> io::Result<()> {
    make(hierarchy, directory)?;
    fs::write(directory.join("cgroup.procs"), "0")
}

fn make(hierarchy: &Hierarchy, directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(directory)?,
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if hierarchy.unified {
        pass_on_controllers(&hierarchy.mount, directory)
    } else if hierarchy.controllers.iter().any(|name| name == "cpuset") {
        fill_cpuset(&hierarchy.mount, directory)
    } else {
        Ok(())
    }
}

/// A version 2 group has those controllers that every group above it passes on.
fn pass_on_controllers(mount: &Path, directory: &Path) -> io::Result<()> {
    let Some(parent) = directory.parent().filter(|_| directory != mount) else { return Ok(()) };
    let enabled = fs::read_to_string(directory.join("cgroup.controllers"))?;
    let available = fs::read_to_string(mount.join("cgroup.controllers"))?;
    let lacks = |wanted: &str, has: &str| !has.split_whitespace().any(|one| one == wanted);
    if !available.split_whitespace().any(|one| lacks(one, &enabled)) {
        return Ok(());
    }
    pass_on_controllers(mount, parent)?;
    let passed = fs::read_to_string(parent.join("cgroup.subtree_control"))?;
    for controller in fs::read_to_string(parent.join("cgroup.controllers"))?.split_whitespace() {
        if lacks(controller, &passed) {
            // One that cannot be had (a realtime process holds `cpu`) is missed by whoever sets its limits.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    Ok(())
}

/// A new version 1 cpuset is empty and takes no process until it has processors and memory nodes, its parents first.
fn fill_cpuset(mount: &Path, directory: &Path) -> io::Result<()> {
    if directory == mount {
        return Ok(());
    }
    let parent = directory.parent().unwrap_or(mount);
    fill_cpuset(mount, parent)?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(directory.join(file))?.trim().is_empty() {
            fs::write(directory.join(file), fs::read_to_string(parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

fn collect(directory: &Path, found: &mut Vec<i32>) {
    let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) else { return };
    // 0 stands for a process outside our pid namespace.
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1));
    for child in children(directory) {
        collect(&child, found);
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.flatten().filter(is_directory).map(|entry| entry.path()).collect()
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(()) => Ok(()),
        Err(_) => {
            for child in children(directory) {
                remove_tree(&child)?;
            }
            fs::remove_dir(directory)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hosts_have_both_versions() {
        let found = parse(
            "30 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
             31 20 0:27 / /sys/fs/cgroup/systemd rw shared:9 - cgroup systemd rw,xattr,name=systemd\n\
             32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
             33 20 0:29 /docker/x /elsewhere rw - cgroup cgroup rw,memory\n\
             34 20 0:30 / / rw - ext4 /dev/vda rw\n",
        );
        let summary: Vec<_> = found.iter().map(|one| (one.unified, one.controllers.join("+"))).collect();
        assert_eq!(
            summary,
            [(false, "cpu+cpuacct".to_owned()), (false, "name=systemd".to_owned()), (true, String::new())]
        );
    }
}
