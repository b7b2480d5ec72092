//! Hijacked connections: attach and exec turn an HTTP connection into the streams of a process.
//!
//! ## Theory of operation
//! ```text
//! client ── stdin bytes ──▶ [detach keys] ──▶ session.input      end of file closes the process' stdin only
//! client ◀── raw or frames ── replayed log, then session.output  its end closes the connection
//! ```
//! With `Upgrade` the answer is 101 and the socket is ours. Without it the answer is a 200 whose body is the
//! output, and the request's body is stdin.
//!
//! The connection ends with the output, whatever the client still holds open: first our write side, then, after
//! what the client still sends has been thrown away, the socket. (A socket that is closed with unread bytes in it
//! resets, and a reset can cost the client the last lines.)

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use cirro_container::LogEntry;
use cirro_engine::Engine;
use cirro_seams::node::Session;
use futures_util::TryStreamExt;
use http::{HeaderValue, Request, StatusCode, header};
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::Lifetime;
use crate::frame::Wanted;
use crate::peer::{self, Connection};

pub(crate) mod detach;

use detach::DetachKeys;

/// Bytes of stdin that are read at once.
const STDIN_PIECE: usize = 32 << 10;
/// How long a client may take to close after the output has ended.
const LINGER: Duration = Duration::from_secs(10);
/// How long an exec's exit code may take to follow the end of its output.
const EXIT_TIME: Duration = Duration::from_secs(10);

/// What flows over a hijacked connection.
pub(crate) struct Exchange {
    /// The process' streams.
    pub(crate) session: Session,
    /// What the client gets.
    pub(crate) wanted: Wanted,
    /// Log that goes out before the live output.
    pub(crate) replay: Option<mpsc::Receiver<LogEntry>>,
    /// Keys that detach a terminal.
    pub(crate) detach_keys: Option<DetachKeys>,
    /// Who hears of a client that detaches.
    pub(crate) on_detach: OnDetach,
    /// Whether the exit code must be known before the connection ends: clients ask for it right after.
    pub(crate) await_exit: bool,
}

/// Tells in the events that a client has pressed the detach keys.
pub(crate) type OnDetach = Box<dyn Fn() + Send + Sync>;

/// Returns what tells that a client has left a container, or a command in it.
pub(crate) fn on_detach(engine: &Engine, container: &str, exec: Option<String>) -> OnDetach {
    let (engine, container) = (engine.clone(), container.to_owned());
    Box::new(move || match &exec {
        None => engine.tell(&container, "detach", &[]),
        Some(exec) => engine.tell(&container, "exec_detach", &[("execID", exec.clone())]),
    })
}

/// The wish of a request to become a stream; taken before its body is read.
pub(crate) struct Hijack(Option<OnUpgrade>);

impl Hijack {
    /// Takes the upgrade out of a request.
    pub(crate) fn of(request: &mut Request<Body>) -> Self {
        let asked = request.headers().contains_key(header::UPGRADE)
            && request.extensions().get::<OnUpgrade>().is_some();
        Self(asked.then(|| hyper::upgrade::on(request)))
    }

    /// Answers the request at once and lets the exchange run as soon as it is there. `body` is stdin when there is no
    /// upgrade.
    pub(crate) fn answer(
        self,
        lifetime: &Lifetime,
        content_type: &'static str,
        body: Body,
        exchange: impl Future<Output = Exchange> + Send + 'static,
    ) -> Response {
        match self.0 {
            Some(upgrade) => switch(lifetime, content_type, upgrade, exchange),
            None => stream(lifetime, content_type, body, exchange),
        }
    }
}

/// Answers 101 and takes the socket over.
fn switch(
    lifetime: &Lifetime,
    content_type: &'static str,
    upgrade: OnUpgrade,
    exchange: impl Future<Output = Exchange> + Send + 'static,
) -> Response {
    let closing = lifetime.closing.clone();
    lifetime.tasks.spawn(async move {
        // What is being started is started also when the daemon is about to end.
        let (upgraded, exchange) = tokio::join!(upgrade, exchange);
        let run = async {
            let Ok(upgraded) = upgraded else { return };
            let (connection, watched) = peer::open(upgraded);
            peer::has_read(watched.as_ref()).await;
            exchange.run(connection, peer::gone(watched)).await;
        };
        let _ = closing.run_until_cancelled(run).await;
    });
    let mut response = (
        StatusCode::SWITCHING_PROTOCOLS,
        [(header::CONTENT_TYPE, content_type), (header::CONNECTION, "Upgrade"), (header::UPGRADE, "tcp")],
    )
        .into_response();
    response.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
    response
}

