//! Connections: TLS, who the client is, HTTP/1.1.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Peer;
use crate::auth::User;
use crate::server::ApiServer;

/// Connections at a time, so that ten thousand may watch; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16_384;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Counts between requests too, so that it is also how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(180);
/// How long requests get to end after a shutdown began; watches do not end by themselves.
const DRAIN: Duration = Duration::from_secs(1);
/// How long accepting pauses when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl ApiServer {
    /// Serves HTTPS until `shutdown`, then lets running requests end within a second.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let connections = TaskTracker::new();
        // Ends what does not end by itself.
        let end = CancellationToken::new();
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(why) => {
                    tracing::warn!(%why, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (server, acceptor) = (self.clone(), acceptor.clone());
            let (shutdown, end) = (shutdown.clone(), end.clone());
            connections.spawn(async move {
                let _place = place;
                tokio::select! {
                    result = server.connection(stream, acceptor, shutdown) => {
                        if let Err(why) = result {
                            tracing::debug!(%why, "connection ended");
                        }
                    }
                    () = end.cancelled() => {}
                }
            });
        }
        connections.close();
        let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
        end.cancel();
        connections.wait().await;
    }

    async fn connection(
        &self,
        stream: TcpStream,
        acceptor: TlsAcceptor,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let peer = Peer(stream.peer_addr()?);
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let user = certificate.and_then(|certificate| User::from_certificate(certificate));
        let user = Arc::new(user.unwrap_or_else(User::anonymous));
        let service = service_fn(|mut request: Request<Incoming>| {
            let (server, user) = (self.clone(), user.clone());
            request.extensions_mut().insert(peer);
            async move { Ok::<_, Infallible>(server.respond(&user, request.map(Body::new)).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        ended.map_err(io::Error::other)
    }
}
