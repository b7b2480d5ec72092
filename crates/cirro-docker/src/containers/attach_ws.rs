//! `GET /containers/{name}/attach/ws`: a container's streams over a websocket, raw in both directions.

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use bytes::Bytes;
use cirro_seams::node::{Output, Session};
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};

use super::attach;
use crate::Face;
use crate::error::Answer;
use crate::hijack::Exchange;
use crate::query::Params;

/// Longest message that a client may send at once.
const MAX_MESSAGE: usize = 1 << 20;

/// Connects the client with a container's streams.
pub(crate) async fn attach_ws(
    State(face): State<Face>,
    Path(name): Path<String>,
    params: Params,
    upgrade: WebSocketUpgrade,
) -> Answer {
    let exchange = attach::exchange(&face, &name, &params).await?;
    let closing = face.lifetime.closing.clone();
    Ok(upgrade.max_message_size(MAX_MESSAGE).on_upgrade(async move |socket| {
        let _ = closing.run_until_cancelled(run(socket, exchange)).await;
    }))
}

/// Carries bytes until the output ends, the client leaves or presses the detach keys.
async fn run(socket: WebSocket, exchange: Exchange) {
    let Exchange { session, replay, wanted, detach_keys, on_detach, .. } = exchange;
    let Session { input, mut output, .. } = session;
    let (mut sink, mut messages) = socket.split();
    let outward = async {
        if let Some(mut replay) = replay {
            while let Some(entry) = replay.recv().await {
                let shown = if entry.stderr { wanted.stderr } else { wanted.stdout };
                if shown && !send(&mut sink, entry.line).await {
                    return;
                }
            }
        }
        while let Some(piece) = output.recv().await {
            let (shown, bytes) = match piece {
                Output::Stdout(bytes) => (wanted.stdout, bytes),
                Output::Stderr(bytes) => (wanted.stderr, bytes),
            };
            if shown && !send(&mut sink, bytes).await {
                return;
            }
        }
    };
    let inward = async {
        let mut keys = detach_keys;
        while let Some(Ok(message)) = messages.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            let (bytes, detach) = match &mut keys {
                Some(keys) => keys.scan(bytes),
                None => (bytes, false),
            };
            if let Some(input) = &input
                && !bytes.is_empty()
                && input.send(bytes).await.is_err()
            {
                // The process has closed its input; its output may go on.
                std::future::pending::<()>().await;
            }
            if detach {
                on_detach();
                return;
            }
        }
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
    let _ = sink.close().await;
}

async fn send(sink: &mut SplitSink<WebSocket, Message>, bytes: Bytes) -> bool {
    sink.send(Message::Binary(bytes)).await.is_ok()
}
