//! Container lifecycle: guardian, supervisor, OCI runtime, logs, exec.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cirro_seams::node::Session;
use oci_spec::runtime::Spec;
use tokio::sync::{broadcast, mpsc};

/// How the supervisor of a cloud is reached and started.
#[derive(Debug, Clone)]
pub struct SupervisorOptions {
    /// Its sockets, pids and bundles live here (`<run-dir>/supervisor`).
    pub run_dir: PathBuf,
    /// Exit records that survive a reboot's run directory are not needed; logs are written where requests say.
    pub name: String,
    /// The executable whose `supervisor` and `guardian` subcommands are started (argv[1]).
    pub executable: PathBuf,
}

/// Root of a workload: overlay layers, mounted in a private mount namespace so that the host sees no mount.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Rootfs {
    /// Unpacked layers, the top one first.
    pub lower: Vec<PathBuf>,
    /// Takes the writes.
    pub upper: PathBuf,
    /// Overlayfs' work directory.
    pub work: PathBuf,
}

/// A workload's standard streams.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
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

/// A json-file log.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct LogFile {
    /// Its path; rotated files get `.1`, `.2`.
    pub path: PathBuf,
    /// Bytes before rotation.
    pub max_size: u64,
    /// Files kept, the current one included.
    pub max_files: u32,
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
}

/// A plain process to run under the supervisor (QEMU): its own process group and cgroup, nothing else.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct CreateProcess {
    /// A file-name-safe id.
    pub id: String,
    /// Argument vector; the first is an absolute path.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<String>,
    /// Descriptors passed with the request, as (number in the child): given beside this struct.
    pub fd_numbers: Vec<i32>,
    /// Network namespace to enter first.
    pub netns: Option<PathBuf>,
    /// Its output, if it is kept.
    pub log: Option<LogFile>,
}

/// A command to run in a container.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct ExecProcess {
    /// The whole OCI process, capabilities and all.
    pub process: oci_spec::runtime::Process,
    /// Its streams.
    pub stdio: Stdio,
}

/// A workload as the supervisor knows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct WorkloadState {
    /// Its id.
    pub id: String,
    /// Process id of its first process.
    pub pid: Option<i32>,
    /// What it is doing.
    pub phase: WorkloadPhase,
    /// Exit, once it ended; kept until acknowledged by `delete`.
    pub exit: Option<Exit>,
}

/// What a workload is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum WorkloadPhase {
    /// Made, waiting for `start`.
    Created,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Ended.
    Exited,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exit {
    /// Exit code; 128 + n for signal n; `None` when it could not be known.
    pub code: Option<i32>,
    /// Whether it ended for want of memory.
    pub oom_killed: bool,
    /// RFC 3339 with nanoseconds.
    pub at: String,
}

/// Something that happened to a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SupervisorEvent {
    /// A workload ended.
    Exited(String, Exit),
    /// The supervisor was lost and found again: list the workloads and compare.
    Reconnected,
}

/// Why the supervisor refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ContainerError {
    /// There is no such workload.
    #[error("no such workload `{0}`")]
    NotFound(String),
    /// It is not in a state for this.
    #[error("{0}")]
    State(String),
    /// The command does not exist in the container (docker's exit code 127).
    #[error("{0}")]
    CommandNotFound(String),
    /// The command cannot be run (docker's exit code 126).
    #[error("{0}")]
    CommandNotExecutable(String),
    /// The runtime failed.
    #[error("{0}")]
    Runtime(String),
    /// The supervisor cannot be reached.
    #[error("supervisor: {0}")]
    Unreachable(String),
}

/// A handle on the host's supervisor; reconnects by itself.
#[derive(Debug, Clone)]
pub struct Supervisor {}

impl Supervisor {
    /// Connects to the supervisor of this cloud; starts guardian and supervisor when there is none.
    pub async fn connect(options: SupervisorOptions) -> Result<Self, ContainerError> {
        todo!()
    }
    /// Returns events from now on.
    pub fn events(&self) -> broadcast::Receiver<SupervisorEvent> {
        todo!()
    }
    /// Makes a container; its process waits for `start`.
    pub async fn create(&self, request: CreateContainer) -> Result<WorkloadState, ContainerError> {
        todo!()
    }
    /// Makes and starts a plain process; `fds` become the numbers in `fd_numbers`.
    pub async fn spawn(
        &self,
        request: CreateProcess,
        fds: Vec<std::os::fd::OwnedFd>,
    ) -> Result<WorkloadState, ContainerError> {
        todo!()
    }
    /// Starts a made container.
    pub async fn start(&self, id: &str) -> Result<(), ContainerError> {
        todo!()
    }
    /// Sends a signal to its first process (or to every process).
    pub async fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), ContainerError> {
        todo!()
    }
    /// Freezes or thaws it.
    pub async fn set_paused(&self, id: &str, paused: bool) -> Result<(), ContainerError> {
        todo!()
    }
    /// Removes an ended (or, by force, a living) workload with its cgroups and bundle; acknowledges its exit.
    pub async fn delete(&self, id: &str, force: bool) -> Result<(), ContainerError> {
        todo!()
    }
    /// Lists every workload.
    pub async fn list(&self) -> Result<Vec<WorkloadState>, ContainerError> {
        todo!()
    }
    /// Runs a command in a container; the session carries its streams and exit code. Also returns its pid.
    pub async fn exec(&self, id: &str, request: ExecProcess) -> Result<(i32, Session), ContainerError> {
        todo!()
    }
    /// Attaches to a workload's own streams from now on (before `start`: from its first byte).
    pub async fn attach(&self, id: &str, stdin: bool) -> Result<Session, ContainerError> {
        todo!()
    }
    /// Sets the size of its terminal.
    pub async fn resize(&self, id: &str, columns: u16, rows: u16) -> Result<(), ContainerError> {
        todo!()
    }
    /// Ends the supervisor and the guardian; nothing may run any more.
    pub async fn shut_down(&self) -> Result<(), ContainerError> {
        todo!()
    }
}

/// A line (or a piece of one) of a json-file log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// Whether it is from stderr.
    pub stderr: bool,
    /// The bytes, line end included when there was one.
    pub line: Bytes,
}

/// What is read of a log.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Not before (RFC 3339 compares as time).
    pub since: Option<std::time::SystemTime>,
    /// Not after.
    pub until: Option<std::time::SystemTime>,
    /// Whether to go on as lines come (inotify, no polling), until `ended` fires.
    pub follow: bool,
}

/// Reads a json-file log, rotated files included. `ended` resolves when the workload has ended: what is
/// then in the file is still read. Dropping the receiver ends the reader.
pub fn read_log(path: &Path, query: LogQuery, ended: ended::Ended) -> mpsc::Receiver<LogEntry> {
    todo!()
}

/// Placeholder for the signal that a workload has ended.
pub mod ended {
    /// Becomes true when the workload has ended.
    pub type Ended = tokio::sync::watch::Receiver<bool>;
}

/// Entry point of `cirro supervisor`: never returns. Called before any thread exists.
pub fn supervisor_main(args: &[std::ffi::OsString]) -> std::process::ExitCode {
    todo!()
}

/// Entry point of `cirro guardian`: never returns. Called before any thread exists.
pub fn guardian_main(args: &[std::ffi::OsString]) -> std::process::ExitCode {
    todo!()
}
