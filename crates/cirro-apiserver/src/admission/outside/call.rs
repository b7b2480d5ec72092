//! One question to a webhook over HTTPS.
//!
//! Redirects are not followed, and what comes back is bounded in size and time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::json;
use crate::selector::Selector;
use crate::storage::{ListOptions, Place, Storage};

/// Largest answer.
const MAX_ANSWER: usize = 3 * 1024 * 1024;

/// Where a webhook is.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    config: Value,
    timeout: Duration,
}

/// An address, and what the server there is called.
struct Address {
    socket: SocketAddr,
    name: String,
    /// For the request's head.
    host: String,
    path: String,
}

impl Target {
    /// Reads `clientConfig`.
    pub(crate) fn read(config: &Value, timeout: Duration) -> Self {
        Self { config: config.clone(), timeout }
    }

    /// Returns the URL as errors show it.
    pub(crate) fn url(&self) -> String {
        match self.config.get("url").and_then(Value::as_str) {
            Some(url) => url.to_owned(),
            None => {
                let service = &self.config["service"];
                let (name, namespace) = (json::text(service, "name"), json::text(service, "namespace"));
                let port = json::number(service, "port").unwrap_or(443);
                format!("https://{name}.{namespace}.svc:{port}{}", path_of(service))
            }
        }
    }

    /// Sends an admission review and returns the answer.
    pub(crate) async fn ask(&self, storage: &Storage, review: &Value) -> Result<Value, String> {
        let answer = self.post(storage, review).await;
        answer.map_err(|why| format!("failed to call webhook: {why}"))
    }

    /// Sends a review of any sort and returns the answer.
    pub(crate) async fn post(&self, storage: &Storage, review: &Value) -> Result<Value, String> {
        let seconds = self.timeout.as_secs();
        match tokio::time::timeout(self.timeout, self.exchange(storage, review)).await {
            Ok(answer) => answer.map_err(|why| format!("Post \"{}?timeout={seconds}s\": {why}", self.url())),
            Err(_) => Err(format!("Post \"{}?timeout={seconds}s\": context deadline exceeded", self.url())),
        }
    }

    async fn exchange(&self, storage: &Storage, review: &Value) -> Result<Value, String> {
        let address = self.address(storage).await?;
        let name = ServerName::try_from(address.name.clone()).map_err(|why| why.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(self.tls(storage)?);
        let stream = TcpStream::connect(address.socket)
            .await
            .map_err(|why| format!("dial tcp {}: {why}", address.socket))?;
        let stream = connector.connect(name, stream).await.map_err(|why| format!("tls: {why}"))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|why| why.to_string())?;
        let path = format!("{}?timeout={}s", address.path, self.timeout.as_secs());
        let request = http::Request::post(path)
            .header("host", &address.host)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .header("user-agent", "kube-apiserver-admission")
            .body(Full::new(Bytes::from(review.to_string())))
            .map_err(|why| why.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|why| why.to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|why| why.to_string())?.to_bytes();
            if !status.is_success() {
                return Err(format!("the server answered {status}"));
            }
            serde_json::from_slice(&body).map_err(|why| format!("couldn't get a review: {why}"))
        };
        tokio::select! {
            answer = answer => answer,
            // It ends with the answer; alone it ends only in an error.
            Err(why) = connection => Err(why.to_string()),
        }
    }

    fn tls(&self, storage: &Storage) -> Result<Arc<rustls::ClientConfig>, String> {
        let roots = roots(storage, json::text(&self.config, "caBundle"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|why| why.to_string())?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }

    async fn address(&self, storage: &Storage) -> Result<Address, String> {
        if let Some(url) = self.config.get("url").and_then(Value::as_str) {
            return address_of(url);
        }
        let service = &self.config["service"];
        let (name, namespace) = (json::text(service, "name"), json::text(service, "namespace"));
        let port = json::number(service, "port").unwrap_or(443);
        let socket = endpoint(storage, namespace, name, port).await?;
        let host = format!("{name}.{namespace}.svc");
        Ok(Address { socket, host: format!("{host}:{port}"), name: host, path: path_of(service) })
    }
}

/// Reads a `caBundle`; without one the cloud's own authority is believed.
pub(crate) fn roots(storage: &Storage, bundle: &str) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    let pem = match (bundle, &storage.pki) {
        ("", Some(pki)) => pki.ca().as_bytes().to_vec(),
        (bundle, _) => base64::engine::general_purpose::STANDARD
            .decode(bundle)
            .map_err(|why| format!("caBundle: {why}"))?,
    };
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|why| format!("caBundle: {why}"))?;
        roots.add(certificate).map_err(|why| format!("caBundle: {why}"))?;
    }
    Ok(roots)
}

fn path_of(service: &Value) -> String {
    match json::text(service, "path") {
        "" => "/".into(),
        path if path.starts_with('/') => path.into(),
        path => format!("/{path}"),
    }
}

/// Reads a URL. Its host is an address or this host: the server has no resolver.
fn address_of(url: &str) -> Result<Address, String> {
    let uri: http::Uri = url.parse().map_err(|why: http::uri::InvalidUri| why.to_string())?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let ip = match host.as_str() {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host
            .parse()
            .map_err(|_| format!("lookup {host}: names outside of the cluster are not supported"))?,
    };
    let port = uri.port_u16().unwrap_or(443);
    let path = uri.path().to_owned();
    Ok(Address { socket: SocketAddr::new(ip, port), host: format!("{host}:{port}"), name: host, path })
}

/// Finds an address behind a service, which this process reaches without the node's balancer.
pub(crate) async fn endpoint(
    storage: &Storage,
    namespace: &str,
    name: &str,
    port: i64,
) -> Result<SocketAddr, String> {
    let kind = storage.registry.kind("", "services").expect("services are built in");
    let service = storage.get(Place { kind, namespace, name }).await.map_err(|refusal| refusal.message)?;
    let ports = json::array(&service, "spec.ports");
    let wanted = ports.iter().find(|one| json::number(one, "port") == Some(port));
    let wanted = wanted.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let kind = storage.registry.kind("discovery.k8s.io", "endpointslices").expect("slices are built in");
    let selector = Selector::parse(kind, &format!("kubernetes.io/service-name={name}"), "");
    let options =
        ListOptions { selector: selector.map_err(|refusal| refusal.message)?, ..ListOptions::default() };
    let page = storage.list(kind, Some(namespace), &options).await.map_err(|refusal| refusal.message)?;
    for record in &page.records {
        let slice = storage.decoded.decode(record).map_err(|refusal| refusal.message)?;
        let ports = json::array(&slice, "ports");
        let same_name = |one: &&Value| json::text(one, "name") == json::text(wanted, "name");
        let Some(port) = ports.iter().find(same_name).and_then(|one| json::number(one, "port")) else {
            continue;
        };
        let ready = json::array(&slice, "endpoints").iter().filter(|one| one["conditions"]["ready"] != false);
        let found = ready
            .flat_map(|one| json::array(one, "addresses"))
            .filter_map(Value::as_str)
            .find_map(|ip| ip.parse().ok());
        if let (Some(ip), Ok(port)) = (found, u16::try_from(port)) {
            return Ok(SocketAddr::new(ip, port));
        }
    }
    Err(format!("no endpoints available for service {name:?}"))
}
