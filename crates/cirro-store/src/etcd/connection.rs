//! A connection to one of etcd's members: TCP, TLS where it is wanted, HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cirro_grpc::client::{Channel, connect};
use cirro_grpc::{Code, Limits, Status};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pages and pieces of watches are asked for in sizes far below the longest message.
const LIMITS: Limits = Limits {
    message: 256 * 1024 * 1024,
    stream_window: 4 * 1024 * 1024,
    connection_window: 4 * 1024 * 1024,
    headers: 64 * 1024,
};
/// A member that is gone without a word is noticed after this and three probes.
const KEEPALIVE: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// One member of the etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host as it was configured: what a certificate must be for.
    pub host: String,
    /// Where it is.
    pub address: SocketAddr,
}

/// An open connection; it ends when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    driver: Arc<Driver>,
}

/// The task that reads and writes.
struct Driver {
    ended: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Connects within a few seconds.
    pub(super) async fn open(
        endpoint: &Endpoint,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> Result<Self, Status> {
        let described = |what: &dyn std::fmt::Display| {
            Status::new(Code::Unavailable, format!("{}: {what}", endpoint.address))
        };
        let opening = async {
            let stream = TcpStream::connect(endpoint.address).await.map_err(|error| described(&error))?;
            stream.set_nodelay(true).map_err(|error| described(&error))?;
            keep_alive(&stream).map_err(|error| described(&error))?;
            let Some(tls) = tls else {
                return Self::over(stream, endpoint, "http").await.map_err(|error| described(&error));
            };
            let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| described(&error))?;
            let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
            let stream = stream.map_err(|error| described(&error))?;
            Self::over(stream, endpoint, "https").await.map_err(|error| described(&error))
        };
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, opening).await;
        opened.unwrap_or_else(|_| Err(described(&"no connection in time")))
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        endpoint: &Endpoint,
        scheme: &str,
    ) -> Result<Self, Status> {
        let (channel, connection) = connect(stream, LIMITS).await?;
        let ended = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let ended = ended.clone();
            async move {
                if let Err(why) = connection.await {
                    tracing::debug!(%why, "connection to etcd ended");
                }
                ended.store(true, Ordering::Relaxed);
            }
        });
        let driver = Arc::new(Driver { ended, task: task.abort_handle() });
        let origin = format!("{scheme}://{}:{}", endpoint.host, endpoint.address.port());
        Ok(Self { channel: channel.with_origin(&origin), driver })
    }

    /// Whether `other` is the same one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.driver, &other.driver)
    }

    /// Whether it has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.driver.ended.load(Ordering::Relaxed)
    }
}

fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    // What was sent and is not acknowledged counts too.
    let patience = KEEPALIVE * (PROBES + 1);
    sockopt::set_tcp_user_timeout(stream, u32::try_from(patience.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}
