//! Accepts connections, finds the endpoint of each request, and answers.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use cirro_sys::accept::accept_all;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::Registry;
use crate::config::Action;
use crate::error::Fault;
use crate::path::Endpoint;
use crate::request::{Head, Peer};

/// How long a client may take for the head of a request, idle connections included.
const HEAD_TIME: Duration = Duration::from_secs(120);
/// Connections served at the same time; more wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 1024;
/// How long requests may take to end when the server stops.
const DRAIN_TIME: Duration = Duration::from_secs(3);
/// Bytes that one connection reads at once: few calls for large blobs.
const READ_BUFFER: usize = 512 << 10;

const VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// Serves the API on `listener` until `shutdown` resolves, and collects once in a while.
pub async fn serve(
    registry: Registry,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let closing = CancellationToken::new();
    let keeper = registry.clone();
    let keeping = tokio::spawn(async move { keeper.keep().await });
    let serve = |stream, peer| serve_connection(registry.clone(), stream, peer, closing.clone());
    let connections = accept_all(&listener, MAX_CONNECTIONS, shutdown, serve).await;
    keeping.abort();
    closing.cancel();
    connections.drain(DRAIN_TIME, async {}).await;
}

async fn serve_connection(
    registry: Registry,
    stream: TcpStream,
    peer: SocketAddr,
    closing: CancellationToken,
) {
    // Answers to small requests must not wait for more to send.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(READ_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service(registry, Some(peer))));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Returns the whole API as an axum router, for servers that accept connections themselves. Requests are taken to come
/// from `peer`.
pub fn router(registry: Registry, peer: SocketAddr) -> Router {
    service(registry, Some(peer))
}

fn service(registry: Registry, peer: Option<SocketAddr>) -> Router {
    Router::new().fallback(move |mut request: Request<Body>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(Peer(peer));
        }
        answer(registry.clone(), request)
    })
}

async fn answer(registry: Registry, request: Request<Body>) -> Response {
    let (head, uri, body) = Head::of(request);
    let answered = registry.dispatch(&head, uri.path(), body).await;
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    tracing::debug!(method = %head.method, path = uri.path(), status = response.status().as_u16(), "request");
    response.headers_mut().insert(VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

impl Registry {
    async fn dispatch(&self, head: &Head, path: &str, body: Body) -> Result<Response, Fault> {
        let endpoint = Endpoint::parse(path)?;
        let reads = head.method == Method::GET || head.method == Method::HEAD;
        if endpoint == Endpoint::Token {
            return match head.method {
                _ if reads => self.token(head).await,
                Method::POST => self.token_of_form(head, body).await,
                _ => Err(Fault::Unsupported),
            };
        }
        let access = &self.shared.access;
        let who = access.identify(head).await?;
        let check = |name, action| access.check(head, &who, name, action);
        match endpoint {
            Endpoint::Base if reads => {
                access.check_base(head, &who)?;
                Ok((StatusCode::OK, axum::Json(serde_json::json!({}))).into_response())
            }
            Endpoint::Catalog if reads => {
                access.check_base(head, &who)?;
                self.catalog(head, &who).await
            }
            Endpoint::Tags(name) if reads => {
                check(&name, Action::Pull)?;
                self.tags(head, name).await
            }
            Endpoint::Referrers(name, subject) if reads => {
                check(&name, Action::Pull)?;
                self.referrers(head, name, subject).await
            }
            Endpoint::Manifest(name, reference) => match head.method {
                _ if reads => {
                    check(&name, Action::Pull)?;
                    self.get_manifest(head, name, reference).await
                }
                Method::PUT => {
                    check(&name, Action::Push)?;
                    self.put_manifest(head, name, reference, body).await
                }
                Method::DELETE => {
                    check(&name, Action::Delete)?;
                    self.delete_manifest(name, reference).await
                }
                _ => Err(Fault::Unsupported),
            },
            Endpoint::Blob(name, digest) => match head.method {
                Method::HEAD => {
                    access.check_probe(head, &who, &name)?;
                    self.get_blob(head, name, digest).await
                }
                _ if reads => {
                    check(&name, Action::Pull)?;
                    self.get_blob(head, name, digest).await
                }
                Method::DELETE => {
                    check(&name, Action::Delete)?;
                    self.delete_blob(name, digest).await
                }
                _ => Err(Fault::Unsupported),
            },
            Endpoint::Uploads(name) if head.method == Method::POST => {
                check(&name, Action::Push)?;
                self.start_upload(head, &who, name, body).await
            }
            Endpoint::Upload(name, id) => match head.method {
                Method::GET | Method::PATCH | Method::PUT | Method::DELETE => {
                    check(&name, Action::Push)?;
                    self.upload(head, name, id, body).await
                }
                _ => Err(Fault::Unsupported),
            },
            _ => Err(Fault::Unsupported),
        }
    }
}
