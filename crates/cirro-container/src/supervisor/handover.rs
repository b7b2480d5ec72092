//! Becoming another executable without anybody noticing: same process, same descriptors.
//!
//! ```text
//!  Upgrade ─▶ nothing new is begun ─▶ jobs, helpers, removals end ─▶ state into memory, descriptors kept over exec ─▶ execveat
//!                                                                        │ fails: we go on, and say so
//!  answer ◀─ connections and attachers go on ◀─ workloads are adopted ◀──┘ the other executable
//! ```
//! Workloads are adopted by the code that adopts them after a crash, with inherited descriptors in place of the guardian's. A
//! successor that cannot read the state starts as after a crash; only when it has taken over is the guardian given the new
//! executable, so that one that does not work is not started again.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use cirro_sys::process;
use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};

use super::attachers::HandedAttacher;
use super::connections::HandedConnection;
use super::event_loop::EventLoop;
use super::workload::{Which, kept_input_name};
use crate::error::ContainerError;
use crate::guardian::EXECUTABLE;
use crate::protocol::{Reply, VERSION};

/// Form of what is handed over.
const FORM: u32 = 1;
/// Connections may have some megabytes waiting each.
const MOST_STATE: u64 = 2 << 30;

/// Who asked for it, and the executable.
pub(super) struct Upgrade {
    from: (u64, u64),
    executable: OwnedFd,
}

/// What one program leaves for the next, beside the workloads' records.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    form: u32,
    /// What greeted connections speak.
    protocol: u32,
    pub(super) next_token: u64,
    listener: Option<RawFd>,
    answer: (u64, u64),
    /// Streams of workloads by the names under which the guardian keeps them.
    kept: BTreeMap<String, RawFd>,
    connections: Vec<HandedConnection>,
    attachers: Vec<HandedAttacher>,
    /// What waits for a stdin, and whether it closes then.
    inputs: Vec<(String, Vec<u8>, bool)>,
    /// Who waits for a workload to be gone.
    deleting: Vec<(String, Vec<(u64, u64)>)>,
}

impl EventLoop {
    /// Takes an order to become another executable; it is done when all that is under way has ended.
    pub(super) fn begin_upgrade(
        &mut self,
        from: (u64, u64),
        mut descriptors: Vec<OwnedFd>,
    ) -> Option<Result<Reply, ContainerError>> {
        let refuse = |text: &str| Some(Err(ContainerError::State(text.to_owned())));
        let Some(executable) = descriptors.pop() else { return refuse("an upgrade wants an executable") };
        if self.upgrade.is_some() {
            return refuse("an upgrade is under way");
        }
        self.upgrade = Some(Upgrade { from, executable });
        self.rewatch_clients();
        None
    }

    /// Becomes another executable if that was asked for and nothing is under way. Returns only if not, or if it failed.
    pub(super) fn hand_over_if_quiet(&mut self) {
        let making = !self.jobs.is_empty() || !self.helpers.is_empty() || !self.launches.is_empty();
        if making || !self.removals.is_empty() {
            return;
        }
        let Some(upgrade) = self.upgrade.take() else { return };
        let Err(error) = self.hand_over(&upgrade);
        eprintln!("supervisor: upgrade: {error}");
        self.rewatch_clients();
        self.reply(upgrade.from, Err(ContainerError::runtime("upgrade", &error)));
        let tokens: Vec<u64> = self.connections.keys().copied().collect();
        for token in tokens {
            if self.handle_frames(token).is_err() {
                self.let_go(token);
            }
        }
    }

    fn hand_over(&mut self, upgrade: &Upgrade) -> io::Result<std::convert::Infallible> {
        let compressed: Vec<String> = self.workloads.keys().cloned().collect();
        compressed.iter().for_each(|id| self.stop_compression(id));
        let state = self.state(upgrade.from);
        let memory: File = rustix::fs::memfd_create("handover", rustix::fs::MemfdFlags::CLOEXEC)?.into();
        serde_json::to_writer(io::BufWriter::new(&memory), &state)?;
        let guardian = self.guardian.as_ref().ok_or_else(|| io::Error::other("there is no guardian"))?;
        let command = [
            "cirro".to_owned(),
            "supervisor".to_owned(),
            "--run-dir".to_owned(),
            self.directory.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned(),
            "--name".to_owned(),
            self.name.clone(),
            "--executable-descriptor".to_owned(),
            upgrade.executable.as_raw_fd().to_string(),
            "--handover-descriptor".to_owned(),
            memory.as_raw_fd().to_string(),
        ];
        let command = command.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let mut kept = self.handed_descriptors();
        kept.extend([guardian.socket(), upgrade.executable.as_fd(), memory.as_fd()]);
        for descriptor in &kept {
            rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        let error = process::execute_descriptor(&upgrade.executable, &command, &[]);
        for descriptor in &kept {
            let _ = rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC);
        }
        Err(error)
    }

