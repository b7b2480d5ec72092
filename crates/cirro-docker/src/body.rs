//! Request bodies: JSON documents up to a limit, and uploads of any size that flow with backpressure.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::error::ApiError;

const MAX_JSON: usize = 4 << 20;
/// Pieces of an upload that wait for the engine.
const UPLOAD_PIECES: usize = 16;
/// Bytes that small pieces are put together to.
const GATHERED: usize = 64 << 10;
/// What is still read of an upload that nobody wants any more, so that the client gets to read the answer
/// instead of failing in its write.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Reads a JSON document; nulls are taken out, since Go writes nil slices and maps so. An empty body is `{}`.
pub(crate) async fn read_json(body: Body) -> Result<Value, ApiError> {
    let bytes = match Limited::new(body, MAX_JSON).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => return Err(ApiError::invalid(format!("cannot read the request's body: {error}"))),
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| invalid_json(&error))?;
    Ok(without_nulls(value))
}

/// Reads a JSON document into a type.
pub(crate) async fn read<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    decode(read_json(body).await?)
}

/// Turns a JSON value into a type.
pub(crate) fn decode<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    serde_json::from_value(value).map_err(|error| invalid_json(&error))
}

fn invalid_json(error: &serde_json::Error) -> ApiError {
    ApiError::invalid(format!("invalid JSON: {error}"))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name, without_nulls(value)))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// A body on its way to the engine.
pub(crate) struct Upload {
    /// The bytes; ends with the body, or with the reason why there are no more: a tar that is cut between two entries
    /// looks whole.
    pub(crate) bytes: mpsc::Receiver<Result<Bytes, String>>,
    /// Resolves, with the reason, when the client broke off. Never resolves otherwise.
    pub(crate) broken: BrokenOff,
}

/// Tells that an upload was broken off.
pub(crate) struct BrokenOff(oneshot::Receiver<String>);

impl BrokenOff {
    /// Waits until the client breaks off; for ever when the upload went well.
    pub(crate) async fn wait(self) -> ApiError {
        match self.0.await {
            Ok(reason) => ApiError::invalid(format!("the upload was broken off: {reason}")),
            Err(_) => std::future::pending().await,
        }
    }
}

/// Starts to pass a body on. What the engine does not take is read to a limit and thrown away.
pub(crate) fn upload(body: Body) -> Upload {
    let (sender, bytes) = mpsc::channel(UPLOAD_PIECES);
    let (broken_sender, broken) = oneshot::channel();
    tokio::spawn(pass_on(body, sender, broken_sender));
    Upload { bytes, broken: BrokenOff(broken) }
}

async fn pass_on(body: Body, sender: mpsc::Sender<Result<Bytes, String>>, broken: oneshot::Sender<String>) {
    let mut pieces = body.into_data_stream();
    let mut next = pieces.next().await;
    while let Some(piece) = next {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                let _ = broken.send(error.to_string());
                let _ = sender.send(Err(format!("the upload was broken off: {error}"))).await;
                return;
            }
        };
        let (piece, after) = gather(piece, &mut pieces);
        if sender.send(Ok(piece)).await.is_err() {
            let _ = tokio::time::timeout(DRAIN_TIME, drain(pieces)).await;
            return;
        }
        next = match after {
            Some(known) => known,
            None => pieces.next().await,
        };
    }
}

type Next = Option<Result<Bytes, axum::Error>>;

/// Puts pieces together that are there already; returns what comes after them, if that is known. Docker's CLI sends a
/// small file in two small pieces, and to wake the one who writes them costs more than to copy them.
fn gather(first: Bytes, pieces: &mut axum::body::BodyDataStream) -> (Bytes, Option<Next>) {
    let mut whole = BytesMut::new();
    let all = |whole: BytesMut| if whole.is_empty() { first.clone() } else { whole.freeze() };
    while whole.len().max(first.len()) < GATHERED {
        match pieces.next().now_or_never() {
            Some(Some(Ok(more))) => {
                if whole.is_empty() {
                    whole.reserve(GATHERED);
                    whole.extend_from_slice(&first);
                }
                whole.extend_from_slice(&more);
            }
            Some(other) => return (all(whole), Some(other)),
            None => break,
        }
    }
    (all(whole), None)
}

async fn drain(mut pieces: axum::body::BodyDataStream) {
    let mut left = DRAIN_BYTES;
    while let Some(Ok(piece)) = pieces.next().await {
        match left.checked_sub(piece.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn nulls_are_taken_out_and_nothing_is_an_empty_object() {
        let value = read_json(Body::from(r#"{"a":null,"b":[{"c":null,"d":1}]}"#)).await.unwrap();
        assert_eq!(value, json!({"b": [{"d": 1}]}));
        assert_eq!(read_json(Body::empty()).await.unwrap(), json!({}));
    }

    #[tokio::test]
    async fn a_document_that_is_too_large_or_malformed_is_refused() {
        let large = read_json(Body::from(vec![b' '; MAX_JSON + 1])).await.unwrap_err();
        assert_eq!(large.status, 400);
        assert!(read_json(Body::from("{")).await.unwrap_err().message.starts_with("invalid JSON"));
        let deep = "[".repeat(100_000);
        assert!(read_json(Body::from(deep)).await.is_err());
    }

    #[tokio::test]
    async fn an_upload_arrives_whole() {
        let mut upload = upload(Body::from("some bytes"));
        let mut all = Vec::new();
        while let Some(piece) = upload.bytes.recv().await {
            all.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(all, b"some bytes");
    }

    #[tokio::test]
    async fn pieces_that_came_together_go_on_together() {
        let small = (0..100_000_u32)
            .map(|number| Ok::<_, std::io::Error>(Bytes::from(number.to_le_bytes().to_vec())));
        let mut upload = upload(Body::from_stream(futures_util::stream::iter(small)));
        let (mut all, mut count) = (Vec::new(), 0);
        while let Some(piece) = upload.bytes.recv().await {
            all.extend_from_slice(&piece.unwrap());
            count += 1;
        }
        let expected: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        assert!(all == expected && count <= 400_000 / GATHERED + 1, "{count} pieces");
    }

    #[tokio::test]
    async fn an_upload_that_breaks_off_says_so() {
        let pieces = futures_util::stream::iter([Ok("x"), Err(std::io::Error::other("reset"))]);
        let mut upload = upload(Body::from_stream(pieces));
        assert_eq!(upload.bytes.recv().await.unwrap().unwrap(), "x");
        // The reader must not take the break for the end of a whole archive.
        assert!(upload.bytes.recv().await.unwrap().unwrap_err().contains("reset"));
        assert_eq!(upload.bytes.recv().await, None);
        assert!(upload.broken.wait().await.message.contains("reset"));
    }
}
