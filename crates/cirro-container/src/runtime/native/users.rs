//! User namespaces: their maps, and namespaces made for a map alone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cirro_sys::process::{clone_child, wait_for};
use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// `CLONE_NEWUSER`.
pub(super) const NEW_USER: i32 = 0x1000_0000;

/// Which ids inside are which outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Maps {
    pub(super) users: Vec<LinuxIdMapping>,
    pub(super) groups: Vec<LinuxIdMapping>,
}

impl Maps {
    pub(super) fn of(users: Option<&Vec<LinuxIdMapping>>, groups: Option<&Vec<LinuxIdMapping>>) -> Self {
        Self { users: users.cloned().unwrap_or_default(), groups: groups.cloned().unwrap_or_default() }
    }

    /// Gives them to a process in a new user namespace.
    pub(super) fn write(&self, pid: i32) -> io::Result<()> {
        std::fs::write(format!("/proc/{pid}/uid_map"), text(&self.users))?;
        std::fs::write(format!("/proc/{pid}/gid_map"), text(&self.groups))
    }

    /// The outside's id of a user inside.
    pub(super) fn user_outside(&self, user: u32) -> Option<u32> {
        self.users.iter().find_map(|map| {
            let offset = user.checked_sub(map.container_id()).filter(|offset| *offset < map.size())?;
            map.host_id().checked_add(offset)
        })
    }

    /// Makes a user namespace that lives as long as the descriptor, for mounts that show other owners.
    pub(super) fn namespace(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let pid = clone_child(NEW_USER, None, || {
            cirro_sys::process::close_all_but(&[std::os::fd::AsRawFd::as_raw_fd(&theirs.as_fd())]);
            // Until the other end closes.
            let _ = rustix::io::read(&theirs, &mut [0; 1]);
            0
        })?;
        let namespace = self.write(pid).and_then(|()| {
            let path = format!("/proc/{pid}/ns/user");
            Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
        });
        drop((ours, theirs));
        wait_for(pid)?;
        namespace
    }
}

fn text(maps: &[LinuxIdMapping]) -> String {
    let line = |map: &LinuxIdMapping| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size());
    maps.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_outside() {
        let json = serde_json::json!([{"containerID": 0, "hostID": 1000, "size": 1},
                                      {"containerID": 1, "hostID": 100_000, "size": 65_535}]);
        let maps = Maps { users: serde_json::from_value(json).expect("maps"), groups: Vec::new() };
        assert_eq!(
            [0, 1, 65_535, 65_536].map(|user| maps.user_outside(user)),
            [Some(1000), Some(100_000), Some(165_534), None]
        );
        assert_eq!(text(&maps.users), "0 1000 1\n1 100000 65535\n");
    }
}
