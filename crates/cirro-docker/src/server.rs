//! Accepts connections and serves HTTP/1.1 on them, upgrades included.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use cirro_engine::Engine;
use http::{HeaderMap, HeaderValue, Request, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::info::HostFacts;
use crate::version::{self, MAX_MINOR};
use crate::{Face, FaceInfo, Lifetime, routes};

/// How long a client may take for the head of a request, idle connections included. dockerd's number.
const HEAD_TIME: Duration = Duration::from_secs(300);
/// Connections served at the same time; more wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 4096;
/// How long requests may take to end when the server stops.
const DRAIN_TIME: Duration = Duration::from_secs(3);
/// Wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API on `listener` until `shutdown` resolves; then ends streams, waits a little for the requests
/// that run, and returns. Several sockets are served by several calls.
pub async fn serve(
    engine: Engine,
    listener: UnixListener,
    info: FaceInfo,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let face = Face::new(engine, info);
    let service = dispatcher(face.clone());
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        while connections.try_join_next().is_some() {}
        let slot = slots.clone().acquire_owned();
        let accepted = async {
            let slot = slot.await.expect("the semaphore is never closed");
            (slot, listener.accept().await)
        };
        let (slot, stream) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        match stream {
            Ok((stream, _)) => {
                let connection = serve_connection(service.clone(), stream, face.lifetime.closing.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    face.lifetime.closing.cancel();
    face.lifetime.tasks.close();
    let drained = async {
        while connections.join_next().await.is_some() {}
        face.lifetime.tasks.wait().await;
    };
    let _ = tokio::time::timeout(DRAIN_TIME, drained).await;
    connections.shutdown().await;
}

/// Returns the whole API as an axum router, version prefixes included. For servers that accept connections
/// themselves; the connections must be served with upgrades.
pub fn router(engine: Engine, info: FaceInfo) -> Router {
    dispatcher(Face::new(engine, info))
}

impl Face {
    fn new(engine: Engine, info: FaceInfo) -> Self {
        Self {
            engine,
            info: Arc::new(info),
            host: Arc::new(HostFacts::read()),
            lifetime: Lifetime::default(),
        }
    }
}

/// Serves one connection until it ends or the server stops.
pub(crate) async fn serve_connection(service: Router, stream: UnixStream, closing: CancellationToken) {
    // Without half-close: a client that goes away while it waits for an answer must end what it waits for.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

/// Puts the version prefix before the routes and docker's headers behind them.
fn dispatcher(face: Face) -> Router {
    let headers = common_headers(&face.info);
    let routes = routes::routes(face);
    Router::new().fallback(move |request: Request<Body>| dispatch(routes.clone(), headers.clone(), request))
}

async fn dispatch(routes: Router, headers: HeaderMap, mut request: Request<Body>) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = match version::strip(request.uri()) {
        Ok((version, uri)) => {
            *request.uri_mut() = uri;
            request.extensions_mut().insert(version);
            let Ok(response) = routes.oneshot(request).await;
            response
        }
        Err(error) => error.into_response(),
    };
    tracing::debug!(%method, path, status = response.status().as_u16(), "request");
    response.headers_mut().extend(headers);
    response
}

/// The headers that every answer of dockerd carries; clients negotiate by them.
fn common_headers(info: &FaceInfo) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let api_version = format!("1.{MAX_MINOR}");
    headers.insert("Api-Version", HeaderValue::try_from(api_version).expect("digits and a dot"));
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    if let Ok(server) = HeaderValue::try_from(info.server()) {
        headers.insert(header::SERVER, server);
    }
    headers
}
