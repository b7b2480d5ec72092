//! Pull-through: fetched once, kept, served without its upstream.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use cirro_registry::{Found, Upstream, UpstreamError};
use cirro_seams::Pending;
use tokio::sync::mpsc;

use crate::fixture::{Fixture, OCI, manifest, sha256};

/// A registry that counts.
#[derive(Default)]
struct Simulated {
    manifests: HashMap<String, Bytes>,
    blobs: HashMap<String, Bytes>,
    asked: AtomicUsize,
    fetched: AtomicUsize,
    down: AtomicBool,
}

impl Simulated {
    fn answer<T>(&self, found: Option<T>) -> Result<T, UpstreamError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(UpstreamError::Unreachable("it is down".into()));
        }
        found.ok_or(UpstreamError::NotFound)
    }
}

impl Upstream for Simulated {
    fn manifest(&self, repository: &str, reference: &str) -> Pending<'_, Result<Found, UpstreamError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let found = self.manifests.get(&format!("{repository}:{reference}")).cloned();
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.answer(found.map(|bytes| Found { bytes, media_type: OCI.into() }))
        })
    }

    fn blob(
        &self,
        _repository: &str,
        digest: &str,
        pieces: mpsc::Sender<Bytes>,
    ) -> Pending<'_, Result<(), UpstreamError>> {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        let found = self.blobs.get(digest).cloned();
        Box::pin(async move {
            let bytes = self.answer(found)?;
            for piece in bytes.chunks(3) {
                let _ = pieces.send(Bytes::copy_from_slice(piece)).await;
            }
            Ok(())
        })
    }
}

fn upstream() -> (Arc<Simulated>, String) {
    let (config, layer) = (sha256(b"{}"), sha256(b"layer"));
    let document = manifest(&[(&config, 2), (&layer, 5)], None).to_string();
    let digest = sha256(document.as_bytes());
    let simulated = Simulated {
        manifests: ["library/node:latest".to_owned(), format!("library/node:{digest}")]
            .map(|key| (key, Bytes::from(document.clone())))
            .into(),
        blobs: [(config, Bytes::from_static(b"{}")), (layer, Bytes::from_static(b"layer"))].into(),
        ..Simulated::default()
    };
    (Arc::new(simulated), digest)
}

fn mirror(upstream: &Arc<Simulated>, revalidate: &str) -> Fixture {
    let text = format!(
        "[[mirror]]\nprefix = \"hub\"\nupstream = \"http://hub.test\"\nrevalidate = \"{revalidate}\"\n"
    );
    Fixture::with_upstream(&text, &|_| upstream.clone())
}

