//! The server: one connection, each call a task that ends with its stream.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::frames::{Messages, frame, send_all};
use crate::{Code, Limits, Status};

/// Calls of one connection at the same time.
const MAX_CALLS: u32 = 128;
/// Answers of a call that wait to be sent.
const ANSWERS: usize = 16;

/// A call that has come in.
pub struct Call {
    /// `/package.Service/Method`.
    pub path: String,
    /// What the caller says beside its messages.
    pub metadata: HeaderMap,
    /// The questions.
    pub messages: Messages,
    /// Where the answers go.
    pub answers: Answers,
}

/// Takes the answers of a call.
#[derive(Clone)]
pub struct Answers(mpsc::Sender<Bytes>);

impl Answers {
    /// Sends an answer, when there is room for it.
    ///
    /// # Errors
    /// If the caller is gone.
    pub async fn send(&self, message: &impl Message) -> Result<(), Status> {
        let gone = |_| Status::new(Code::Cancelled, "the caller is gone");
        self.0.send(frame(message)).await.map_err(gone)
    }
}

impl Call {
    /// Returns the only question of a call that has one.
    ///
    /// # Errors
    /// If there is none.
    pub async fn question<M: Message + Default>(&mut self) -> Result<M, Status> {
        let question = self.messages.next().await?;
        question.ok_or_else(|| Status::new(Code::InvalidArgument, "the call has no message"))
    }
}

/// What answers calls.
pub trait Service: Send + Sync + 'static {
    /// Answers one; dropped when the caller gives up.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<(), Status>>;
}

/// Serves a connection until it ends; what its calls do ends with it.
///
/// # Errors
/// If the connection breaks.
pub async fn serve(
    connection: impl AsyncRead + AsyncWrite + Unpin,
    service: Arc<dyn Service>,
    limits: Limits,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(limits.headers)
        .handshake(connection)
        .await?;
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(accepted) => {
                    let (request, respond) = accepted?;
                    calls.spawn(answer(service.clone(), request, respond, limits.message));
                }
                None => return Ok(()),
            },
            Some(_) = calls.join_next() => {}
        }
    }
}

async fn answer(
    service: Arc<dyn Service>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    limit: usize,
) {
    let mut response = Response::new(());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let Ok(mut stream) = respond.send_response(response, false) else { return };
    let (parts, body) = request.into_parts();
    let (sender, answers) = mpsc::channel(ANSWERS);
    let call = Call {
        path: parts.uri.path().to_owned(),
        metadata: parts.headers,
        messages: Messages::new(body, limit),
        answers: Answers(sender),
    };
    let path = call.path.clone();
    match run(service.call(call), answers, &mut stream).await {
        Some(result) => {
            if let Err(status) = &result {
                tracing::debug!(path, code = status.code, message = status.message, "call failed");
            }
            let _ = stream.send_trailers(Status::trailers(result));
        }
        None => tracing::debug!(path, "call given up"),
    }
}

/// Runs a call and sends its answers; `None` when the caller gave up.
async fn run(
    mut work: BoxFuture<'_, Result<(), Status>>,
    mut answers: mpsc::Receiver<Bytes>,
    stream: &mut SendStream<Bytes>,
) -> Option<Result<(), Status>> {
    let mut result = None;
    loop {
        tokio::select! {
            biased;
            _ = poll_fn(|context| stream.poll_reset(context)) => return None,
            answer = answers.recv() => match answer {
                Some(answer) => send_all(stream, answer).await.ok()?,
                // The work holds the other end until it is done.
                None => return match result {
                    Some(result) => Some(result),
                    None => Some(work.await),
                },
            },
            done = &mut work, if result.is_none() => {
                result = Some(done);
                // The work itself, and so its end of the channel, may live as long as `work` does.
                work = Box::pin(std::future::pending());
            }
        }
    }
}
