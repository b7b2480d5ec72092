//! Requests that turn their connection into something else.
//!
//! Source: apimachinery `util/httpstream`, streaming over SPDY as upstream answers it.

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use cirro_seams::api::ApiError;
use cirro_spdy::Connection;
use hyper_util::rt::TokioIo;

use super::answer;
use crate::error;

const PROTOCOL_VERSION: &str = "x-stream-protocol-version";
const ACCEPTED_VERSIONS: &str = "x-accepted-stream-protocol-versions";

/// What a client wants its connection to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upgrade {
    WebSocket,
    Spdy,
}

/// Reads what a request asks its connection to become; the others are refused in upstream's words.
pub(super) fn asked(headers: &HeaderMap) -> Result<Upgrade, ApiError> {
    let upgrade = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if upgrade.eq_ignore_ascii_case("websocket") {
        Ok(Upgrade::WebSocket)
    } else if upgrade.eq_ignore_ascii_case("spdy/3.1") {
        Ok(Upgrade::Spdy)
    } else {
        Err(error::bad_request("Upgrade request required"))
    }
}

/// Reads a websocket's request and chooses the first of our protocols that the client speaks.
pub(super) async fn websocket(
    request: Request<Body>,
    protocols: &'static [&'static str],
) -> Result<WebSocketUpgrade, ApiError> {
    let (mut parts, _) = request.into_parts();
    let socket = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let socket = socket.map_err(|why| error::bad_request(why.to_string()))?;
    let offers = parts.headers.contains_key("sec-websocket-protocol");
    let socket = socket.protocols(protocols.iter().copied());
    if socket.selected_protocol().is_none() && (offers || !protocols.contains(&"")) {
        let known = protocols.join(", ");
        return Err(error::bad_request(format!("unknown subprotocol; this server speaks {known}")));
    }
    Ok(socket)
}

/// A request for SPDY whose protocol is agreed.
pub(super) struct Spdy {
    request: Request<Body>,
    protocol: &'static str,
}

impl Spdy {
    /// Chooses the first protocol of the client's that is one of ours, or answers with a refusal.
    pub(super) fn negotiate(
        request: Request<Body>,
        ours: &[&'static str],
    ) -> Result<Result<Self, Response<Body>>, ApiError> {
        let values = request.headers().get_all(PROTOCOL_VERSION);
        let offered = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
        let offered: Vec<&str> = offered.map(str::trim).filter(|text| !text.is_empty()).collect();
        if offered.is_empty() {
            return Err(error::bad_request("unable to upgrade: X-Stream-Protocol-Version is required"));
        }
        let common = offered.iter().find_map(|offer| ours.iter().find(|protocol| *protocol == offer));
        Ok(match common.copied() {
            Some(protocol) => Ok(Self { request, protocol }),
            None => Err(disagreement(&offered, ours)),
        })
    }

    /// Returns the protocol that is spoken on the streams.
    pub(super) fn protocol(&self) -> &'static str {
        self.protocol
    }

    /// Answers, and runs `serve` on the connection once it is SPDY's.
    pub(super) fn on_upgrade<F, R>(mut self, serve: F) -> Response<Body>
    where
        F: FnOnce(Connection) -> R + Send + 'static,
        R: Future<Output = ()> + Send,
    {
        let upgrade = hyper::upgrade::on(&mut self.request);
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => serve(Connection::accept(TokioIo::new(upgraded))).await,
                Err(why) => tracing::debug!(%why, "upgrade to SPDY failed"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(self.protocol));
        response
    }
}

fn disagreement(offered: &[&str], ours: &[&'static str]) -> Response<Body> {
    let (offered, known) = (offered.join(" "), ours.join(" "));
    let mut response = answer::text(format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{offered}], server accepts [{known}]\n"
    ));
    *response.status_mut() = StatusCode::FORBIDDEN;
    for protocol in ours {
        response.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(protocol));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(protocols: &[&str]) -> Request<Body> {
        let mut request = Request::builder().method("POST").header(UPGRADE, "SPDY/3.1");
        for protocol in protocols {
            request = request.header(PROTOCOL_VERSION, *protocol);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn the_clients_first_choice_that_is_known_is_taken() {
        let ours = ["v4.channel.k8s.io", "v3.channel.k8s.io"];
        let chosen =
            |offers: &[&str]| Spdy::negotiate(request(offers), &ours).unwrap().ok().map(|one| one.protocol);
        assert_eq!(chosen(&["v5.channel.k8s.io", "v3.channel.k8s.io"]), Some("v3.channel.k8s.io"));
        assert_eq!(chosen(&["v9, v4.channel.k8s.io"]), Some("v4.channel.k8s.io"));
        assert_eq!(chosen(&["v9"]), None);
        let refusal = Spdy::negotiate(request(&["v9"]), &ours).unwrap().err().unwrap();
        assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
        assert_eq!(refusal.headers().get_all(ACCEPTED_VERSIONS).iter().count(), 2);
        assert!(Spdy::negotiate(request(&[]), &ours).is_err());
    }

    #[test]
    fn what_asks_for_nothing_is_refused() {
        assert_eq!(asked(request(&[]).headers()).unwrap(), Upgrade::Spdy);
        assert_eq!(asked(&HeaderMap::new()).unwrap_err().message, "Upgrade request required");
    }
}
