//! Exec and attach over websockets.
//!
//! Every message begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the result as a `Status`,
//! 4 terminal sizes; version 5 adds 255, which closes the channel that follows.
//!
//! Source: apimachinery `util/remotecommand/constants.go`, KEP-4006.

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::header::UPGRADE;
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
        let (mut parts, _) = request.into_parts();
        let upgrade = parts.headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !upgrade.eq_ignore_ascii_case("websocket") {
            return Err(error::bad_request(
                "SPDY is not supported by this server; use a client that speaks websockets (kubectl 1.31 and later)",
            ));
        }
        let socket = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
        let socket = socket.map_err(|why| error::bad_request(why.to_string()))?.protocols(PROTOCOLS);
        if socket.selected_protocol().is_none() {
            let known = PROTOCOLS.join(", ");
            return Err(error::bad_request(format!("unknown subprotocol; this server speaks {known}")));
        }
        let session = self.session(subresource, &pod, &container).await?;
        let upgraded = socket.max_message_size(MAX_MESSAGE).on_upgrade(|socket| serve(socket, session));
        Ok(upgraded.into_response())
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
