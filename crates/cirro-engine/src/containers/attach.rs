//! Attaching to a container's streams, before and after its start.
//!
//! A client attaches before it starts the container, when there is no process yet: it gets a session of ours, which is
//! joined to the process' own between its making and its start, so that no byte is lost.

use bytes::Bytes;
use cirro_seams::node::{Output, Session};
use tokio::sync::{mpsc, oneshot};

use super::is_active;
use crate::Engine;
use crate::error::EngineError;

const CHANNEL: usize = 32;
const MAX_PENDING: usize = 64;

/// Our ends of a session whose process does not exist yet.
pub(crate) struct PendingAttach {
    stdin: bool,
    input: Option<mpsc::Receiver<Bytes>>,
    output: mpsc::Sender<Output>,
    resize: mpsc::Receiver<(u16, u16)>,
    exit: oneshot::Sender<i32>,
}

fn pending_session(stdin: bool) -> (PendingAttach, Session) {
    let (input_sender, input) = mpsc::channel(CHANNEL);
    let (output, output_receiver) = mpsc::channel(CHANNEL);
    let (resize_sender, resize) = mpsc::channel(4);
    let (exit, exit_receiver) = oneshot::channel();
    let session = Session {
        input: stdin.then_some(input_sender),
        output: output_receiver,
        resize: resize_sender,
        exit: exit_receiver,
    };
    (PendingAttach { stdin, input: stdin.then_some(input), output, resize, exit }, session)
}

impl PendingAttach {
    /// Carries bytes between the client's session and the process' until the process ends or the client leaves.
    async fn join(self, session: Session) {
        let Self { input, output, mut resize, exit, .. } = self;
        let Session { input: to, output: mut from, resize: to_resize, exit: ended } = session;
        let inward = async {
            if let (Some(mut input), Some(to)) = (input, to) {
                while let Some(bytes) = input.recv().await {
                    if to.send(bytes).await.is_err() {
                        break;
                    }
                }
            }
            std::future::pending::<()>().await;
        };
        let sizes = async {
            while let Some(size) = resize.recv().await {
                if to_resize.send(size).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let outward = async {
            loop {
                tokio::select! {
                    chunk = from.recv() => match chunk {
                        Some(chunk) => if output.send(chunk).await.is_err() { return false },
                        None => return true,
                    },
                    () = output.closed() => return false,
                }
            }
        };
        let whole = tokio::select! {
            whole = outward => whole,
            () = inward => false,
            () = sizes => false,
        };
        if whole && let Ok(code) = ended.await {
            let _ = exit.send(code);
        }
    }
}

impl Engine {
    /// Attaches to its streams from now on; before the start: from the first byte.
    pub async fn attach_container(&self, name: &str, stdin: bool) -> Result<Session, EngineError> {
        let id = self.find_id(name)?;
        // Not in the middle of a start, or the session would be with neither.
        let _guard = self.lock_container(&id).await?;
        {
            let mut table = self.table();
            let entry = table.get_mut(&id).ok_or_else(|| EngineError::no_container(name))?;
            let stdin = stdin && entry.record.container.spec.open_stdin;
            if !is_active(entry.record.container.phase) {
                entry.pending.retain(|pending| !pending.output.is_closed());
                if entry.pending.len() >= MAX_PENDING {
                    return Err(EngineError::Conflict(format!("too many clients are attached to {name}")));
                }
                let (pending, session) = pending_session(stdin);
                entry.pending.push(pending);
                return Ok(session);
            }
        }
        let stdin = stdin && self.container(&id)?.spec.open_stdin;
        Ok(self.shared.supervisor.attach(&id, stdin).await?)
    }

    /// Joins everybody who attached before the start to the process that was just made.
    pub(super) async fn join_pending(&self, id: &str) -> Result<(), EngineError> {
        let pending = match self.table().get_mut(id) {
            Some(entry) => std::mem::take(&mut entry.pending),
            None => return Ok(()),
        };
        for attach in pending {
            if attach.output.is_closed() {
                continue;
            }
            let session = self.shared.supervisor.attach(id, attach.stdin).await?;
            let cancelled = self.shared.cancelled.clone();
            self.shared.tasks.spawn(async move { cancelled.run_until_cancelled(attach.join(session)).await });
        }
        Ok(())
    }

    /// Sets the size of its terminal.
    pub async fn resize_container(&self, name: &str, columns: u16, rows: u16) -> Result<(), EngineError> {
        let container = {
            let mut table = self.table();
            let id = table.find(name)?.to_owned();
            let entry = table.get_mut(&id).ok_or_else(|| EngineError::no_container(name))?;
            entry.size = Some((columns, rows));
            if !is_active(entry.record.container.phase) {
                return Ok(());
            }
            entry.record.container.clone()
        };
        // Without a terminal there is nothing to do, and containerd calls that done.
        if container.spec.tty {
            self.shared.supervisor.resize(&container.id, columns, rows).await?;
        }
        let size = [("height", rows.to_string()), ("width", columns.to_string())];
        self.emit_container("resize", &container, &size);
        Ok(())
    }
}
