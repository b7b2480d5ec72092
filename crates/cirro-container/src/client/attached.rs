//! Attaching to a workload's own streams, over a socket to the supervisor.
//!
//! When the supervisor is lost the session attaches to its successor; what was said between is in the log only.

use std::io;

use bytes::{Bytes, BytesMut};
use cirro_seams::node::{Output, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::link::Watch;
use super::{Supervisor, unexpected};
use crate::error::ContainerError;
use crate::protocol::{Reply, Request, chunk};
use crate::workload::Exit;

/// Chunks of at most 64 KiB that wait for a slow reader.
const WAITING: usize = 16;

pub(super) async fn attach(
    supervisor: &Supervisor,
    id: &str,
    stdin: bool,
) -> Result<Session, ContainerError> {
    let (code, ended) = oneshot::channel();
    let watch = Watch::Workload { id: id.to_owned(), code };
    let (socket, before) = open(supervisor, id, stdin, Some(watch)).await?;
    let (output, outputs) = mpsc::channel(WAITING);
    let (input, inputs) = mpsc::channel(WAITING);
    let (resize, sizes) = mpsc::channel(4);
    let (exit, exited) = oneshot::channel();
    tokio::spawn(async move {
        // One that had ended before gets no event.
        let code = match before {
            Some(before) => before.code,
            None => ended.await.ok(),
        };
        code.map(|code| exit.send(code))
    });
    tokio::spawn(pass_on_sizes(supervisor.clone(), id.to_owned(), sizes));
    let streams = Streams { supervisor: supervisor.clone(), id: id.to_owned(), stdin, output, inputs };
    tokio::spawn(streams.run(socket));
    Ok(Session { input: stdin.then_some(input), output: outputs, resize, exit: exited })
}

async fn open(
    supervisor: &Supervisor,
    id: &str,
    stdin: bool,
    watch: Option<Watch>,
) -> Result<(UnixStream, Option<Exit>), ContainerError> {
    let request = Request::Attach { id: id.to_owned(), stdin };
    let (reply, mut descriptors) = supervisor.call(request, Vec::new(), watch).await?;
    let (Reply::Attached { exit }, Some(socket)) = (&reply, descriptors.pop()) else {
        return Err(unexpected(&reply));
    };
    let socket = UnixStream::from_std(socket.into());
    Ok((socket.map_err(|error| ContainerError::runtime("attach", &error))?, exit.clone()))
}

async fn pass_on_sizes(supervisor: Supervisor, id: String, mut sizes: mpsc::Receiver<(u16, u16)>) {
    while let Some((columns, rows)) = sizes.recv().await {
        let _ = supervisor.resize(&id, columns, rows).await;
    }
}

struct Streams {
    supervisor: Supervisor,
    id: String,
    stdin: bool,
    output: mpsc::Sender<Output>,
    inputs: mpsc::Receiver<Bytes>,
}

impl Streams {
    async fn run(mut self, mut socket: UnixStream) {
        loop {
            let (reader, writer) = socket.into_split();
            let left = tokio::select! {
                left = read(reader, &self.output) => left,
                () = write(writer, &mut self.inputs, self.stdin) => true,
                () = self.output.closed() => true,
            };
            if left || !self.still_lives().await {
                return;
            }
            match open(&self.supervisor, &self.id, self.stdin, None).await {
                Ok((again, _)) => socket = again,
                Err(_) => return,
            }
        }
    }

    /// Whether the stream's end was the supervisor's, not the workload's.
    async fn still_lives(&self) -> bool {
        // A list that was lost on the way is asked for again: that waits for the successor.
        for _ in 0..3 {
            if let Ok(list) = self.supervisor.list().await {
                return list.iter().any(|state| state.id == self.id && state.exit.is_none());
            }
        }
        false
    }
}

/// Returns true when the reader has left, false at the end of the stream.
async fn read(mut reader: OwnedReadHalf, output: &mpsc::Sender<Output>) -> bool {
    let mut buffer = BytesMut::with_capacity(chunk::MAX);
    loop {
        match chunk::parse(&buffer) {
            Some(Ok((kind, length))) => {
                let mut whole = buffer.split_to(chunk::HEADER + length);
                let data = whole.split_off(chunk::HEADER).freeze();
                let data = if kind == chunk::STDERR { Output::Stderr(data) } else { Output::Stdout(data) };
                if output.send(data).await.is_err() {
                    return true;
                }
            }
            Some(Err(())) => return false,
            None => match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            },
        }
    }
}

/// Writes what comes for stdin. Never returns before the stream's end: the reader tells of that, except that a session whose
/// input was dropped goes on listening.
async fn write(mut writer: OwnedWriteHalf, inputs: &mut mpsc::Receiver<Bytes>, stdin: bool) {
    if stdin {
        while let Some(bytes) = inputs.recv().await {
            for bytes in bytes.chunks(chunk::MAX) {
                if send(&mut writer, chunk::STDIN, bytes).await.is_err() {
                    return std::future::pending().await;
                }
            }
        }
        let _ = send(&mut writer, chunk::END, &[]).await;
    }
    std::future::pending().await
}

async fn send(writer: &mut OwnedWriteHalf, kind: u8, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(&chunk::header(kind, bytes.len())).await?;
    writer.write_all(bytes).await
}
