//! A container's log as plain text.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use axum::http::header::UPGRADE;
use axum::http::{Request, Response};
use axum::response::IntoResponse as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cirro_seams::api::ApiError;
use cirro_seams::node::{LogOptions, NodeError};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Call, answer, upgrade};
use crate::error;
use crate::json;

/// Frames with the log as it is, or each in base64.
const PROTOCOLS: [&str; 3] = ["", "binary.k8s.io", BASE64];
const BASE64: &str = "base64.binary.k8s.io";

impl Call {
    /// Answers with the log of one container, and with what comes when it is followed: as a body, or in the
    /// messages of a websocket.
    pub(super) async fn log(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let pod = self.server.storage.get(self.place()).await?;
        let container = container_of(&pod, self.query.get("container"))?;
        let options = self.log_options()?;
        let streams = self.server.node_streams()?;
        let lines = streams.logs(json::text(&pod, "metadata.uid"), &container, options).await;
        let lines = lines.map_err(|why| node_error(why, &pod, &container))?;
        if !request.headers().contains_key(UPGRADE) {
            return Ok(answer::text(stream(lines)));
        }
        let socket = upgrade::websocket(request, &PROTOCOLS).await?;
        let in_base64 = socket.selected_protocol().is_some_and(|protocol| protocol == BASE64);
        Ok(socket.on_upgrade(move |socket| send(socket, lines, in_base64)).into_response())
    }

    fn log_options(&self) -> Result<LogOptions, ApiError> {
        let since_seconds = self.query.number::<u64>("sinceSeconds")?;
        let since_time = self.query.number::<jiff::Timestamp>("sinceTime")?;
        let ago = |seconds| SystemTime::now().checked_sub(Duration::from_secs(seconds));
        Ok(LogOptions {
            follow: self.query.flag("follow"),
            tail: self.query.number("tailLines")?,
            since: since_time.map(SystemTime::from).or_else(|| since_seconds.and_then(ago)),
            timestamps: self.query.flag("timestamps"),
            limit_bytes: self.query.number("limitBytes")?,
            previous: self.query.flag("previous"),
        })
    }
}

/// Sends a log until its end, or until the client goes.
async fn send(mut socket: WebSocket, mut lines: mpsc::Receiver<Bytes>, in_base64: bool) {
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            // Clients send nothing but the end.
            heard = socket.recv() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        let Some(line) = line else { break };
        let message =
            if in_base64 { Message::Text(STANDARD.encode(&line).into()) } else { Message::Binary(line) };
        if socket.send(message).await.is_err() {
            return;
        }
    }
    let end = CloseFrame { code: axum::extract::ws::close_code::NORMAL, reason: "".into() };
    let _ = socket.send(Message::Close(Some(end))).await;
}

fn stream(lines: mpsc::Receiver<Bytes>) -> Body {
    Body::from_stream(futures_util::stream::unfold(lines, |mut lines| async {
        let line = lines.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), lines))
    }))
}

/// Finds the container that a request means, in a pod that has a node.
pub(super) fn container_of(pod: &Value, asked: &str) -> Result<String, ApiError> {
    let name = json::name(pod);
    let lists = ["spec.containers", "spec.initContainers", "spec.ephemeralContainers"];
    let names = lists.iter().flat_map(|list| json::array(pod, list)).map(|one| json::text(one, "name"));
    let names: Vec<&str> = names.collect();
    let container = match asked {
        "" if json::array(pod, "spec.containers").len() == 1 => names[0],
        "" => {
            let names = names.join(" ");
            return Err(error::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{names}]"
            )));
        }
        asked if names.contains(&asked) => asked,
        asked => return Err(error::bad_request(format!("container {asked} is not valid for pod {name}"))),
    };
    if json::text(pod, "spec.nodeName").is_empty() {
        return Err(error::bad_request(format!("pod {name} does not have a host assigned")));
    }
    Ok(container.to_owned())
}

/// Translates what a node says of a container.
pub(super) fn node_error(why: NodeError, pod: &Value, container: &str) -> ApiError {
    let name = json::name(pod);
    match why {
        NodeError::NotFound(_) => {
            let lists = [
                "status.containerStatuses",
                "status.initContainerStatuses",
                "status.ephemeralContainerStatuses",
            ];
            let mut statuses = lists.iter().flat_map(|list| json::array(pod, list));
            let status = statuses.find(|one| json::text(one, "name") == container);
            let waiting = status.map(|one| json::text(one, "state.waiting.reason")).unwrap_or_default();
            let reason = if waiting.is_empty() { "ContainerCreating" } else { waiting };
            error::bad_request(format!(
                "container {container:?} in pod {name:?} is waiting to start: {reason}"
            ))
        }
        NodeError::Invalid(why) | NodeError::Conflict(why) => error::bad_request(why),
        NodeError::Failed(why) => error::internal(why),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_container_is_found_or_asked_for() {
        let pod = |names: &[&str]| {
            let containers: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": containers}})
        };
        assert_eq!(container_of(&pod(&["a"]), "").unwrap(), "a");
        assert_eq!(container_of(&pod(&["a", "b"]), "b").unwrap(), "b");
        let refusal = container_of(&pod(&["a", "b"]), "").unwrap_err();
        assert_eq!(refusal.message, "a container name must be specified for pod p, choose one of: [a b]");
        assert_eq!(
            container_of(&pod(&["a"]), "x").unwrap_err().message,
            "container x is not valid for pod p"
        );
    }
}
