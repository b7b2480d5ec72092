//! A registry over an empty library, asked without a network.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use cirro_image::Library;
use cirro_image::distribution::{Algorithm, BlobDigest, Distribution};
use cirro_registry::{Config, Mirror, Registry, Upstream};
use cirro_store::MemoryNodeDb;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

pub(crate) const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry and what it is made of.
pub(crate) struct Fixture {
    pub(crate) library: Library,
    pub(crate) distribution: Distribution,
    pub(crate) registry: Registry,
    router: Router,
    db: Arc<MemoryNodeDb>,
    dir: Arc<TempDir>,
    text: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {:?}", self.body))
    }

    /// The code of the first error.
    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.code(), code);
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With a configuration file, asked from the loopback.
    pub(crate) fn with(text: &str) -> Self {
        Self::with_upstream(text, &|_| panic!("there is no mirror"))
    }

    pub(crate) fn with_upstream(text: &str, upstreams: &dyn Fn(&Mirror) -> Arc<dyn Upstream>) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::open(text, upstreams, dir, Arc::new(MemoryNodeDb::new()))
    }

    fn open(
        text: &str,
        upstreams: &dyn Fn(&Mirror) -> Arc<dyn Upstream>,
        dir: Arc<TempDir>,
        db: Arc<MemoryNodeDb>,
    ) -> Self {
        let config = Config::parse(text).unwrap();
        let library = Library::open(dir.path(), db.clone()).unwrap();
        let rules = config.rules(vec!["localhost:5000".into(), "127.0.0.1:5000".into()]);
        let distribution = Distribution::open(&library, rules).unwrap();
        let registry = Registry::new(distribution.clone(), &config, upstreams);
        let router = cirro_registry::router(registry.clone(), SocketAddr::from(([127, 0, 0, 1], 1)));
        Self { library, distribution, registry, router, db, dir, text: text.to_owned() }
    }

    /// The same registry after its process was killed: nothing in memory is left.
    pub(crate) fn again(self) -> Self {
        let Self { db, dir, text, .. } = self;
        Self::open(&text, &|_| panic!("there is no mirror"), dir, db)
    }

    /// The same registry asked from elsewhere.
    pub(crate) fn router_from(&self, peer: &str) -> Router {
        cirro_registry::router(self.registry.clone(), peer.parse().unwrap())
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        send(&self.router, method, path, headers, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Body::empty()).await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.send("HEAD", path, &[], Body::empty()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        self.send("POST", path, &[], Body::empty()).await
    }

    /// Pushes a blob at once; returns its digest.
    pub(crate) async fn push_blob(&self, name: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        self.send("POST", &path, &[], bytes.to_vec()).await.expect(201);
        digest
    }

    pub(crate) async fn put_manifest(
        &self,
        name: &str,
        reference: &str,
        kind: &str,
        manifest: &Value,
    ) -> Answer {
        let path = format!("/v2/{name}/manifests/{reference}");
        self.send("PUT", &path, &[("content-type", kind)], manifest.to_string()).await
    }

    /// Pushes an artifact of one layer; returns the digest of its manifest.
    pub(crate) async fn push(&self, name: &str, reference: &str, contents: &[u8]) -> String {
        let config = self.push_blob(name, b"{}").await;
        let layer = self.push_blob(name, contents).await;
        let manifest = manifest(&[(&config, 2), (&layer, contents.len())], None);
        let answer = self.put_manifest(name, reference, OCI, &manifest).await.expect(201);
        answer.header("docker-content-digest").to_owned()
    }
}

pub(crate) async fn send(
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost:5000");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    BlobDigest::of(Algorithm::Sha256, bytes).to_string()
}

pub(crate) fn sha512(bytes: &[u8]) -> String {
    BlobDigest::of(Algorithm::Sha512, bytes).to_string()
}

/// A manifest of a configuration and layers.
pub(crate) fn manifest(blobs: &[(&str, usize)], subject: Option<&str>) -> Value {
    let descriptor = |(digest, size): &(&str, usize)| json!({"mediaType": "application/octet-stream", "digest": digest, "size": size});
    let mut manifest = json!({"schemaVersion": 2, "mediaType": OCI, "config": descriptor(&blobs[0]),
        "layers": blobs[1..].iter().map(descriptor).collect::<Vec<_>>()});
    if let Some(subject) = subject {
        manifest["subject"] = json!({"mediaType": OCI, "digest": subject, "size": 1});
    }
    manifest
}
