//! A workload in the supervisor's memory.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cirro_sys::process;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::record::Record;
use crate::log::{LogWriter, Splitter};
use crate::request::Stdio;
use crate::runtime::{Streams, WorkloadDirectory};

/// Which of a workload's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Also the terminal.
    Stdout,
    Stderr,
}

impl Which {
    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// The name under which the guardian keeps it.
    pub(super) fn kept_name(self, id: &str) -> String {
        format!("{id}:{}", if self == Self::Stdout { "o" } else { "e" })
    }

    /// The file that holds the beginning of an unfinished line.
    pub(super) fn partial_file(self) -> &'static str {
        if self == Self::Stdout { "stdout.partial" } else { "stderr.partial" }
    }
}

/// The name under which the guardian keeps a stdin.
pub(super) fn kept_input_name(id: &str) -> String {
    format!("{id}:i")
}

/// The reading end of an output.
pub(super) struct Output {
    pub(super) descriptor: OwnedFd,
    /// In the epoll set, unless it is stalled.
    pub(super) token: Option<u64>,
    pub(super) splitter: Splitter,
    /// Whether the partial file holds something.
    pub(super) partial_saved: bool,
}

/// The writing end of stdin.
pub(super) struct Input {
    pub(super) descriptor: OwnedFd,
    /// In the epoll set while something waits.
    pub(super) token: Option<u64>,
    pub(super) queue: VecDeque<u8>,
    /// Closes when the queue is empty.
    pub(super) ending: bool,
}

/// One workload.
pub(super) struct Workload {
    pub(super) record: Record,
    pub(super) directory: WorkloadDirectory,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) log: Option<LogWriter>,
    pub(super) outputs: [Option<Output>; 2],
    pub(super) input: Option<Input>,
    /// Tokens of those who watch.
    pub(super) attachers: Vec<u64>,
    /// An attacher is slow: outputs are not read until it has caught up.
    pub(super) stalled: bool,
    /// Who waits for it to be gone: connection and sequence.
    pub(super) deleting: Vec<(u64, u64)>,
}

impl Workload {
    pub(super) fn new(record: Record, directory: WorkloadDirectory) -> Self {
        Self {
            record,
            directory,
            pidfd: None,
            log: None,
            outputs: [None, None],
            input: None,
            attachers: Vec::new(),
            stalled: false,
            deleting: Vec::new(),
        }
    }

    pub(super) fn save(&self) {
        if let Err(error) = self.record.save(self.directory.path()) {
            eprintln!("supervisor: save state of {}: {error}", self.record.id);
        }
    }

    /// Opens the log; a workload without one is no less a workload.
    pub(super) fn open_log(&mut self) {
        self.log = self.record.log.clone().and_then(|settings| match LogWriter::open(settings) {
            Ok(log) => Some(log),
            Err(error) => {
                eprintln!("supervisor: open log of {}: {error}", self.record.id);
                None
            }
        });
    }

    /// Takes hold of the first process.
    pub(super) fn hold(&mut self, pid: i32) {
        self.pidfd = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    }

    pub(super) fn set_output(&mut self, which: Which, descriptor: OwnedFd, partial: Vec<u8>) {
        set_nonblocking(&descriptor);
        let partial_saved = !partial.is_empty();
        let splitter = Splitter::resume(partial);
        self.outputs[which.index()] = Some(Output { descriptor, token: None, splitter, partial_saved });
    }

    pub(super) fn set_input(&mut self, descriptor: OwnedFd) {
        set_nonblocking(&descriptor);
        self.input = Some(Input { descriptor, token: None, queue: VecDeque::new(), ending: false });
    }

    /// Sends a signal to the first process.
    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        match (&self.pidfd, self.record.process) {
            (Some(pidfd), _) => process::send_signal_to(pidfd, signal),
            (None, Some((pid, start))) if crate::process::exists(pid, start) => {
                process::send_signal(pid, signal)
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn set_nonblocking(descriptor: impl AsFd) {
    if let Ok(flags) = rustix::fs::fcntl_getfl(&descriptor) {
        let _ = rustix::fs::fcntl_setfl(&descriptor, flags | rustix::fs::OFlags::NONBLOCK);
    }
}

/// Our ends of a workload's pipes.
pub(super) struct Plumbing {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Makes a workload's pipes; a terminal has none.
pub(super) fn lay_pipes(stdio: &Stdio) -> io::Result<(Option<Plumbing>, Streams)> {
    if stdio.tty {
        return Ok((None, Streams::default()));
    }
    let (stdout, far_stdout) = output_pipe()?;
    let (stderr, far_stderr) = output_pipe()?;
    let (stdin, far_stdin) = if stdio.stdin {
        let (far, near) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        (Some(near), Some(far))
    } else {
        (None, None)
    };
    let streams = Streams { stdin: far_stdin, stdout: Some(far_stdout), stderr: Some(far_stderr) };
    Ok((Some(Plumbing { stdin, stdout, stderr }), streams))
}

/// The workload's end is opened for reading too: it is its own reader while no supervisor lives, so it gets no EPIPE.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    use std::os::fd::AsRawFd;
    let (near, far) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let far =
        rustix::fs::open(format!("/proc/self/fd/{}", far.as_raw_fd()), flags, rustix::fs::Mode::empty())?;
    Ok((near, far))
}
