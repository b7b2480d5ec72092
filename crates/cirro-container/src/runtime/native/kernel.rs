//! What is written to the kernel through procfs: parameters of namespaces, and security labels.
//!
//! Every file is opened below a descriptor that was looked at to be procfs, without links and without crossing into another mount, so
//! that nothing of the container's can stand in for it (CVE-2019-16884, CVE-2025-52881).

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType as Type, Process, Spec};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::inside::{Links, find};
use super::options::Attributes;
use super::tree;
use crate::error::ContainerError;

/// Parameters that belong to a namespace of System V IPC or POSIX message queues.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The kernel's procfs: the container's own where it has one, otherwise one that nobody sees.
pub(super) struct Procfs(OwnedFd);

impl Procfs {
    pub(super) fn open(root: &OwnedFd) -> io::Result<Self> {
        if let Ok(place) = find(root, Path::new("/proc"), Links::Refuse)
            && tree::is_procfs(&place)?
        {
            return Ok(Self(place));
        }
        Ok(Self(tree::new("proc", Some(Path::new("proc")), &[], Attributes::default())?))
    }

    fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve)?;
        if !tree::is_procfs(&file)? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not the kernel's file"));
        }
        match rustix::io::write(&file, value.as_bytes())? {
            written if written == value.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Sets parameters of the container's namespaces.
    pub(super) fn set_parameters(&self, parameters: &HashMap<String, String>) -> Result<(), ContainerError> {
        for (name, value) in parameters {
            self.write(&format!("sys/{}", path_of(name)), value)
                .map_err(|error| ContainerError::runtime(&format!("set sysctl {name}"), &error))?;
        }
        Ok(())
    }

    /// Sets the labels that the program will run under.
    pub(super) fn set_labels(&self, labels: &Labels) -> Result<(), ContainerError> {
        if let Some(profile) = &labels.apparmor {
            let value = format!("exec {profile}");
            // The second name is from before Linux 5.8.
            self.write("self/attr/apparmor/exec", &value)
                .or_else(|_| self.write("self/attr/exec", &value))
                .map_err(|error| ContainerError::runtime(&format!("apply apparmor profile {profile}"), &error))?;
        }
        if let Some(label) = &labels.selinux {
            self.write("self/attr/exec", label)
                .map_err(|error| ContainerError::runtime(&format!("apply selinux label {label}"), &error))?;
        }
        Ok(())
    }
}

/// `net.ipv4.ip_forward` as a path. With a slash first met it is a path already, whose dots belong to names (`net/ipv4/conf/eth0.1`).
fn path_of(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name.to_owned(),
        _ => name
            .chars()
            .map(|one| match one {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
    }
}

/// Refuses parameters of the whole host.
pub(super) fn check_parameters(spec: &Spec) -> Result<(), ContainerError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let has = |kind: Type| linux.namespaces().iter().flatten().any(|one| one.typ() == kind);
    for name in linux.sysctl().iter().flat_map(HashMap::keys) {
        let plain = path_of(name).replace('/', ".");
        if path_of(name).split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(ContainerError::State(format!("sysctl {name:?} is no name")));
        }
        let (namespace, kind) = if plain.starts_with("net.") {
            (has(Type::Network), "network")
        } else if plain.starts_with("fs.mqueue.") || IPC.contains(&plain.as_str()) {
            (has(Type::Ipc), "IPC")
        } else if matches!(plain.as_str(), "kernel.hostname" | "kernel.domainname") {
            (has(Type::Uts), "UTS")
        } else {
            return Err(ContainerError::State(format!(
                "sysctl {name:?} is not in a separate kernel namespace"
            )));
        };
        if !namespace {
            let text = format!("sysctl {name:?} is not allowed in the hosts {kind} namespace");
            return Err(ContainerError::State(text));
        }
    }
    Ok(())
}

/// Labels of a program.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Labels {
    apparmor: Option<String>,
    selinux: Option<String>,
}

impl Labels {
    /// Refuses what this host cannot enforce. An unconfined program needs nothing.
    pub(super) fn of(process: &Process) -> Result<Self, ContainerError> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let apparmor = given(process.apparmor_profile()).filter(|profile| profile != "unconfined");
        let selinux = given(process.selinux_label());
        let enabled =
            |path: &str| std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(['Y', '1']));
        if apparmor.is_some() && !enabled("/sys/module/apparmor/parameters/enabled") {
            return Err(ContainerError::State("apparmor is not enabled on the system".to_owned()));
        }
        if selinux.is_some() && !Path::new("/sys/fs/selinux/enforce").exists() {
            return Err(ContainerError::State(
                "selinux label is specified in config, but selinux is disabled or not supported".to_owned(),
            ));
        }
        Ok(Self { apparmor, selinux })
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths_whichever_way_they_are_written() {
        assert_eq!(path_of("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path_of("net.ipv4.conf.eth0/1.arp"), "net/ipv4/conf/eth0.1/arp");
        assert_eq!(path_of("net/ipv4/conf/eth0.1/arp"), "net/ipv4/conf/eth0.1/arp");
    }

    #[test]
    fn parameters_of_the_host_are_refused() {
        let check = |name: &str, namespaces: &[&str]| {
            let namespaces: Vec<_> =
                namespaces.iter().map(|kind| serde_json::json!({"type": kind})).collect();
            let json = serde_json::json!({"linux": {"sysctl": {name: "1"}, "namespaces": namespaces}});
            check_parameters(&serde_json::from_value(json).expect("spec")).is_ok()
        };
        assert!(check("net.core.somaxconn", &["network"]));
        assert!(!check("net.core.somaxconn", &["ipc"]));
        assert!(check("kernel.shmmax", &["ipc"]) && check("fs.mqueue.msg_max", &["ipc"]));
        assert!(!check("kernel.core_pattern", &["ipc", "network", "uts"]));
        assert!(!check("net.ipv4...kernel.core_pattern", &["network"]));
        assert!(!check("net/../kernel/core_pattern", &["network"]));
    }
}
