//! The messages between daemon and supervisor.
//!
//! Both may be of different builds, since the supervisor outlives the daemon's upgrade: fields are only ever added, with
//! defaults; anything else is a new [`VERSION`]. `Hello` and `Upgrade` and their answers never change: with them a daemon of
//! any version finds out what the supervisor speaks and has it become what the daemon is.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::ContainerError;
use crate::request::{CreateProcess, LogFile, Rootfs, Stdio};
use crate::workload::{Exit, WorkloadState};

/// What both sides must agree on.
pub(crate) const VERSION: u32 = 2;

/// From the daemon.
#[derive(Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// Comes back in the reply.
    pub(crate) sequence: u64,
    pub(crate) request: Request,
}

/// What is asked.
#[derive(Serialize, Deserialize)]
pub(crate) enum Request {
    Hello {
        version: u32,
        /// It has just started: nobody waits for the ends of commands that were run before.
        #[serde(default)]
        fresh: bool,
    },
    /// Descriptor: an executable, in a form that nobody can write. It goes on in this process.
    Upgrade,
    Create {
        id: String,
        spec: Box<RawValue>,
        rootfs: Rootfs,
        stdio: Stdio,
        log: Option<LogFile>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cgroup_parent: Option<String>,
    },
    Spawn(CreateProcess),
    Start {
        id: String,
    },
    Kill {
        id: String,
        signal: i32,
        all: bool,
    },
    SetPaused {
        id: String,
        paused: bool,
    },
    Delete {
        id: String,
        force: bool,
    },
    List,
    /// Descriptors: stdin (if `stdin`), stdout, stderr; none of them for a terminal.
    Exec {
        id: String,
        exec: String,
        process: Box<RawValue>,
        tty: bool,
        stdin: bool,
        size: Option<(u16, u16)>,
    },
    /// The exit code of this exec has been seen.
    ForgetExec {
        id: String,
        exec: String,
    },
    Attach {
        id: String,
        stdin: bool,
    },
    Resize {
        id: String,
        columns: u16,
        rows: u16,
    },
    /// What there is of workloads that do not exist; `remove`: and then no longer.
    Strays {
        remove: bool,
    },
    ShutDown,
}

/// To the daemon.
#[derive(Serialize, Deserialize)]
pub(crate) enum Message {
    Reply {
        sequence: u64,
        reply: Result<Reply, ContainerError>,
    },
    Exited {
        id: String,
        exit: Exit,
    },
    ExecExited {
        exec: String,
        code: i32,
    },
    /// It ends because somebody asked for it: nobody is to start another one.
    ShuttingDown,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// When the versions differ nothing but `Upgrade` is served.
    Hello {
        version: u32,
        /// Identity of the executable that runs.
        #[serde(default)]
        build: String,
    },
    Done,
    Workload(WorkloadState),
    List {
        workloads: Vec<WorkloadState>,
        execs: Vec<ExecState>,
    },
    Strays(Vec<String>),
    /// Descriptor: the terminal's master, for a terminal.
    Exec {
        pid: i32,
    },
    /// Descriptor: the stream socket (see `Chunk`).
    Attached {
        /// How the workload ended, if it has: nothing comes over the stream then.
        exit: Option<Exit>,
    },
}

/// A command in a container, until its exit code was seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExecState {
    pub(crate) exec: String,
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
    pub(crate) code: Option<i32>,
    /// Nobody waits for its end: it is forgotten then.
    #[serde(default)]
    pub(crate) unwatched: bool,
}

/// Heads of what goes over an attached stream: a kind and a length, then so many bytes.
pub(crate) mod chunk {
    /// Data for stdin.
    pub(crate) const STDIN: u8 = 0;
    /// Data of stdout or of the terminal.
    pub(crate) const STDOUT: u8 = 1;
    /// Data of stderr.
    pub(crate) const STDERR: u8 = 2;
    /// The attacher leaves, and its stdin with it.
    pub(crate) const END: u8 = 3;
    /// Bytes before the data.
    pub(crate) const HEADER: usize = 5;
    /// Longest data of one chunk.
    pub(crate) const MAX: usize = 64 << 10;

    pub(crate) fn header(kind: u8, length: usize) -> [u8; HEADER] {
        let length = (length as u32).to_be_bytes();
        [kind, length[0], length[1], length[2], length[3]]
    }

    /// Splits the next whole chunk off: its kind and its length after the header. `None` wants more bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Result<(u8, usize), ()>> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > MAX || header[0] > END {
            return Some(Err(()));
        }
        (rest.len() >= length).then_some(Ok((header[0], length)))
    }
}
