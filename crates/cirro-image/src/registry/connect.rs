//! Connections to registries: name, address, proxy, TLS, and those that are idle.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cirro_seams::Pending;
use http::Uri;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::reach::{Reach, is_inside};
use super::tls;

/// How long a connection may take to come about, TLS included.
const CONNECT: Duration = Duration::from_secs(15);
/// Idle connections are closed by most servers after a minute.
const IDLE: Duration = Duration::from_secs(30);
const MAX_IDLE: usize = 8;
/// What a proxy may say before the connection stands.
const MAX_PROXY_ANSWER: usize = 8 << 10;

/// The body of a request.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;
/// A connection that is ready for a request.
pub(super) type Sender = SendRequest<RequestBody>;

/// Finds the addresses of a host. Never getaddrinfo: this is one static file.
pub trait Resolve: Send + Sync {
    /// Returns the addresses of a name, at least one.
    fn resolve<'a>(&'a self, name: &'a str) -> Pending<'a, io::Result<Vec<IpAddr>>>;
}

/// Where a connection leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) verify: bool,
}

impl Origin {
    /// Reads an address. `verify` is what holds for the registry that named it.
    pub(super) fn of(uri: &Uri, verify: bool) -> io::Result<Self> {
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(other("unsupported protocol scheme")),
        };
        let host = uri.host().ok_or_else(|| other("no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }), verify })
    }
}

/// Makes connections and keeps idle ones.
pub(super) struct Connector {
    resolver: Arc<dyn Resolve>,
    idle: Mutex<HashMap<Origin, Vec<(Sender, Instant)>>>,
}

impl Connector {
    pub(super) fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver, idle: Mutex::default() }
    }

    /// Returns an idle connection.
    pub(super) fn take_idle(&self, origin: &Origin) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let list = idle.get_mut(origin)?;
        while let Some((sender, since)) = list.pop() {
            if since.elapsed() < IDLE && sender.is_ready() {
                return Some(sender);
            }
        }
        idle.remove(origin);
        None
    }

    /// Takes a connection back whose answer was read to its end.
    pub(super) fn give_back(self: &Arc<Self>, origin: Origin, mut sender: Sender) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            // Ready a moment later: when the connection's task has seen the end.
            if !matches!(timeout(Duration::from_secs(1), sender.ready()).await, Ok(Ok(()))) {
                return;
            }
            let mut idle = this.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|_, list| {
                list.retain(|(sender, since)| since.elapsed() < IDLE && !sender.is_closed());
                !list.is_empty()
            });
            let list = idle.entry(origin).or_default();
            if list.len() < MAX_IDLE {
                list.push((sender, Instant::now()));
            }
        });
    }

    /// Makes a new connection.
    pub(super) async fn connect(&self, origin: &Origin, reach: Reach) -> io::Result<Sender> {
        match timeout(CONNECT, self.open(origin, reach)).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "dial tcp: i/o timeout")),
        }
    }

    async fn open(&self, origin: &Origin, reach: Reach) -> io::Result<Sender> {
        let stream = match proxy_for(origin) {
            Some(proxy) => through(self.dial(&proxy.0, proxy.1, Reach::Any).await?, origin).await?,
            None => self.dial(&origin.host, origin.port, reach).await?,
        };
        if !origin.tls {
            return speak(stream).await;
        }
        let Origin { host, port, verify, .. } = origin.clone();
        let config = tokio::task::spawn_blocking(move || tls::config(&host, port, verify));
        let config = config.await.map_err(io::Error::other)?;
        let name = ServerName::try_from(origin.host.clone()).map_err(|_| other("invalid host name"))?;
        speak(tokio_rustls::TlsConnector::from(config).connect(name, stream).await?).await
    }

    async fn dial(&self, host: &str, port: u16, reach: Reach) -> io::Result<TcpStream> {
        let addresses =
            match host.parse::<IpAddr>() {
                Ok(address) => vec![address],
                Err(_) => self.resolver.resolve(host).await.map_err(|error| {
                    io::Error::new(error.kind(), format!("dial tcp: lookup {host}: {error}"))
                })?,
            };
        let mut last = other("dial tcp: no address");
        for address in addresses.into_iter().take(8) {
            if reach == Reach::Outside && is_inside(address) {
                last = other(&format!("dial tcp {address}: a registry may not send us there"));
                continue;
            }
            let address = SocketAddr::new(address, port);
            // Each address gets a part of the time, so that one that swallows packets leaves some for the others.
            match timeout(CONNECT / 3, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = refused(address, &error),
                Err(_) => last = other(&format!("dial tcp {address}: i/o timeout")),
            }
        }
        Err(last)
    }
}

/// Starts HTTP on a stream; its task ends with the connection.
async fn speak(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> io::Result<Sender> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a registry ended");
        }
    });
    Ok(sender)
}

/// Asks a proxy for a way through.
async fn through(mut stream: TcpStream, origin: &Origin) -> io::Result<TcpStream> {
    let target = if origin.host.contains(':') {
        format!("[{}]:{}", origin.host, origin.port)
    } else {
        format!("{}:{}", origin.host, origin.port)
    };
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the head belongs to TLS.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_PROXY_ANSWER {
            return Err(other("proxyconnect tcp: answer is too long"));
        }
        answer.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&answer);
    match head.split_whitespace().nth(1) {
        Some(status) if status.starts_with('2') => Ok(stream),
        _ => Err(other(&format!("proxyconnect tcp: {}", head.lines().next().unwrap_or_default()))),
    }
}

/// Returns the proxy that the environment names for a host: only TLS goes through one.
fn proxy_for(origin: &Origin) -> Option<(String, u16)> {
    let variable = |names: [&str; 2]| names.iter().find_map(|name| std::env::var(name).ok());
    if !origin.tls
        || origin.host == "localhost"
        || origin.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    {
        return None;
    }
    let proxy = variable(["HTTPS_PROXY", "https_proxy"]).filter(|proxy| !proxy.is_empty())?;
    if is_excepted(&origin.host, &variable(["NO_PROXY", "no_proxy"]).unwrap_or_default()) {
        return None;
    }
    let proxy = if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
    let uri: Uri = proxy.parse().ok()?;
    Some((uri.host()?.to_owned(), uri.port_u16().unwrap_or(80)))
}

/// Tells whether a `NO_PROXY` list names a host.
fn is_excepted(host: &str, list: &str) -> bool {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let name = entry.split(':').next().unwrap_or(entry).trim_start_matches("*.").trim_start_matches('.');
        entry == "*" || host == name || host.ends_with(&format!(".{name}"))
    })
}

fn refused(address: SocketAddr, error: &io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("dial tcp {address}: {why}"))
}

fn other(text: &str) -> io::Error {
    io::Error::other(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_from_the_proxy_are_by_name_and_domain() {
        assert!(is_excepted("a.example.org", "example.org"));
        assert!(is_excepted("a.example.org", "x, .example.org:443"));
        assert!(is_excepted("anything", "*"));
        assert!(!is_excepted("badexample.org", "example.org"));
        assert!(!is_excepted("a", ""));
    }
}
