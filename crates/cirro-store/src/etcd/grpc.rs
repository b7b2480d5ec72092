//! gRPC over HTTP/2: calls with one answer, and the stream of a watch.
//!
//! Written on `h2` itself: a whole gRPC stack would have every crate of the servers built again with
//! HTTP/2, for five calls.
//!
//! Source: `grpc/doc/PROTOCOL-HTTP2.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::sync::Mutex;

use super::connection::{Connection, Endpoint};
use crate::StoreError;

/// Longest time for the answer to one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message that is taken: pages and pieces of watches are asked for in sizes far below.
const MAX_MESSAGE: usize = 256 * 1024 * 1024;
/// Length of what goes before each message.
const HEAD: usize = 5;
/// Characters of a message from etcd that are passed on.
const MAX_REASON: usize = 300;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Failure {
    /// Nothing was sent.
    #[error("{0}")]
    Unreachable(String),
    /// Whether it happened is not known.
    #[error("{0}")]
    Interrupted(String),
    /// Etcd refused.
    #[error("etcd: {message}")]
    Refused {
        /// gRPC's status code.
        code: u32,
        /// In etcd's words.
        message: String,
    },
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused { code: 3 | 8, message } if message.contains("too large") => {
                Self::TooLarge(message)
            }
            Failure::Refused { code: 8, message } if message.contains("larger than max") => {
                Self::TooLarge(message)
            }
            Failure::Refused { code: 4 | 14, .. } | Failure::Unreachable(_) | Failure::Interrupted(_) => {
                Self::Unavailable(failure.to_string())
            }
            other => Self::Io(other.to_string()),
        }
    }
}

/// A client of an etcd cluster: one connection at a time, to whichever member answers.
pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    tls: Option<Arc<rustls::ClientConfig>>,
    open: Mutex<Option<Connection>>,
    next: AtomicUsize,
}

impl Client {
    pub(super) fn new(endpoints: Vec<Endpoint>, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self { endpoints, tls, open: Mutex::new(None), next: AtomicUsize::new(0) }
    }

    /// Returns the open connection, or opens one to the first member that answers.
    async fn connection(&self) -> Result<Connection, Failure> {
        let mut open = self.open.lock().await;
        if let Some(connection) = open.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        *open = None;
        let mut last = Failure::Unreachable("no member of etcd is configured".into());
        for _ in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[self.next.load(Ordering::Relaxed) % self.endpoints.len()];
            match Connection::open(endpoint, self.tls.as_ref()).await {
                Ok(connection) => return Ok(open.insert(connection).clone()),
                Err(why) => {
                    self.next.fetch_add(1, Ordering::Relaxed);
                    last = why;
                }
            }
        }
        Err(last)
    }

    /// Goes to another member next time: this one does not do what it should.
    async fn give_up(&self, connection: &Connection) {
        let mut open = self.open.lock().await;
        if open.as_ref().is_some_and(|present| present.is_same(connection)) {
            *open = None;
            self.next.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes a call with one answer.
    pub(super) async fn call<A: Message + Default>(
        &self,
        path: &str,
        message: &impl Message,
    ) -> Result<A, Failure> {
        let connection = self.connection().await?;
        let call = async {
            let (mut sender, answer) = request(&connection, path).await?;
            sender.send_data(frame(message), true).map_err(interrupted)?;
            let mut answers = Answers::begin(answer).await?;
            let Some(bytes) = answers.next_frame().await? else {
                return Err(Failure::Interrupted("etcd answered nothing".into()));
            };
            answers.end().await?;
            A::decode(bytes).map_err(undecodable)
        };
        let result = tokio::time::timeout(CALL_TIMEOUT, call).await;
        let result = result.unwrap_or_else(|_| Err(Failure::Interrupted("etcd does not answer".into())));
        // A member that has lost the others answers `unavailable`.
        if matches!(&result, Err(Failure::Interrupted(_) | Failure::Refused { code: 4 | 14, .. })) {
            self.give_up(&connection).await;
        }
        result
    }

    /// Begins a call with one message and a stream of answers.
    pub(super) async fn stream(&self, path: &str, message: &impl Message) -> Result<Stream, Failure> {
        let connection = self.connection().await?;
        let begin = async {
            let (mut sender, answer) = request(&connection, path).await?;
            sender.send_data(frame(message), false).map_err(interrupted)?;
            let answers = Answers::begin(answer).await?;
            Ok(Stream { answers, _sender: sender, _connection: connection.clone() })
        };
        let result = tokio::time::timeout(CALL_TIMEOUT, begin).await;
        let result = result.unwrap_or_else(|_| Err(Failure::Interrupted("etcd does not answer".into())));
        if result.is_err() {
            self.give_up(&connection).await;
        }
        result
    }
}

async fn request(
    connection: &Connection,
    path: &str,
) -> Result<(SendStream<Bytes>, h2::client::ResponseFuture), Failure> {
    let scheme = if connection.is_tls { "https" } else { "http" };
    let request = Request::post(format!("{scheme}://{}{path}", connection.authority))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|why| Failure::Unreachable(format!("etcd's address: {why}")))?;
    let mut ready = connection.sender.clone().ready().await.map_err(interrupted)?;
    let (answer, sender) = ready.send_request(request, false).map_err(interrupted)?;
    Ok((sender, answer))
}

fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEAD + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("requests are bounded far below 4 GiB"));
    message.encode(&mut frame).expect("a BytesMut grows");
    frame.freeze()
}

/// An open call; it ends when this is dropped.
pub(super) struct Stream {
    answers: Answers,
    _sender: SendStream<Bytes>,
    _connection: Connection,
}

impl Stream {
    /// Returns the next message; `None` at the end.
    pub(super) async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Failure> {
        match self.answers.next_frame().await? {
            Some(bytes) => A::decode(bytes).map(Some).map_err(undecodable),
            None => Ok(None),
        }
    }
}

/// The messages of an answer.
struct Answers {
    body: RecvStream,
    buffer: BytesMut,
}

impl Answers {
    async fn begin(answer: h2::client::ResponseFuture) -> Result<Self, Failure> {
        let response = answer.await.map_err(interrupted)?;
        let (parts, body) = response.into_parts();
        check(&parts.headers)?;
        if !parts.status.is_success() {
            return Err(Failure::Interrupted(format!("etcd answered HTTP {}", parts.status)));
        }
        Ok(Self { body, buffer: BytesMut::new() })
    }

    async fn next_frame(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(frame) = split_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            match self.body.data().await {
                Some(data) => {
                    let data = data.map_err(interrupted)?;
                    self.body.flow_control().release_capacity(data.len()).map_err(interrupted)?;
                    self.buffer.extend_from_slice(&data);
                }
                None => {
                    self.end().await?;
                    return Ok(None);
                }
            }
        }
    }

    /// Reads what is left and the status at the end.
    async fn end(&mut self) -> Result<(), Failure> {
        while let Some(data) = self.body.data().await {
            let length = data.map_err(interrupted)?.len();
            self.body.flow_control().release_capacity(length).map_err(interrupted)?;
        }
        match self.body.trailers().await.map_err(interrupted)? {
            Some(trailers) => check(&trailers),
            None => Ok(()),
        }
    }
}

fn split_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, Failure> {
    let Some((head, _)) = buffer.split_first_chunk::<HEAD>() else { return Ok(None) };
    let [flags, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    if flags != 0 || length > MAX_MESSAGE {
        return Err(Failure::Interrupted(format!("etcd sent a message of {length} bytes, flags {flags}")));
    }
    if buffer.len() < HEAD + length {
        return Ok(None);
    }
    buffer.advance(HEAD);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn check(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(code) = text("grpc-status") else { return Ok(()) };
    match code.parse().unwrap_or(2) {
        0 => Ok(()),
        code => Err(Failure::Refused { code, message: unescape(text("grpc-message").unwrap_or_default()) }),
    }
}

/// Undoes the percent encoding of a status message.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = |byte: u8| char::from(byte).to_digit(16);
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| (high * 16 + low) as u8),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).chars().take(MAX_REASON).collect()
}

fn interrupted(why: h2::Error) -> Failure {
    Failure::Interrupted(format!("connection to etcd: {why}"))
}

fn undecodable(why: prost::DecodeError) -> Failure {
    Failure::Interrupted(format!("etcd's answer: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_split_wherever_the_network_cut_them() {
        let mut whole = BytesMut::new();
        whole.extend_from_slice(b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x01d");
        for cut in 0..whole.len() {
            let mut buffer = BytesMut::from(&whole[..cut]);
            let mut frames = Vec::new();
            while let Some(frame) = split_frame(&mut buffer).unwrap() {
                frames.push(frame);
            }
            buffer.extend_from_slice(&whole[cut..]);
            while let Some(frame) = split_frame(&mut buffer).unwrap() {
                frames.push(frame);
            }
            assert_eq!(frames, ["abc", "", "d"], "cut at {cut}");
        }
        let mut large = BytesMut::from(&b"\0\xff\xff\xff\xff"[..]);
        assert!(split_frame(&mut large).is_err());
        let mut compressed = BytesMut::from(&b"\x01\0\0\0\0"[..]);
        assert!(split_frame(&mut compressed).is_err());
    }

    #[test]
    fn status_messages_are_unescaped() {
        assert_eq!(unescape("a%20b%C3%A9%zz%4"), "a bé%zz%4");
    }

    #[test]
    fn statuses_become_the_stores_errors() {
        let refused = |code, message: &str| Failure::Refused { code, message: message.into() }.into();
        assert!(matches!(
            refused(3, "etcdserver: request is too large"),
            StoreError::TooLarge(text) if text == "etcdserver: request is too large"
        ));
        assert!(matches!(refused(14, "etcdserver: leader changed"), StoreError::Unavailable(_)));
        assert!(matches!(refused(8, "etcdserver: mvcc: database space exceeded"), StoreError::Io(_)));
    }
}
