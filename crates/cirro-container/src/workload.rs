//! A workload as the daemon sees it.

use serde::{Deserialize, Serialize};

/// A workload as the supervisor knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadState {
    /// Its id.
    pub id: String,
    /// Process id of its first process, until it has ended.
    pub pid: Option<i32>,
    /// What it is doing.
    pub phase: WorkloadPhase,
    /// Exit, once it ended; kept until acknowledged by `delete`.
    pub exit: Option<Exit>,
}

/// What a workload is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
