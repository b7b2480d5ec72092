//! What of the host a container shares, and what of it is hidden from it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Namespaces beside network and pids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    /// Shared memory, semaphores and message queues.
    pub ipc: IpcMode,
    /// Whether the host's name is the container's.
    pub host_uts: bool,
    /// Cgroups; docker's default for the host when absent.
    pub cgroup: Option<CgroupNamespace>,
}

/// Whose shared memory a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IpcMode {
    /// Its own.
    #[default]
    Private,
    /// Its own, which others may join.
    Shareable,
    /// Its own, without `/dev/shm`.
    None,
    /// The host's.
    Host,
    /// Another container's, by id or name.
    Container(String),
}

/// Which cgroups a container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupNamespace {
    /// Its own as the root.
    Private,
    /// The host's.
    Host,
}

/// Devices of the host in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Devices {
    /// Device nodes, or directories of them.
    pub paths: Vec<DevicePath>,
    /// What its cgroup allows beside docker's defaults.
    pub rules: Vec<DeviceRule>,
    /// Devices by their names in the host's CDI files: `vendor.com/class=name`.
    pub cdi: Vec<String>,
}

/// A device node of the host, or a directory of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePath {
    /// Path on the host.
    pub host: PathBuf,
    /// Path in the container.
    pub container: PathBuf,
    /// Out of `r`, `w`, `m`.
    pub access: String,
}

/// What a device cgroup allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// `a`, `b` or `c`.
    pub kind: char,
    /// Every major number when absent.
    pub major: Option<i64>,
    /// Every minor number when absent.
    pub minor: Option<i64>,
    /// Out of `r`, `w`, `m`.
    pub access: String,
}

/// Paths of the kernel's file systems; docker's defaults when absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SystemPaths {
    /// Hidden.
    pub masked: Option<Vec<String>>,
    /// Read-only.
    pub read_only: Option<Vec<String>>,
}