    fn state(&self, answer: (u64, u64)) -> State {
        let mut kept = BTreeMap::new();
        let (mut inputs, mut deleting) = (Vec::new(), Vec::new());
        for (id, workload) in &self.workloads {
            for which in [Which::Stdout, Which::Stderr] {
                if let Some(output) = &workload.outputs[which.index()] {
                    kept.insert(which.kept_name(id), output.descriptor.as_raw_fd());
                }
            }
            if let Some(input) = &workload.input {
                if !workload.record.stdio.tty {
                    kept.insert(kept_input_name(id), input.descriptor.as_raw_fd());
                }
                inputs.push((id.clone(), input.queue.iter().copied().collect(), input.ending));
            }
            if !workload.deleting.is_empty() {
                deleting.push((id.clone(), workload.deleting.clone()));
            }
        }
        State {
            form: FORM,
            protocol: VERSION,
            next_token: self.next_token,
            listener: self.listener.as_ref().map(AsRawFd::as_raw_fd),
            answer,
            kept,
            connections: self.connections.iter().map(|(token, one)| one.handed(*token)).collect(),
            attachers: self.attachers.iter().map(|(token, one)| one.handed(*token)).collect(),
            inputs,
            deleting,
        }
    }

    /// Every descriptor that [`state`](Self::state) names.
    fn handed_descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all: Vec<BorrowedFd<'_>> = self.listener.iter().map(AsFd::as_fd).collect();
        for workload in self.workloads.values() {
            all.extend(workload.outputs.iter().flatten().map(|output| output.descriptor.as_fd()));
            // A terminal's input is a copy of its output.
            let input = workload.input.iter().filter(|_| !workload.record.stdio.tty);
            all.extend(input.map(|input| input.descriptor.as_fd()));
        }
        all.extend(self.connections.values().flat_map(|connection| connection.descriptors()));
        all.extend(self.attachers.values().map(|attacher| attacher.socket()));
        all
    }

    /// Takes over from the program that this process was.
    pub(super) fn take_over(&mut self, state: State, executable: Option<OwnedFd>) -> io::Result<()> {
        if let Some(number) = state.listener {
            self.listen(process::inherited_descriptor(number)?.into())?;
        }
        let kept = state.kept.into_iter().map(|(name, number)| {
            let descriptor = process::inherited_descriptor(number)?;
            Ok((name, descriptor))
        });
        self.adopt_from_self(kept.collect::<io::Result<_>>()?)?;
        for connection in state.connections {
            self.take_connection(connection, state.protocol == VERSION)?;
        }
        for attacher in state.attachers {
            self.take_attacher(attacher)?;
        }
        for (id, queue, ending) in state.inputs {
            if let Some(input) = self.workloads.get_mut(&id).and_then(|workload| workload.input.as_mut()) {
                input.queue.extend(queue);
                input.ending = ending;
                self.feed(&id);
            }
        }
        for (id, waiting) in state.deleting {
            if let Some(workload) = self.workloads.get_mut(&id) {
                workload.deleting = waiting;
            }
        }
        if let (Some(guardian), Some(executable)) = (&self.guardian, executable) {
            guardian.keep(EXECUTABLE, executable);
        }
        self.reap();
        self.reply(state.answer, Ok(Reply::Done));
        let tokens: Vec<u64> = self.connections.keys().copied().collect();
        for token in tokens {
            if self.handle_frames(token).is_err() {
                self.let_go(token);
            }
        }
        Ok(())
    }
}

/// Reads what a predecessor in this process left.
pub(super) fn read_state(number: RawFd) -> io::Result<State> {
    let mut memory: File = process::inherited_descriptor(number)?.into();
    memory.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    memory.take(MOST_STATE).read_to_end(&mut bytes)?;
    let state: State = serde_json::from_slice(&bytes)?;
    if state.form != FORM {
        return Err(io::Error::other(format!("it is of form {}, not {FORM}", state.form)));
    }
    Ok(state)
}
