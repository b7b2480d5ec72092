//! A websocket as plain bytes: each binary message is the next piece of them.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::BytesMut;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};

/// Bytes on their way in each direction.
const PIPE: usize = 64 * 1024;
/// How long a client gets to answer the end.
const LINGER: Duration = Duration::from_secs(5);

/// Returns the other end of a websocket.
pub(super) fn bytes_of(socket: WebSocket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(PIPE);
    tokio::spawn(carry(socket, theirs));
    ours
}

async fn carry(socket: WebSocket, pipe: DuplexStream) {
    let (sink, stream) = socket.split();
    let (read, write) = tokio::io::split(pipe);
    let mut incoming = std::pin::pin!(incoming(stream, write));
    tokio::select! {
        () = incoming.as_mut() => {}
        () = outgoing(read, sink) => {
            let _ = tokio::time::timeout(LINGER, incoming).await;
        }
    }
}

async fn incoming(mut stream: SplitStream<WebSocket>, mut pipe: WriteHalf<DuplexStream>) {
    while let Some(Ok(message)) = stream.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => break,
            Message::Text(_) => break,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        if pipe.write_all(&bytes).await.is_err() {
            // Nobody listens any more; the close of the other side is still to come.
            continue;
        }
    }
    let _ = pipe.shutdown().await;
}

async fn outgoing(mut pipe: ReadHalf<DuplexStream>, mut sink: SplitSink<WebSocket, Message>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIPE / 2);
        match pipe.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
            return;
        }
    }
    let end = CloseFrame { code: axum::extract::ws::close_code::NORMAL, reason: "".into() };
    let _ = sink.send(Message::Close(Some(end))).await;
}
