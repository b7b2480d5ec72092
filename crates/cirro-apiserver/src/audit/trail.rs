//! What is told of one request.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Frame, SizeHint};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Audit;
use super::policy::{Decision, Level, Stage};
use crate::authenticate::Authenticated;
use crate::decode::{self, MAX_BODY};
use crate::json;
use crate::rbac::{Access, Target};

/// Largest answer that is told.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Longest user agent that is told.
const MAX_AGENT: usize = 1024;

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The events of a request, as they come.
pub(crate) struct Trail {
    audit: Arc<Audit>,
    decision: Decision,
    /// What all stages tell.
    event: Value,
    received: Timestamp,
    is_long: bool,
    is_resource: bool,
}

impl Trail {
    pub(super) fn new(
        audit: Arc<Audit>,
        decision: Decision,
        who: &Authenticated,
        access: &Access,
        version: &str,
        request: &Request<Body>,
        is_long: bool,
    ) -> Self {
        let asker = who.impersonator.as_ref().unwrap_or(&who.user);
        let mut event = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": decision.level.word(),
            "auditID": crate::identity::uid(), "stage": "",
            "requestURI": request.uri().path_and_query().map_or("/", |uri| uri.as_str()), "verb": access.verb,
            "user": asker.info()});
        if who.impersonator.is_some() {
            event["impersonatedUser"] = who.user.info();
        }
        if let Some(Peer(address)) = request.extensions().get::<Peer>() {
            event["sourceIPs"] = json!([address.ip().to_canonical().to_string()]);
        }
        if let Some(agent) = request.headers().get("user-agent").and_then(|agent| agent.to_str().ok()) {
            event["userAgent"] = agent.chars().take(MAX_AGENT).collect::<String>().into();
        }
        let is_resource = match &access.target {
            Target::Path(_) => false,
            Target::Resource { group, resource, subresource, namespace, name } => {
                let members = [
                    ("resource", resource.as_str()),
                    ("namespace", namespace),
                    ("name", name),
                    ("apiGroup", group),
                    ("apiVersion", version),
                    ("subresource", subresource),
                ];
                let present = members.into_iter().filter(|(_, value)| !value.is_empty());
                event["objectRef"] =
                    present.map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
                true
            }
        };
        Self { audit, decision, event, received: Timestamp::now(), is_long, is_resource }
    }

    /// Tells that a request came, and reads its body when that is told; returns the request to go on with.
    pub(crate) async fn received(&mut self, request: Request<Body>) -> Request<Body> {
        self.tell(Stage::RequestReceived).await;
        let writes = !matches!(self.event["verb"].as_str(), Some("get" | "list" | "watch"));
        if self.decision.level < Level::Request || !self.is_resource || !writes || self.is_long {
            return request;
        }
        let (head, body) = request.into_parts();
        let media_type = head.headers.get("content-type").and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default();
        // One byte more than is taken: what is too large is refused below in the usual words.
        let body = match Limited::new(body, MAX_BODY + 1).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(_) => Bytes::from(vec![b' '; MAX_BODY + 1]),
        };
        let sent = match media_type.contains("patch") {
            true => decode::json(&body).or_else(|_| decode::decode("application/yaml", &body)),
            false => decode::decode(media_type, &body),
        };
        if let (Ok(sent), false) = (sent, body.is_empty()) {
            self.event["requestObject"] = self.shown(sent.value);
        }
        Request::from_parts(head, Body::from(body))
    }

    /// Notes what was found out on the way.
    pub(crate) fn annotate(&mut self, annotations: impl IntoIterator<Item = (String, String)>) {
        for (key, value) in annotations {
            self.event["annotations"][key] = value.into();
        }
    }

    /// Tells what was answered; returns the answer to go on with.
    pub(crate) async fn answered(mut self, response: Response<Body>) -> Response<Body> {
        let status = response.status();
        self.event["responseStatus"] = json!({"metadata": {}, "code": status.as_u16()});
        if self.is_long && (status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS) {
            self.tell(Stage::ResponseStarted).await;
            return response.map(|body| Body::new(Told { body, last: Mutex::new(Some(self)) }));
        }
        let wants_body = self.is_resource && self.decision.level == Level::RequestResponse;
        let failed = status.is_client_error() || status.is_server_error();
        if !wants_body && !failed {
            self.tell(Stage::ResponseComplete).await;
            return response;
        }
        let (head, body) = response.into_parts();
        let body = match Limited::new(body, MAX_ANSWER).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(_) => {
                self.tell(Stage::ResponseComplete).await;
                return Response::from_parts(head, Body::empty());
            }
        };
        if let Ok(answer) = serde_json::from_slice::<Value>(&body) {
            if answer["kind"] == "Status" && answer["apiVersion"] == "v1" {
                self.event["responseStatus"] = answer.clone();
                self.event["responseStatus"]["code"] = status.as_u16().into();
                for member in ["kind", "apiVersion"] {
                    json::remove(&mut self.event["responseStatus"], member);
                }
            }
            if wants_body {
                self.event["responseObject"] = self.shown(answer);
            }
        }
        self.tell(Stage::ResponseComplete).await;
        Response::from_parts(head, Body::from(body))
    }

    /// Returns an object as it is told.
    fn shown(&self, mut object: Value) -> Value {
        if self.decision.omits_managed_fields {
            let lists = object.get_mut("items").and_then(Value::as_array_mut);
            lists
                .into_iter()
                .flatten()
                .for_each(|item| drop(json::remove(&mut item["metadata"], "managedFields")));
            json::remove(&mut object["metadata"], "managedFields");
        }
        object
    }

    async fn tell(&mut self, stage: Stage) {
        if let Some(line) = self.line(stage) {
            self.audit.log.write(line).await;
        }
    }

    fn line(&mut self, stage: Stage) -> Option<Vec<u8>> {
        if self.decision.omits.contains(&stage) {
            return None;
        }
        self.event["stage"] = stage.word().into();
        self.event["requestReceivedTimestamp"] = micros(self.received).into();
        self.event["stageTimestamp"] = micros(Timestamp::now()).into();
        let mut line = self.event.to_string().into_bytes();
        line.push(b'\n');
        Some(line)
    }
}

fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// The body of an answer that goes on; its end is told.
struct Told {
    body: Body,
    last: Mutex<Option<Trail>>,
}

impl hyper::body::Body for Told {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        hyper::body::Body::poll_frame(Pin::new(&mut self.body), context)
    }

    fn is_end_stream(&self) -> bool {
        hyper::body::Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        hyper::body::Body::size_hint(&self.body)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let last = self.last.get_mut().ok().and_then(Option::take);
        let Some(mut trail) = last else { return };
        let Some(line) = trail.line(Stage::ResponseComplete) else { return };
        // There is nobody left who could wait for long; one who can takes what does not fit.
        if !trail.audit.log.try_write(line.clone())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { trail.audit.log.write(line).await });
        }
    }
}
