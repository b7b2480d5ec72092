//! What the daemon asks of the supervisor.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

/// How the supervisor of a cloud is reached and started.
#[derive(Debug, Clone)]
pub struct SupervisorOptions {
    /// Its sockets, pids and bundles live here (`<run-dir>/supervisor`).
    pub run_dir: PathBuf,
    /// The cloud's name: workloads are in the cgroups `/<name>/<id>`.
    pub name: String,
    /// The executable whose `supervisor` and `guardian` subcommands are started (the first argument).
    pub executable: PathBuf,
}

/// Root of a workload: overlay layers, mounted in a private mount namespace so that the host sees no mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rootfs {
    /// Unpacked layers, the top one first; none at all is an empty root.
    pub lower: Vec<PathBuf>,
    /// Takes the writes.
    pub upper: PathBuf,
    /// Overlayfs' work directory.
    pub work: PathBuf,
}

/// A workload's standard streams.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Stdio {
    /// Whether they are one terminal.
    pub tty: bool,
    /// Whether stdin is kept open.
    pub stdin: bool,
    /// Whether stdin closes when the first attacher leaves.
    pub stdin_once: bool,
    /// Columns and rows at start.
    pub size: Option<(u16, u16)>,
}

/// Begins an option of a bind: the path below the source, links kept within the source, that is mounted instead.
pub const SUBPATH: &str = "x-cirro.subpath=";

/// A json-file log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LogFile {
    /// Its path; rotated files get `.1`, `.2`.
    pub path: PathBuf,
    /// Bytes before rotation; 0 for none.
    pub max_size: u64,
    /// Files kept, the current one included.
    pub max_files: u32,
    /// Whether rotated files are compressed (`.1.gz`).
    #[serde(default)]
    pub compress: bool,
    /// Noted with each line.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// A container to make.
#[derive(Debug, Clone)]
pub struct CreateContainer {
    /// 64 hexadecimal digits, or any file-name-safe id.
    pub id: String,
    /// The whole OCI spec; `root.path` and `linux.cgroupsPath` are set by the supervisor's side.
    pub spec: Spec,
    /// Its root.
    pub rootfs: Rootfs,
    /// Its streams.
    pub stdio: Stdio,
    /// Its log, if it has one.
    pub log: Option<LogFile>,
    /// The cgroup that its own is made in, from the top of the hierarchies; the cloud's when absent.
    pub cgroup_parent: Option<String>,
}

/// A plain process to run under the supervisor (QEMU): its own session and cgroup, nothing else.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateProcess {
    /// A file-name-safe id.
    pub id: String,
    /// Argument vector; the first is an absolute path.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<String>,
    /// The numbers in the child of the descriptors that are given beside this struct, in the same order.
    pub fd_numbers: Vec<i32>,
    /// Network namespace to enter first.
    pub netns: Option<PathBuf>,
    /// Its output, if it is kept.
    pub log: Option<LogFile>,
}

/// A command to run in a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecProcess {
    /// The whole OCI process, capabilities and all.
    pub process: oci_spec::runtime::Process,
    /// Its streams.
    pub stdio: Stdio,
}
