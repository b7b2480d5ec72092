//! The namespaces of a container: new ones, and those of others that it joins.
//!
//! The helper goes there itself, makes the child, and comes back, since it has privileges in all of them that the child, in a user
//! namespace of its own, would not have.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cirro_sys::namespaces::{CLONE_NEWTIME, leave};
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType as Type, LinuxTimeOffset};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::users::{Maps, NEW_USER};
use crate::error::ContainerError;

/// `CLONE_NEWCGROUP`.
pub(super) const NEW_CGROUP: i32 = 0x200_0000;

/// What is new and what is another's.
pub(super) struct Namespaces {
    /// `CLONE_NEW*` for the child; that of cgroups and time excepted.
    pub(super) new: i32,
    /// Made by the child, once it is in its cgroups.
    pub(super) new_cgroup: bool,
    pub(super) users: Option<Maps>,
    time: Option<String>,
    joined: Vec<(OwnedFd, LinkNameSpaceType)>,
}

impl Namespaces {
    /// Opens what is to be joined.
    pub(super) fn of(linux: &Linux) -> Result<Self, ContainerError> {
        let mut namespaces = Self { new: 0, new_cgroup: false, users: None, time: None, joined: Vec::new() };
        for one in linux.namespaces().iter().flatten() {
            match one.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                Some(path) => {
                    let file = open(path).map_err(|error| {
                        ContainerError::runtime(&format!("open namespace {}", path.display()), &error)
                    })?;
                    namespaces.joined.push((file, link_type(one.typ())));
                }
                None => namespaces.add_new(one, linux),
            }
        }
        Ok(namespaces)
    }

    fn add_new(&mut self, one: &LinuxNamespace, linux: &Linux) {
        match one.typ() {
            Type::Cgroup => self.new_cgroup = true,
            Type::Time => self.time = Some(offsets(linux.time_offsets().as_ref())),
            Type::User => {
                self.new |= NEW_USER;
                let (users, groups) = (linux.uid_mappings().as_ref(), linux.gid_mappings().as_ref());
                self.users = Some(Maps::of(users, groups));
            }
            // The document's numbers are the kernel's flags.
            other => self.new |= other as i32,
        }
    }

    /// Does something where the child's parent has to be, and comes back. `mounts` is the namespace that mounts are copied from.
    pub(super) fn visit<T>(
        &self,
        mounts: Option<&OwnedFd>,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut way_back = Vec::new();
        let arrived = self.go(mounts, &mut way_back);
        let result = arrived.and_then(|()| work());
        for (file, kind) in way_back.into_iter().rev() {
            move_into_link_name_space(file.as_fd(), Some(kind))?;
        }
        result
    }

    fn go(
        &self,
        mounts: Option<&OwnedFd>,
        way_back: &mut Vec<(OwnedFd, LinkNameSpaceType)>,
    ) -> io::Result<()> {
        for (file, kind) in &self.joined {
            way_back.push((open_own(*kind)?, *kind));
            move_into_link_name_space(file.as_fd(), Some(*kind))?;
        }
        if let Some(time) = &self.time {
            way_back.push((open_own(LinkNameSpaceType::Time)?, LinkNameSpaceType::Time));
            leave(CLONE_NEWTIME)?;
            if !time.is_empty() {
                std::fs::write("/proc/self/timens_offsets", time)?;
            }
        }
        if let Some(mounts) = mounts {
            way_back.push((open_own(LinkNameSpaceType::Mount)?, LinkNameSpaceType::Mount));
            move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        }
        Ok(())
    }
}

fn open(path: &std::path::Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn open_own(kind: LinkNameSpaceType) -> io::Result<OwnedFd> {
    let name = match kind {
        LinkNameSpaceType::Time => "time",
        LinkNameSpaceType::ControlGroup => "cgroup",
        LinkNameSpaceType::HostNameAndNISDomainName => "uts",
        LinkNameSpaceType::InterProcessCommunication => "ipc",
        LinkNameSpaceType::User => "user",
        LinkNameSpaceType::ProcessID => "pid",
        LinkNameSpaceType::Network => "net",
        _ => "mnt",
    };
    open(std::path::Path::new(&format!("/proc/self/ns/{name}")))
}

fn link_type(kind: Type) -> LinkNameSpaceType {
    match kind {
        Type::Mount => LinkNameSpaceType::Mount,
        Type::Cgroup => LinkNameSpaceType::ControlGroup,
        Type::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
        Type::Ipc => LinkNameSpaceType::InterProcessCommunication,
        Type::User => LinkNameSpaceType::User,
        Type::Pid => LinkNameSpaceType::ProcessID,
        Type::Network => LinkNameSpaceType::Network,
        Type::Time => LinkNameSpaceType::Time,
    }
}

/// As `/proc/self/timens_offsets` takes them.
fn offsets(offsets: Option<&HashMap<String, LinuxTimeOffset>>) -> String {
    let mut lines: Vec<String> = offsets
        .into_iter()
        .flatten()
        .map(|(clock, offset)| {
            format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
        })
        .collect();
    lines.sort();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_namespaces_are_the_kernels_flags() {
        let json = serde_json::json!({
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "cgroup"},
                           {"type": "time"}, {"type": "network", "path": "/proc/self/ns/net"}],
            "timeOffsets": {"monotonic": {"secs": 5, "nanosecs": 6}, "boottime": {"secs": -7}}
        });
        let namespaces = Namespaces::of(&serde_json::from_value(json).expect("linux")).expect("namespaces");
        assert_eq!(namespaces.new, 0x2000_0000 | 0x2_0000 | 0x400_0000 | 0x800_0000);
        assert!(namespaces.new_cgroup && namespaces.joined.len() == 1);
        assert_eq!(namespaces.time.as_deref(), Some("boottime -7 0\nmonotonic 5 6\n"));
    }
}
