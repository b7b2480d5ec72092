//! The Kubernetes API without its client: HTTP/1.1 over TLS with the administrator's certificate, connections
//! kept open.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where the API is and who asks.
#[derive(Clone)]
pub(super) struct Api {
    address: String,
    tls: Arc<rustls::ClientConfig>,
}

impl Api {
    /// Reads an administrator's kubeconfig.
    pub(super) fn open(address: &str, kubeconfig: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(kubeconfig)?;
        let pem = |name: &str| -> anyhow::Result<Vec<u8>> {
            let value =
                text.lines().find_map(|line| line.trim().strip_prefix(name)).context("a kubeconfig")?;
            Ok(STANDARD.decode(value.trim())?)
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem("certificate-authority-data:")?)?)?;
        let chain = vec![CertificateDer::from_pem_slice(&pem("client-certificate-data:")?)?];
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data:")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self { address: address.to_owned(), tls: Arc::new(tls) })
    }

    /// Opens a connection for whole answers.
    pub(super) async fn connect(&self) -> anyhow::Result<Line> {
        Ok(Line { stream: self.stream().await?, buffer: Vec::new() })
    }

    /// Opens a connection for an answer that comes piece by piece.
    pub(super) async fn listen(&self) -> anyhow::Result<Connection> {
        let (sender, connection) = handshake(TokioIo::new(self.stream().await?)).await?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }

    async fn stream(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(self.tls.clone());
        Ok(connector.connect(ServerName::try_from("localhost")?, stream).await?)
    }
}

/// One connection; one request at a time.
pub(super) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    /// Sends a request; returns the answer when its head is there.
    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        self.0.ready().await?;
        Ok(self.0.send_request(request).await?)
    }
}

/// A connection that asks and reads whole answers, with as little work as can be: what clients use of the processors is
/// missing to the server.
pub(super) struct Line {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Line {
    /// Sends a request and reads the answer to its end; returns its length.
    pub(super) async fn ask(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<usize> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        let head = loop {
            self.more().await?;
            let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
        };
        let said = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        let length = said.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("the answer's length")?.trim().parse()?;
        while self.buffer.len() < head + length {
            self.more().await?;
        }
        let status = said.split(' ').nth(1).unwrap_or_default();
        if !status.starts_with('2') {
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&self.buffer[head..]));
        }
        Ok(length)
    }

    /// The same for what is only read.
    pub(super) async fn get(&mut self, path: &str) -> anyhow::Result<usize> {
        self.ask("GET", path, "").await
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        self.buffer.reserve(64 * 1024);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server hung up");
        }
        Ok(())
    }
}
