//! gRPC over HTTP/2: a server for `/grpc`, a client for sessions. Both on one upgraded connection each.
//!
//! A message is a flag byte, its length in four bytes, and the message. A call ends with the trailers `grpc-status`
//! and `grpc-message`. Compression is not offered, so that none is used.
//!
//! Source: grpc/grpc `doc/PROTOCOL-HTTP2.md`.

pub mod client;
pub mod server;

use std::future::poll_fn;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue};

use crate::messages::{Any, RpcStatus};
use crate::wire::Message;

/// Bytes of one message: BuildKit's own limit.
pub const MAX_MESSAGE: usize = 16 << 20;
/// Bytes of a stream that the other side may send before we have read them.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Bytes of the headers of a call: patterns of `.dockerignore` are among them.
const MAX_HEADERS: u32 = 1 << 20;
const HEAD: usize = 5;

/// The codes that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// The caller gave up.
    Cancelled = 1,
    /// It failed.
    Unknown = 2,
    /// What is asked for makes no sense.
    InvalidArgument = 3,
    /// It took too long.
    DeadlineExceeded = 4,
    /// There is no such thing.
    NotFound = 5,
    /// A bound was reached.
    ResourceExhausted = 8,
    /// There is no such method, or it does not do that.
    Unimplemented = 12,
    /// The other side broke the protocol.
    Internal = 13,
    /// The connection is gone.
    Unavailable = 14,
}

/// How a call failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// One of [`Code`], or another of gRPC's.
    pub code: i32,
    /// What is wrong.
    pub message: String,
    /// More about it, for programs.
    pub details: Vec<Any>,
}

impl Status {
    /// Makes a status without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code as i32, message: message.into(), details: Vec::new() }
    }

    /// Says that something failed.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(Code::Unknown, message)
    }

    /// Says that something that BuildKit has is not there.
    pub fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::new(Code::Unimplemented, format!("{what} is not supported"))
    }

    /// Says whether the status is of this code.
    pub fn is(&self, code: Code) -> bool {
        self.code == code as i32
    }

    fn broken(error: impl std::fmt::Display) -> Self {
        Self::new(Code::Unavailable, format!("the connection ended: {error}"))
    }

    /// Returns the trailers that end a call.
    fn trailers(result: Result<(), Self>) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        let status = match result {
            Ok(()) => {
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                return trailers;
            }
            Err(status) => status,
        };
        trailers.insert("grpc-status", HeaderValue::from(status.code));
        if let Ok(message) = HeaderValue::try_from(percent_encode(&status.message)) {
            trailers.insert("grpc-message", message);
        }
        if !status.details.is_empty() {
            let whole =
                RpcStatus { code: status.code, message: status.message, details: status.details }.encode();
            if let Ok(details) = HeaderValue::try_from(BASE64_STANDARD_NO_PAD.encode(whole)) {
                trailers.insert("grpc-status-details-bin", details);
            }
        }
        trailers
    }

    /// Reads the trailers, or the headers of a call that has only those.
    fn read(headers: &HeaderMap) -> Option<Result<(), Self>> {
        let code = headers.get("grpc-status")?.to_str().ok()?.parse().unwrap_or(Code::Unknown as i32);
        if code == Code::Ok as i32 {
            return Some(Ok(()));
        }
        let message = headers.get("grpc-message").map(|value| percent_decode(value.as_bytes()));
        let details = headers.get("grpc-status-details-bin").and_then(|value| {
            let text = value.as_bytes().trim_ascii_end();
            let text = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
            RpcStatus::decode(&BASE64_STANDARD_NO_PAD.decode(text).ok()?).ok()
        });
        let details = details.map(|status| status.details).unwrap_or_default();
        Some(Err(Self { code, message: message.unwrap_or_default(), details }))
    }
}

/// gRPC's form of text in a header.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..0x20 | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char::from(byte)),
        }
    }
    out
}

fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut left = text;
    while let Some((&first, rest)) = left.split_first() {
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|_| first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        left = if byte.is_some() { &rest[2..] } else { rest };
        out.push(byte.unwrap_or(first));
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Puts a message into its frame.
fn frame(message: &impl Message) -> Bytes {
    let body = message.encode();
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.push(0);
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes.into()
}

/// The messages that come in.
pub struct Messages {
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    fn new(body: RecvStream) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// Returns the next message; `None` when there are no more.
    ///
    /// # Errors
    /// If the stream breaks off, or a message is too long or malformed.
    pub async fn next<M: Message>(&mut self) -> Result<Option<M>, Status> {
        let Some(bytes) = self.next_bytes().await? else { return Ok(None) };
        let message = M::decode(&bytes).map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        Ok(Some(message))
    }

    async fn next_bytes(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<HEAD>() {
                let [flag, length @ ..] = *head;
                let length = u32::from_be_bytes(length) as usize;
                if flag != 0 {
                    return Err(Status::unsupported("a compressed message"));
                }
                if length > MAX_MESSAGE {
                    let text = format!("a message of {length} bytes, more than {MAX_MESSAGE}");
                    return Err(Status::new(Code::ResourceExhausted, text));
                }
                if self.buffer.len() >= HEAD + length {
                    self.buffer.advance(HEAD);
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            match self.body.data().await {
                Some(Ok(piece)) => {
                    // The buffer is bounded by the longest message, so the window can be opened at once.
                    self.body.flow_control().release_capacity(piece.len()).map_err(Status::broken)?;
                    self.buffer.extend_from_slice(&piece);
                }
                Some(Err(error)) => return Err(Status::broken(error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::broken("in the middle of a message")),
            }
        }
    }

    async fn trailers(&mut self) -> Result<Option<HeaderMap>, Status> {
        self.body.trailers().await.map_err(Status::broken)
    }
}

/// Sends bytes as the other side takes them.
async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), Status> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let capacity = match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(capacity) => capacity.map_err(Status::broken)?,
            None => return Err(Status::broken("the stream was closed")),
        };
        let piece = bytes.split_to(capacity.min(bytes.len()));
        if !piece.is_empty() {
            stream.send_data(piece, false).map_err(Status::broken)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
