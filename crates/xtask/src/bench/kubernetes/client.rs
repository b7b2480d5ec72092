//! The Kubernetes API without its client: HTTP/1.1 over TLS with the administrator's certificate, connections
//! kept open.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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

    /// Opens a connection.
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(self.tls.clone()).connect(ServerName::try_from("localhost")?, stream);
        let (sender, connection) = handshake(TokioIo::new(stream.await?)).await?;
        tokio::spawn(connection);
        Ok(Connection(sender))
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

    /// Sends a request and reads the answer to its end; returns its length.
    pub(super) async fn ask(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<usize> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let mut body = response.into_body();
        let (mut length, mut beginning) = (0, Vec::new());
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                length += data.len();
                if !status.is_success() {
                    beginning.extend_from_slice(&data);
                }
            }
        }
        if !status.is_success() {
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&beginning));
        }
        Ok(length)
    }

    /// The same for what is only read.
    pub(super) async fn get(&mut self, path: &str) -> anyhow::Result<usize> {
        self.ask(Method::GET, path, Bytes::new()).await
    }
}
