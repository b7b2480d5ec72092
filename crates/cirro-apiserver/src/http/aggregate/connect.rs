//! Connections to aggregated servers: an endpoint of their service, by the node, over TLS with our certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT, HOST, USER_AGENT};
use axum::http::{HeaderValue, Request, StatusCode};
use bytes::Bytes;
use cirro_seams::node::Connection;
use http_body_util::{BodyExt as _, Limited};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use serde_json::Value;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Remote, Shared};
use crate::admission::outside::{endpoint, roots};
use crate::http::proxy::{Unverified, reachable, send};
use crate::json;
use crate::storage::Storage;

/// How long an endpoint gets to accept a connection and to greet.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no connection.
pub(super) enum Failure {
    /// The service leads nowhere.
    Nowhere(String),
    /// Where it leads, nobody answers.
    Unreachable(String),
}

impl Failure {
    pub(super) fn text(self) -> String {
        match self {
            Self::Nowhere(why) | Self::Unreachable(why) => why,
        }
    }
}

/// Reads how an APIService wants its server to be known.
pub(super) fn tls(
    storage: &Storage,
    shared: &Shared,
    spec: &Value,
) -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|why| why.to_string())?;
    let builder = if spec["insecureSkipTLSVerify"] == true {
        builder.dangerous().with_custom_certificate_verifier(Unverified::new(provider))
    } else {
        builder.with_root_certificates(roots(storage, json::text(spec, "caBundle"))?)
    };
    Ok(Arc::new(match &shared.front_proxy {
        Some(proxy) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(proxy.client.clone())))
        }
        None => builder.with_no_client_auth(),
    }))
}

impl Shared {
    /// Connects to an endpoint of a remote one.
    pub(super) async fn connect(
        &self,
        storage: &Storage,
        remote: &Remote,
    ) -> Result<(TlsStream<Connection>, SocketAddr), Failure> {
        let service = &remote.service;
        let found = endpoint(storage, &service.namespace, &service.name, service.port).await;
        let address = found.map_err(Failure::Nowhere)?;
        reachable(address.ip()).map_err(|refusal| Failure::Nowhere(refusal.message))?;
        let node = self.node.read().expect("no panic while it is held").clone();
        let node = node.ok_or_else(|| Failure::Nowhere("the node is not ready to serve streams".into()))?;
        let tls = remote.tls.clone().map_err(Failure::Unreachable)?;
        let name = ServerName::try_from(service.host());
        let name = name.map_err(|why| Failure::Unreachable(why.to_string()))?;
        let connecting = async {
            let stream = node.connect(address).await.map_err(|why| why.to_string())?;
            TlsConnector::from(tls).connect(name, stream).await.map_err(|why| format!("tls: {why}"))
        };
        let connected = tokio::time::timeout(PATIENCE, connecting).await;
        let connected = connected.unwrap_or_else(|_| Err(format!("dial tcp {address}: i/o timeout")));
        connected.map(|stream| (stream, address)).map_err(Failure::Unreachable)
    }

    /// Gets a document of a remote one as the aggregator itself, at most `limit` bytes of it.
    pub(super) async fn get(
        &self,
        storage: &Storage,
        remote: &Remote,
        path: &str,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), String> {
        let (stream, _) = self.connect(storage, remote).await.map_err(Failure::text)?;
        let mut request = Request::get(path).body(Body::empty()).map_err(|why| why.to_string())?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("kube-aggregator"));
        headers.insert("x-remote-user", HeaderValue::from_static("system:kube-aggregator"));
        headers.insert("x-remote-group", HeaderValue::from_static("system:masters"));
        let host = HeaderValue::try_from(remote.service.host()).map_err(|why| why.to_string())?;
        headers.insert(HOST, host);
        let response = send(stream, request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), limit).collect().await;
        Ok((status, body.map_err(|why| why.to_string())?.to_bytes()))
    }
}
