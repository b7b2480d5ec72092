//! Accepts connections and serves HTTP/1.1 on them, upgrades included.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use cirro_buildkit::BuildKit;
use cirro_engine::Engine;
use cirro_sys::accept::accept_all;
use http::{HeaderMap, HeaderValue, Request, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::buildkit::backend::EngineBackend;
use crate::buildkit::jobs::Jobs;
use crate::info::HostFacts;
use crate::version::{self, MAX_MINOR};
use crate::{Face, FaceInfo, Lifetime, routes};

/// How long a client may take for the head of a request, idle connections included. dockerd's number.
const HEAD_TIME: Duration = Duration::from_secs(300);
/// Connections served at the same time; more wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 4096;
/// How long requests may take to end when the server stops.
const DRAIN_TIME: Duration = Duration::from_secs(3);

/// Serves the API on `listener` until `shutdown` resolves; then ends streams, waits a little for the requests
/// that run, and returns. Several sockets are served by several calls.
pub async fn serve(
    engine: Engine,
    listener: UnixListener,
    info: FaceInfo,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let face = Face::new(engine, info);
    let service = versioned(routes::routes(face.clone()), &face.info);
    let closing = face.lifetime.closing.clone();
    let serve = |stream, _| serve_connection(service.clone(), stream, closing.clone());
    let connections = accept_all(&listener, MAX_CONNECTIONS, shutdown, serve).await;
    face.lifetime.closing.cancel();
    face.lifetime.tasks.close();
    connections.drain(DRAIN_TIME, face.lifetime.tasks.wait()).await;
}

/// Returns the whole API as an axum router, version prefixes included. For servers that accept connections
/// themselves; the connections must be served with upgrades.
pub fn router(engine: Engine, info: FaceInfo) -> Router {
    let face = Face::new(engine, info);
    versioned(routes::routes(face.clone()), &face.info)
}

impl Face {
    fn new(engine: Engine, info: FaceInfo) -> Self {
        let backend = EngineBackend { engine: engine.clone(), version: info.version.clone() };
        Self {
            engine,
            info: Arc::new(info),
            host: Arc::new(HostFacts::read()),
            lifetime: Lifetime::default(),
            buildkit: BuildKit::new(Arc::new(backend)),
            jobs: Jobs::default(),
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
fn versioned(routes: Router, info: &FaceInfo) -> Router {
    let headers = common_headers(info);
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

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use bytes::Bytes;
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    use super::*;

    async fn asked(path: &str) -> (u16, HeaderMap, String) {
        let routes = Router::new()
            .route("/_ping", get(crate::system::ping::get).head(crate::system::ping::head))
            .fallback(crate::unsupported::page_not_found);
        let info = FaceInfo { name: "host".into(), version: "0.1.0".into(), data_dir: "/d".into() };
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = versioned(routes, &info).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn every_answer_carries_the_headers_that_clients_negotiate_by() {
        for (path, status) in
            [("/_ping", 200), ("/v1.44/_ping", 200), ("/v1.99/_ping", 400), ("/nowhere", 404)]
        {
            let (found, headers, _) = asked(path).await;
            assert_eq!(found, status, "{path}");
            assert_eq!(headers["api-version"], "1.51", "{path}");
            assert_eq!(headers["server"], "cirro/0.1.0 (linux)", "{path}");
        }
        let (_, headers, body) = asked("/_ping").await;
        assert_eq!((headers["builder-version"].to_str().unwrap(), body.as_str()), ("2", "OK"));
        assert_eq!(asked("/nowhere").await.2, r#"{"message":"page not found"}"#);
    }

    #[tokio::test]
    async fn a_client_that_leaves_a_silent_stream_is_noticed() {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let receiver = Arc::new(std::sync::Mutex::new(Some(receiver)));
        let events = move || {
            let receiver = receiver.lock().unwrap().take().unwrap();
            let pieces = crate::line_stream::received(receiver);
            let pieces = futures_util::StreamExt::map(pieces, Ok::<_, std::convert::Infallible>);
            std::future::ready(Response::new(Body::from_stream(pieces)))
        };
        let router = Router::new().route("/events", get(events));
        let (mut client, server) = UnixStream::pair().unwrap();
        tokio::spawn(serve_connection(router, server, CancellationToken::new()));
        client.write_all(b"GET /events HTTP/1.1\r\nHost: docker\r\n\r\n").await.unwrap();
        // The head comes although there is no event yet: clients wait for it.
        let mut head = [0; 15];
        client.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        drop(client);
        tokio::time::timeout(Duration::from_secs(5), sender.closed()).await.expect("the stream was let go");
    }
}
