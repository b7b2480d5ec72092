//! What is written down of a workload, so that another supervisor can take over.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::protocol::ExecState;
use crate::request::{LogFile, Stdio};
use crate::workload::{Exit, WorkloadPhase, WorkloadState};

use super::slots::Slots;

/// Where earlier supervisors wrote it; one that is upgraded in place leaves such files.
const FORMER: &str = "state.json";

/// What a workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Container,
    Process,
}

/// One workload's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) stdio: Stdio,
    pub(super) log: Option<LogFile>,
    /// `None` while a helper makes it.
    pub(super) phase: Option<WorkloadPhase>,
    /// Process id and start time of the helper that makes it.
    pub(super) helper: Option<(i32, u64)>,
    /// Process id and start time of its first process.
    pub(super) process: Option<(i32, u64)>,
    pub(super) exit: Option<Exit>,
    pub(super) execs: Vec<ExecState>,
    /// The cgroup that its own is in, if that is not the cloud's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cgroup_parent: Option<String>,
    #[serde(skip)]
    pub(super) slots: Slots,
}

impl Record {
    /// A workload that is about to be made.
    pub(super) fn new(id: String, kind: Kind, stdio: Stdio, log: Option<LogFile>) -> Self {
        Self {
            id,
            kind,
            stdio,
            log,
            phase: None,
            helper: None,
            process: None,
            exit: None,
            execs: Vec::new(),
            cgroup_parent: None,
            slots: Slots::default(),
        }
    }

    /// As the daemon sees it; one that is still being made it does not see.
    pub(super) fn state(&self) -> Option<WorkloadState> {
        let living = self.phase != Some(WorkloadPhase::Exited);
        Some(WorkloadState {
            id: self.id.clone(),
            pid: self.process.filter(|_| living).map(|(pid, _)| pid),
            phase: self.phase?,
            exit: self.exit.clone(),
        })
    }

    /// Writes it, whole or not at all. The run directory does not outlive the machine: it needs no sync.
    pub(super) fn save(&self, directory: &Path) -> io::Result<()> {
        self.slots.save(directory, &serde_json::to_vec(self)?)
    }

    /// Reads it.
    pub(super) fn load(directory: &Path) -> io::Result<Self> {
        match Slots::load(directory)? {
            Some((slots, document)) => Ok(Self { slots, ..serde_json::from_slice(&document)? }),
            None => Ok(serde_json::from_slice(&std::fs::read(directory.join(FORMER))?)?),
        }
    }
}
