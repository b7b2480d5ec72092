//! Answers that flow: JSON lines for those who wait, and raw bytes, both flushed as they come.

use std::io;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{StatusCode, header};
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;

use crate::Face;

/// Content type of JSON lines, as dockerd sends it.
const JSON: &str = "application/json";

/// Writes one JSON line.
pub(crate) fn line(value: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(value).expect("our own values serialize");
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}

/// Writes the line that tells an error after the 200 has gone out.
pub(crate) fn error_line(message: &str) -> Bytes {
    line(&json!({ "errorDetail": { "message": message }, "error": message }))
}

/// Answers 200 with JSON lines; the head goes out at once. The stream ends with the server.
pub(crate) fn json_lines(face: &Face, lines: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    flowing(face, JSON, lines.map(Ok))
}

/// Answers 200 with bytes as they come. An error cuts the connection, so that the client knows.
pub(crate) fn flowing(
    face: &Face,
    content_type: &'static str,
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response {
    let pieces = pieces.take_until(face.lifetime.closing.clone().cancelled_owned());
    Response::builder()
        .status(StatusCode::OK)
        .header(header::CONTENT_TYPE, content_type)
        .body(Body::from_stream(pieces))
        .expect("the head is made of constants")
}

/// Turns a channel into a stream; dropping the stream closes the channel.
pub(crate) fn received<T: Send + 'static>(
    receiver: mpsc::Receiver<T>,
) -> impl Stream<Item = T> + Send + use<T> {
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}

/// Turns a channel of bytes, the last of which may be an error, into the pieces of an answer.
pub(crate) fn pieces(
    receiver: mpsc::Receiver<Result<Bytes, String>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    received(receiver).map(|piece| piece.map_err(io::Error::other))
}
