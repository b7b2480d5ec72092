//! Container lifecycle: guardian, supervisor, OCI runtime, logs, exec.
//!
//! ## Theory of operation
//! ```text
//!  daemon (tokio)        guardian (tiny)            helper (one per create, spawn; short-lived)
//!  Supervisor ──socket──▶ supervisor (epoll) ──fork──▶ Runtime (libcontainer, own launcher) ──▶ container
//!              ◀─events──    │  parent of all workloads, holds pipes and ptys, writes logs
//!                            └─ gives its descriptors to the guardian, which gives them to its successor
//! ```
//! The daemon never forks a container; it talks to the supervisor ([`Supervisor`]) and may be killed at any time. The
//! supervisor may be killed at any time too: the guardian starts another one, which adopts what runs. Adoption is its
//! normal start-up path.

#![forbid(unsafe_code)]

mod arguments;
mod build;
mod cgroup;
mod cli;
mod client;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod guardian;
mod init;
mod log;
mod made;
mod process;
mod protocol;
mod request;
mod runtime;
mod supervisor;
mod wire;
mod workload;

pub use cgroup::{
    BlockCount, BlockStatistics, CgroupVersion, CpuStatistics, MemoryStatistics, PidsStatistics, Statistics,
};
pub use cli::runtime_main;
pub use client::Supervisor;
pub use error::ContainerError;
pub use guardian::guardian_main;
pub use init::{INIT_NAME, init_main, is_init};
pub use log::{LogEntry, LogQuery, read_log};
pub use request::{
    CreateContainer, CreateProcess, ExecProcess, LogFile, Rootfs, SUBPATH, Stdio, SupervisorOptions,
};
pub use supervisor::supervisor_main;
pub use workload::{Exit, SupervisorEvent, WorkloadPhase, WorkloadState};

/// The signal that a workload has ended.
pub mod ended {
    /// Becomes true when the workload has ended; a sender that is gone means the same.
    pub type Ended = tokio::sync::watch::Receiver<bool>;
}
