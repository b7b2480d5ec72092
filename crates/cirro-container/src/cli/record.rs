//! What is written down of a container between one call and the next.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::Hook;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cgroup::Hierarchies;

/// A container's state as the specification names it; `paused` is runc's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// One container's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    /// RFC 3339 with nanoseconds.
    pub(super) created: String,
    pub(super) annotations: HashMap<String, String>,
    /// Its path in every hierarchy.
    pub(super) cgroup: String,
    /// Pid and start time of its first process, once there is one.
    pub(super) process: Option<(i32, u64)>,
    pub(super) started: bool,
    /// Name of the user who made it, or its number.
    pub(super) owner: String,
    /// Whether ending the first process ends the others too.
    pub(super) own_pid_namespace: bool,
    /// Hooks that are run here, not by what makes the container.
    pub(super) poststart: Vec<Hook>,
    pub(super) poststop: Vec<Hook>,
}

impl Record {
    /// What the container is doing, by its process and cgroup.
    pub(super) fn status(&self, hierarchies: &Hierarchies) -> Status {
        let Some((pid, start)) = self.process else { return Status::Creating };
        if !crate::process::is_running(pid, start) {
            return Status::Stopped;
        }
        match self.started {
            _ if hierarchies.group(&self.cgroup).is_frozen() => Status::Paused,
            true => Status::Running,
            false => Status::Created,
        }
    }

    /// The specification's state, which hooks get too.
    pub(super) fn state(&self, status: Status) -> Value {
        let mut state = json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": if status == Status::Paused { "running" } else { status.name() },
            "pid": self.pid(status),
            "bundle": self.bundle,
        });
        if !self.annotations.is_empty() {
            state["annotations"] = json!(self.annotations);
        }
        state
    }

    /// The state as `runc state` and `runc list` print it.
    pub(super) fn view(&self, status: Status) -> Value {
        let mut view = self.state(status);
        view["status"] = json!(status.name());
        view["rootfs"] = json!(self.rootfs);
        view["created"] = json!(self.created);
        view["owner"] = json!(self.owner);
        view
    }

    /// The first process' id; 0 once it is gone.
    pub(super) fn pid(&self, status: Status) -> i32 {
        self.process.filter(|_| status != Status::Stopped).map_or(0, |(pid, _)| pid)
    }
}
