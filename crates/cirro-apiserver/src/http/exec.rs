//! Exec and attach, over websockets here and over SPDY in `spdy`.
//!
//! Every message of a websocket begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the result as a `Status`,
//! 4 terminal sizes; version 5 adds 255, which closes the channel that follows.
//!
//! Source: apimachinery `util/remotecommand/constants.go`, KEP-4006.

mod spdy;

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use axum::http::{Request, Response};
use axum::response::IntoResponse as _;
use bytes::Bytes;
use cirro_seams::api::ApiError;
use cirro_seams::node::{ExecRequest, Output, Session};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Call;
use super::log::{container_of, node_error};
use super::upgrade::{self, Spdy, Upgrade};
use crate::error;
use crate::json;
use crate::registry::Subresource;

const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESULT: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Largest message from a client.
const MAX_MESSAGE: usize = 1024 * 1024;

/// A terminal's size as clients send it.
#[derive(Deserialize)]
struct TerminalSize {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

impl Call {
    /// Runs a command in a container, or attaches to its process.
    pub(super) async fn exec(
        &self,
        subresource: Subresource,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        // Before the protocol: a client that falls back to another one is to see this refusal.
        let pod = self.server.storage.get(self.place()).await?;
        let container = container_of(&pod, self.query.get("container"))?;
        match upgrade::asked(request.headers())? {
            Upgrade::Spdy => self.over_spdy(subresource, request, &pod, &container).await,
            Upgrade::WebSocket => {
                let socket = upgrade::websocket(request, &PROTOCOLS).await?;
                let session = self.session(subresource, &pod, &container).await?;
                let socket = socket.max_message_size(MAX_MESSAGE);
                Ok(socket.on_upgrade(|socket| serve(socket, session)).into_response())
            }
        }
    }

    async fn over_spdy(
        &self,
        subresource: Subresource,
        request: Request<Body>,
        pod: &Value,
        container: &str,
    ) -> Result<Response<Body>, ApiError> {
        let flag = |name| self.query.flag(name);
        let options = (flag("stdin"), flag("stdout"), flag("stderr"), flag("tty"));
        if !options.0 && !options.1 && !options.2 {
            return Err(error::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        let agreed = match Spdy::negotiate(request, spdy::PROTOCOLS)? {
            Ok(agreed) => agreed,
            Err(refusal) => return Ok(refusal),
        };
        let wanted = spdy::Wanted::new(agreed.protocol(), options);
        let session = self.session(subresource, pod, container).await?;
        Ok(agreed.on_upgrade(move |connection| spdy::serve(connection, session, wanted)))
    }

    async fn session(
        &self,
        subresource: Subresource,
        pod: &Value,
        container: &str,
    ) -> Result<Session, ApiError> {
        let streams = self.server.node_streams()?;
        let uid = json::text(pod, "metadata.uid");
        let request = self.exec_request();
        let session = if subresource == Subresource::Attach {
            streams.attach(uid, container, request.stdin).await
        } else if request.command.is_empty() {
            return Err(error::bad_request("you must specify at least one command for the container"));
        } else {
            streams.exec(uid, container, request).await
        };
        session.map_err(|why| node_error(why, pod, container))
    }

    fn exec_request(&self) -> ExecRequest {
        ExecRequest {
            command: self.query.all("command"),
            tty: self.query.flag("tty"),
            stdin: self.query.flag("stdin"),
            stdout: self.query.flag("stdout"),
            stderr: self.query.flag("stderr") && !self.query.flag("tty"),
            ..ExecRequest::default()
        }
    }
}

/// Carries bytes both ways until the process ends or the client goes.
async fn serve(socket: WebSocket, session: Session) {
    let (mut sink, stream) = socket.split();
    let Session { input, mut output, resize, exit } = session;
    let mut reading = tokio::spawn(read(stream, input, resize));
    let result = async {
        while let Some(chunk) = output.recv().await {
            let (channel, bytes) = match chunk {
                Output::Stdout(bytes) => (STDOUT, bytes),
                Output::Stderr(bytes) => (STDERR, bytes),
            };
            send(&mut sink, channel, &bytes).await?;
        }
        let status = result_of(exit.await.ok());
        send(&mut sink, RESULT, status.to_string().as_bytes()).await?;
        let end = CloseFrame { code: axum::extract::ws::close_code::NORMAL, reason: "".into() };
        sink.send(Message::Close(Some(end))).await
    };
    // Reading ends only with the connection: then nobody is left to wait for a silent process.
    let result = tokio::select! {
        result = result => result,
        _ = &mut reading => Ok(()),
    };
    if let Err(why) = result {
        tracing::debug!(%why, "client of a stream went away");
    }
    reading.abort();
}

async fn send(
    sink: &mut SplitSink<WebSocket, Message>,
    channel: u8,
    bytes: &[u8],
) -> Result<(), axum::Error> {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    sink.send(Message::Binary(message.into())).await
}

/// Takes what the client sends; dropping the input is end of file.
async fn read(
    mut stream: SplitStream<WebSocket>,
    mut input: Option<mpsc::Sender<Bytes>>,
    resize: mpsc::Sender<(u16, u16)>,
) {
    while let Some(Ok(message)) = stream.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        match bytes.first() {
            Some(&STDIN) => {
                let gone = match &input {
                    Some(input) => input.send(bytes.slice(1..)).await.is_err(),
                    None => false,
                };
                if gone {
                    input = None;
                }
            }
            Some(&RESIZE) => {
                if let Ok(size) = serde_json::from_slice::<TerminalSize>(&bytes[1..]) {
                    let _ = resize.send((size.width, size.height)).await;
                }
            }
            Some(&CLOSE) if bytes.get(1) == Some(&STDIN) => input = None,
            _ => {}
        }
    }
}

/// Returns the result of a process as a `Status`.
fn result_of(exit: Option<i32>) -> Value {
    match exit {
        Some(0) => json!({"metadata": {}, "status": "Success"}),
        Some(code) => json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: error executing command, exit code {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
        None => json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": "the process ended without an exit code"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_carry_the_exit_code() {
        assert_eq!(result_of(Some(0))["status"], "Success");
        assert_eq!(result_of(Some(3))["details"]["causes"][0]["message"], "3");
        assert_eq!(result_of(None)["reason"], "InternalError");
    }
}
