//! Workflow "pull".

use crate::fixture::{Fixture, INDEX, OCI, manifest, sha256};
use serde_json::json;

#[tokio::test]
async fn the_base_tells_that_the_api_is_there() {
    let registry = Fixture::new();
    for path in ["/v2/", "/v2"] {
        let answer = registry.get(path).await.expect(200);
        assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
    }
    registry.get("/").await.refused(404, "NOT_FOUND");
    registry.post("/v2/").await.refused(405, "UNSUPPORTED");
}

#[tokio::test]
async fn a_blob_is_read_whole_and_in_parts() {
    let registry = Fixture::new();
    let digest = registry.push_blob("a/b", b"0123456789").await;
    let path = format!("/v2/a/b/blobs/{digest}");
    let head = registry.head(&path).await.expect(200);
    assert_eq!(
        (head.header("content-length"), head.header("docker-content-digest")),
        ("10", digest.as_str())
    );
    assert!(head.body.is_empty());
    let whole = registry.get(&path).await.expect(200);
    assert_eq!(&whole.body[..], b"0123456789");
    assert_eq!(
        (whole.header("accept-ranges"), whole.header("content-type")),
        ("bytes", "application/octet-stream")
    );
    for (range, body, shown) in
        [("0-3", "0123", "bytes 0-3/10"), ("8-", "89", "bytes 8-9/10"), ("-2", "89", "bytes 8-9/10")]
    {
        let part = registry.send("GET", &path, &[("range", &format!("bytes={range}"))], "").await.expect(206);
        assert_eq!((&part.body[..], part.header("content-range")), (body.as_bytes(), shown));
    }
    let beyond = registry.send("GET", &path, &[("range", "bytes=10-")], "").await.expect(416);
    assert_eq!(beyond.header("content-range"), "bytes */10");
    registry.send("GET", &path, &[("if-none-match", &format!("\"{digest}\""))], "").await.expect(304);
}

#[tokio::test]
async fn what_is_not_there_is_told_with_its_code() {
    let registry = Fixture::new();
    registry.push("a", "v1", b"x").await;
    let digest = sha256(b"nowhere");
    registry.get(&format!("/v2/a/blobs/{digest}")).await.refused(404, "BLOB_UNKNOWN");
    registry.head(&format!("/v2/a/blobs/{digest}")).await.expect(404);
    registry.get("/v2/a/manifests/v2").await.refused(404, "MANIFEST_UNKNOWN");
    registry.get(&format!("/v2/a/manifests/{digest}")).await.refused(404, "MANIFEST_UNKNOWN");
    registry.get("/v2/b/manifests/v1").await.refused(404, "NAME_UNKNOWN");
    registry.get("/v2/a/blobs/sha256:x").await.refused(400, "DIGEST_INVALID");
    registry.get("/v2/A/manifests/v1").await.refused(400, "NAME_INVALID");
    // A blob of one repository is not one of another.
    let own = registry.push_blob("a", b"own").await;
    registry.get(&format!("/v2/b/blobs/{own}")).await.refused(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn a_manifest_is_read_by_tag_and_by_digest() {
    let registry = Fixture::new();
    let digest = registry.push("a", "v1", b"x").await;
    for reference in ["v1", &digest] {
        let path = format!("/v2/a/manifests/{reference}");
        let got = registry.get(&path).await.expect(200);
        assert_eq!(
            (sha256(&got.body), got.header("docker-content-digest")),
            (digest.clone(), digest.as_str())
        );
        assert_eq!(got.header("content-type"), OCI);
        let head = registry.head(&path).await.expect(200);
        assert_eq!(head.header("content-length"), got.body.len().to_string());
        assert!(head.body.is_empty());
    }
}

#[tokio::test]
async fn a_client_that_knows_no_index_gets_the_image_for_this_host() {
    let registry = Fixture::new();
    let blob = registry.push_blob("a", b"{}").await;
    let one = manifest(&[(&blob, 2)], None);
    let digest = registry
        .put_manifest("a", "one", OCI, &one)
        .await
        .expect(201)
        .header("docker-content-digest")
        .to_owned();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": OCI, "digest": sha256(b"elsewhere"), "size": 1, "platform": {"os": "plan9", "architecture": "mips"}},
        {"mediaType": OCI, "digest": digest, "size": one.to_string().len(), "platform": {"os": "linux", "architecture": architecture}}]});
    registry.put_manifest("a", "all", INDEX, &index).await.expect(201);
    let accepts = |kinds| registry.send("GET", "/v2/a/manifests/all", kinds, "");
    assert_eq!(accepts(&[]).await.header("content-type"), INDEX);
    assert_eq!(accepts(&[("accept", "*/*")]).await.header("content-type"), INDEX);
    assert_eq!(accepts(&[("accept", INDEX), ("accept", OCI)]).await.header("content-type"), INDEX);
    assert_eq!(accepts(&[("accept", OCI)]).await.expect(200).header("docker-content-digest"), digest);
}