#[tokio::test]
async fn what_is_asked_for_at_once_is_fetched_once() {
    let (upstream, digest) = upstream();
    let registry = Arc::new(mirror(&upstream, "60s"));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let registry = registry.clone();
        asking.spawn(async move { registry.get("/v2/hub/library/node/manifests/latest").await });
    }
    while let Some(answer) = asking.join_next().await {
        assert_eq!(answer.unwrap().expect(200).header("docker-content-digest"), digest);
    }
    assert_eq!((upstream.asked.load(Ordering::Relaxed), upstream.fetched.load(Ordering::Relaxed)), (1, 2));
    let layer = registry.get(&format!("/v2/hub/library/node/blobs/{}", sha256(b"layer"))).await.expect(200);
    assert_eq!(&layer.body[..], b"layer");
    registry.get(&format!("/v2/hub/library/node/manifests/{digest}")).await.expect(200);
    assert_eq!(upstream.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_is_here_is_served_while_upstream_is_down() {
    let (upstream, digest) = upstream();
    let registry = mirror(&upstream, "0s");
    registry.get("/v2/hub/library/node/manifests/latest").await.expect(200);
    upstream.down.store(true, Ordering::Relaxed);
    let cached = registry.get("/v2/hub/library/node/manifests/latest").await.expect(200);
    assert_eq!(cached.header("docker-content-digest"), digest);
    assert_eq!(upstream.asked.load(Ordering::Relaxed), 2);
    registry.get(&format!("/v2/hub/library/node/blobs/{}", sha256(b"layer"))).await.expect(200);
    registry.get("/v2/hub/library/other/manifests/latest").await.expect(502);
}

#[tokio::test]
async fn what_upstream_does_not_have_is_unknown() {
    let (upstream, _) = upstream();
    let registry = mirror(&upstream, "60s");
    registry.get("/v2/hub/library/none/manifests/latest").await.refused(404, "NAME_UNKNOWN");
    registry
        .get(&format!("/v2/hub/library/node/blobs/{}", sha256(b"none")))
        .await
        .refused(404, "BLOB_UNKNOWN");
    // Below no mirror nobody is asked.
    let asked = upstream.asked.load(Ordering::Relaxed);
    registry.get("/v2/library/node/manifests/latest").await.refused(404, "NAME_UNKNOWN");
    assert_eq!(upstream.asked.load(Ordering::Relaxed), asked);
    assert_eq!(std::fs::read_dir(registry.path().join("distribution/uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_forged_blob_is_not_kept() {
    let (layer, document) = (sha256(b"layer"), manifest(&[(&sha256(b"layer"), 5)], None).to_string());
    let simulated = Simulated {
        manifests: [("x:v1".to_owned(), Bytes::from(document))].into(),
        blobs: [(layer.clone(), Bytes::from_static(b"liar!"))].into(),
        ..Simulated::default()
    };
    let upstream = Arc::new(simulated);
    let registry = mirror(&upstream, "60s");
    registry.get("/v2/hub/x/manifests/v1").await.refused(400, "DIGEST_INVALID");
    registry.get(&format!("/v2/hub/x/blobs/{layer}")).await.expect(400);
}

/// An upstream of one document and one blob, under these names.
fn forged(name: &str, document: &str, blob: (&str, &'static [u8])) -> Fixture {
    let simulated = Simulated {
        manifests: [(name.to_owned(), Bytes::from(document.to_owned()))].into(),
        blobs: [(blob.0.to_owned(), Bytes::from_static(blob.1))].into(),
        ..Simulated::default()
    };
    mirror(&Arc::new(simulated), "60s")
}

#[tokio::test]
async fn a_poisoned_upstream_gets_nothing_in() {
    let layer = sha256(b"layer");
    let document = manifest(&[(&layer, 5)], None).to_string();
    let uploads =
        |registry: &Fixture| std::fs::read_dir(registry.path().join("distribution/uploads")).unwrap().count();
    // Another document for a digest.
    let wanted = sha256(b"another");
    let registry = forged(&format!("x:{wanted}"), &document, (&layer, b"layer"));
    let refused = registry.get(&format!("/v2/hub/x/manifests/{wanted}")).await;
    assert!(refused.status >= 400, "{refused:?}");
    let document_digest = sha256(document.as_bytes());
    registry.get(&format!("/v2/hub/x/manifests/{document_digest}")).await.expect(404);
    // More bytes than the manifest says: nothing of it stays on the disk.
    let registry = forged("x:v1", &document, (&layer, b"layer and much more"));
    registry.get("/v2/hub/x/manifests/v1").await.expect(502);
    registry.get("/v2/hub/x/manifests/v1").await.expect(502);
    assert_eq!(uploads(&registry), 0);
    // Fewer.
    let registry = forged("x:v1", &document, (&layer, b"lay"));
    registry.get("/v2/hub/x/manifests/v1").await.refused(400, "DIGEST_INVALID");
    assert_eq!(uploads(&registry), 0);
    // No manifest at all.
    let registry = forged("x:v1", "<html>login</html>", (&layer, b"layer"));
    registry.get("/v2/hub/x/manifests/v1").await.refused(400, "MANIFEST_INVALID");
}

#[tokio::test]
async fn a_client_that_leaves_does_not_undo_what_others_wait_for() {
    let (upstream, _) = upstream();
    let registry = Arc::new(mirror(&upstream, "60s"));
    let path = format!("/v2/hub/library/node/blobs/{}", sha256(b"layer"));
    let leaving = registry.get(&path);
    // Polled once, then dropped.
    tokio::select! { biased; _ = leaving => {}, () = tokio::task::yield_now() => {} }
    let answer = registry.get(&path).await.expect(200);
    assert_eq!(&answer.body[..], b"layer");
    assert_eq!(std::fs::read_dir(registry.path().join("distribution/uploads")).unwrap().count(), 0);
}
