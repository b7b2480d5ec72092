//! The client: calls what the other end of a connection serves.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderName, HeaderValue, Request, header};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::frames::{Messages, frame, send_all};
use crate::{Code, Limits, Status};

/// Starts a connection; the second part must be awaited for as long as it is used.
///
/// # Errors
/// If the connection breaks.
pub async fn connect<T: AsyncRead + AsyncWrite + Unpin>(
    connection: T,
    limits: Limits,
) -> Result<(Channel, Connection<T, Bytes>), Status> {
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.headers)
        .enable_push(false)
        .handshake(connection)
        .await
        .map_err(Status::broken)?;
    let channel = Channel { requests, origin: "http://localhost".into(), limit: limits.message };
    Ok((channel, connection))
}

/// Makes calls.
#[derive(Clone)]
pub struct Channel {
    requests: SendRequest<Bytes>,
    /// Scheme and authority of what is asked for.
    origin: Arc<str>,
    /// Bytes of an answer.
    limit: usize,
}

/// A call under way. Dropping it gives it up.
pub struct Exchange {
    /// The questions.
    pub questions: Questions,
    /// The answers.
    pub answers: Answers,
}

/// The sending half of a call.
pub struct Questions {
    stream: SendStream<Bytes>,
    ended: bool,
}

/// The receiving half of a call.
pub struct Answers {
    response: Option<ResponseFuture>,
    messages: Option<Messages>,
    limit: usize,
}

impl Channel {
    /// Sets what requests name as the place that they go to, such as `https://etcd.example:2379`.
    #[must_use]
    pub fn with_origin(self, origin: &str) -> Self {
        Self { origin: origin.into(), ..self }
    }

    /// Starts a call.
    ///
    /// # Errors
    /// If the connection is gone, or the metadata cannot be headers.
    pub async fn start(&self, path: &str, metadata: &[(String, String)]) -> Result<Exchange, Status> {
        let mut requests = self.requests.clone().ready().await.map_err(Status::broken)?;
        let mut request = Request::post(format!("{}{path}", self.origin))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())
            .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
        for (name, value) in metadata {
            let invalid = || Status::new(Code::InvalidArgument, format!("{name} cannot be sent"));
            let name = HeaderName::try_from(name).map_err(|_| invalid())?;
            let value = HeaderValue::try_from(value).map_err(|_| invalid())?;
            request.headers_mut().append(name, value);
        }
        let (response, stream) = requests.send_request(request, false).map_err(Status::broken)?;
        Ok(Exchange {
            questions: Questions { stream, ended: false },
            answers: Answers { response: Some(response), messages: None, limit: self.limit },
        })
    }

    /// Makes a call with one question and one answer.
    ///
    /// # Errors
    /// What the other side says, or that the connection is gone.
    pub async fn ask<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        metadata: &[(String, String)],
        question: &Q,
    ) -> Result<A, Status> {
        let mut exchange = self.start(path, metadata).await?;
        // Who answers without reading the question closes its stream: the answer tells more than that.
        let sent = exchange.questions.send(question).await;
        exchange.questions.end();
        match (exchange.answers.only().await, sent) {
            (Ok(Some(answer)), _) => Ok(answer),
            (Ok(None), Ok(())) => Err(Status::new(Code::Internal, "the call has no answer")),
            (Err(status), Ok(())) => Err(status),
            (Err(status), Err(sent)) => Err(if status.is(Code::Unavailable) { sent } else { status }),
            (Ok(None), Err(sent)) => Err(sent),
        }
    }
}

impl Questions {
    /// Sends a message, as the other side takes it.
    ///
    /// # Errors
    /// If the other side is gone.
    pub async fn send(&mut self, message: &impl Message) -> Result<(), Status> {
        send_all(&mut self.stream, frame(message)).await
    }

    /// Says that there are no more.
    pub fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            let _ = self.stream.send_data(Bytes::new(), true);
        }
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        if !self.ended {
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

impl Answers {
    /// Waits until the other side has taken the call.
    ///
    /// # Errors
    /// If it refuses it.
    pub async fn begin(&mut self) -> Result<(), Status> {
        let Some(response) = self.response.take() else { return Ok(()) };
        let (head, body) = response.await.map_err(Status::broken)?.into_parts();
        if let Some(Err(status)) = Status::read(&head.headers) {
            return Err(status);
        }
        if !head.status.is_success() {
            return Err(Status::new(Code::Unavailable, format!("HTTP status {}", head.status)));
        }
        self.messages = Some(Messages::new(body, self.limit));
        Ok(())
    }

    /// Returns the only message of a call that has one.
    async fn only<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let answer = self.next().await?;
        match answer.is_some() && self.next::<M>().await?.is_some() {
            true => Err(Status::new(Code::Internal, "the call has more than one answer")),
            false => Ok(answer),
        }
    }

    /// Returns the next message; `None` when the call ended well.
    ///
    /// # Errors
    /// How the call ended otherwise.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        self.begin().await?;
        let Some(messages) = &mut self.messages else { return Ok(None) };
        if let Some(message) = messages.next().await? {
            return Ok(Some(message));
        }
        let trailers = messages.trailers().await?.unwrap_or_default();
        self.messages = None;
        match Status::read(&trailers) {
            Some(Err(status)) => Err(status),
            _ => Ok(None),
        }
    }
}