/// Answers 200 with the output as the body.
fn stream(
    lifetime: &Lifetime,
    content_type: &'static str,
    body: Body,
    exchange: impl Future<Output = Exchange> + Send + 'static,
) -> Response {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let stdin = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    let closing = lifetime.closing.clone();
    lifetime.tasks.spawn(async move {
        let exchange = exchange.await;
        let run = async {
            let connection = tokio::io::join(Box::pin(stdin), ours);
            exchange.run(Box::new(connection), std::future::pending()).await;
        };
        let _ = closing.run_until_cancelled(run).await;
    });
    let mut response = Response::new(Body::from_stream(ReaderStream::new(theirs)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

impl Exchange {
    /// Runs until the output ends, the client detaches or the client is `gone`.
    pub(crate) async fn run(self, connection: Box<dyn Connection>, gone: impl Future<Output = ()>) {
        let Session { input, output, exit, resize } = self.session;
        let (mut reader, mut writer) = tokio::io::split(connection);
        let ended = {
            let stdin = forward_stdin(&mut reader, input, self.detach_keys);
            let stdout = async {
                forward_log(self.replay, self.wanted, &mut writer).await?;
                forward_output(output, self.wanted, &mut writer).await
            };
            tokio::select! {
                result = stdout => result.is_ok(),
                () = detached(stdin) => {
                    (self.on_detach)();
                    false
                }
                () = gone => return,
            }
        };
        if ended && self.await_exit {
            let _: Result<Result<i32, oneshot::error::RecvError>, _> =
                tokio::time::timeout(EXIT_TIME, exit).await;
        }
        drop(resize);
        finish(reader, writer).await;
    }
}

/// How the client's side of stdin ended.
#[derive(Debug, PartialEq, Eq)]
enum StdinEnd {
    /// End of file, or nobody takes it any more.
    Closed,
    /// The client pressed the detach keys.
    Detached,
}

/// Resolves only when stdin ended by the detach keys.
async fn detached(stdin: impl Future<Output = StdinEnd>) {
    match stdin.await {
        StdinEnd::Detached => (),
        StdinEnd::Closed => std::future::pending().await,
    }
}

async fn forward_stdin(
    reader: &mut (impl AsyncRead + Unpin),
    input: Option<mpsc::Sender<Bytes>>,
    mut keys: Option<DetachKeys>,
) -> StdinEnd {
    loop {
        let mut piece = BytesMut::with_capacity(STDIN_PIECE);
        if !matches!(reader.read_buf(&mut piece).await, Ok(1..)) {
            return StdinEnd::Closed;
        }
        let piece = piece.freeze();
        let (piece, detach) = match &mut keys {
            Some(keys) => keys.scan(piece),
            None => (piece, false),
        };
        // Without a stdin the bytes are thrown away, but the detach keys still count.
        if let Some(input) = &input
            && !piece.is_empty()
            && input.send(piece).await.is_err()
        {
            return StdinEnd::Closed;
        }
        if detach {
            return StdinEnd::Detached;
        }
    }
}

async fn forward_log(
    replay: Option<mpsc::Receiver<LogEntry>>,
    wanted: Wanted,
    writer: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let Some(mut replay) = replay else { return Ok(()) };
    while let Some(entry) = replay.recv().await {
        if let Some(bytes) = wanted.encode(entry.into_output()) {
            writer.write_all(&bytes).await?;
        }
    }
    Ok(())
}

/// A log entry as output.
pub(crate) trait IntoOutput {
    /// Returns the bytes with the stream that they came from.
    fn into_output(self) -> cirro_seams::node::Output;
}

impl IntoOutput for LogEntry {
    fn into_output(self) -> cirro_seams::node::Output {
        match self.stderr {
            true => cirro_seams::node::Output::Stderr(self.line),
            false => cirro_seams::node::Output::Stdout(self.line),
        }
    }
}

async fn forward_output(
    mut output: mpsc::Receiver<cirro_seams::node::Output>,
    wanted: Wanted,
    writer: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    while let Some(piece) = output.recv().await {
        if let Some(bytes) = wanted.encode(piece) {
            writer.write_all(&bytes).await?;
        }
    }
    Ok(())
}

/// Ends our side and gives the client time to end its own.
async fn finish(mut reader: impl AsyncRead + Unpin, mut writer: impl AsyncWrite + Unpin) {
    let _ = writer.shutdown().await;
    let rest = async {
        let mut scrap = [0; 4096];
        while matches!(reader.read(&mut scrap).await, Ok(1..)) {}
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

#[cfg(test)]
mod tests;
