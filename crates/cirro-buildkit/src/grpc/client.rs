//! The client: calls what the other end of a connection serves.

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderName, HeaderValue, Request, header};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{CONNECTION_WINDOW, Code, MAX_HEADERS, Messages, STREAM_WINDOW, Status, frame, send_all};
use crate::wire::Message;

/// Starts a connection; the second part must be awaited for as long as it is used.
///
/// # Errors
/// If the connection breaks.
pub async fn connect<T: AsyncRead + AsyncWrite + Unpin>(
    connection: T,
) -> Result<(Channel, Connection<T, Bytes>), h2::Error> {
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADERS)
        .enable_push(false)
        .handshake(connection)
        .await?;
    Ok((Channel(requests), connection))
}

/// Makes calls.
#[derive(Clone)]
pub struct Channel(SendRequest<Bytes>);

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
}

impl Channel {
    /// Starts a call.
    ///
    /// # Errors
    /// If the connection is gone, or the metadata cannot be headers.
    pub async fn start(&self, path: &str, metadata: &[(String, String)]) -> Result<Exchange, Status> {
        let mut requests = self.0.clone().ready().await.map_err(Status::broken)?;
        let mut request = Request::post(format!("http://localhost{path}"))
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
            answers: Answers { response: Some(response), messages: None },
        })
    }

    /// Makes a call with one question and one answer.
    ///
    /// # Errors
    /// What the other side says, or that the connection is gone.
    pub async fn ask<Q: Message, A: Message>(
        &self,
        path: &str,
        metadata: &[(String, String)],
        question: &Q,
    ) -> Result<A, Status> {
        let mut exchange = self.start(path, metadata).await?;
        // Who answers without reading the question closes its stream: the answer tells more than that.
        let sent = exchange.questions.send(question).await;
        exchange.questions.end();
        match (exchange.answers.next().await, sent) {
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
    /// Returns the next message; `None` when the call ended well.
    ///
    /// # Errors
    /// How the call ended otherwise.
    pub async fn next<M: Message>(&mut self) -> Result<Option<M>, Status> {
        if let Some(response) = self.response.take() {
            let (head, body) = response.await.map_err(Status::broken)?.into_parts();
            if let Some(Err(status)) = Status::read(&head.headers) {
                return Err(status);
            }
            if !head.status.is_success() {
                return Err(Status::new(Code::Unknown, format!("HTTP status {}", head.status)));
            }
            self.messages = Some(Messages::new(body));
        }
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
