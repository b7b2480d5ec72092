//! Workflow "content management": deletion of tags, manifests, blobs; immutable tags, quotas.

use crate::fixture::{Fixture, sha256};

#[tokio::test]
async fn a_tag_goes_and_its_manifest_stays() {
    let registry = Fixture::new();
    let digest = registry.push("a", "v1", b"x").await;
    registry.delete("/v2/a/manifests/v1").await.expect(202);
    registry.get("/v2/a/manifests/v1").await.refused(404, "MANIFEST_UNKNOWN");
    registry.get(&format!("/v2/a/manifests/{digest}")).await.expect(200);
    registry.delete("/v2/a/manifests/v1").await.refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_manifest_goes_with_its_tags() {
    let registry = Fixture::new();
    let digest = registry.push("a", "v1", b"x").await;
    registry.push("a", "v2", b"x").await;
    registry.delete(&format!("/v2/a/manifests/{digest}")).await.expect(202);
    for reference in ["v1", "v2", &digest] {
        registry.get(&format!("/v2/a/manifests/{reference}")).await.refused(404, "MANIFEST_UNKNOWN");
    }
    assert_eq!(registry.get("/v2/a/tags/list").await.json()["tags"].as_array().unwrap().len(), 0);
    registry.delete(&format!("/v2/a/manifests/{digest}")).await.refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_blob_goes_from_one_repository() {
    let registry = Fixture::new();
    let digest = registry.push_blob("a", b"blob").await;
    registry.push_blob("b", b"blob").await;
    registry.delete(&format!("/v2/a/blobs/{digest}")).await.expect(202);
    registry.get(&format!("/v2/a/blobs/{digest}")).await.refused(404, "BLOB_UNKNOWN");
    registry.get(&format!("/v2/b/blobs/{digest}")).await.expect(200);
    registry.delete(&format!("/v2/a/blobs/{digest}")).await.refused(404, "BLOB_UNKNOWN");
    registry.delete(&format!("/v2/b/blobs/{digest}")).await.expect(202);
    let files = registry.path().join("distribution/blobs/sha256");
    assert_eq!(std::fs::read_dir(files).unwrap().count(), 0);
}

#[tokio::test]
async fn an_immutable_tag_is_neither_moved_nor_removed() {
    let registry = Fixture::with("[[immutable]]\nrepositories = \"prod/*\"\ntags = \"v*\"\n");
    let digest = registry.push("prod/a", "v1", b"one").await;
    registry.push("prod/a", "v1", b"one").await;
    let config = registry.push_blob("prod/a", b"{}").await;
    let other = crate::fixture::manifest(&[(&config, 2)], None);
    registry.put_manifest("prod/a", "v1", crate::fixture::OCI, &other).await.refused(403, "DENIED");
    registry.delete("/v2/prod/a/manifests/v1").await.refused(403, "DENIED");
    registry.delete(&format!("/v2/prod/a/manifests/{digest}")).await.refused(403, "DENIED");
    registry.put_manifest("prod/a", "latest", crate::fixture::OCI, &other).await.expect(201);
    assert_eq!(registry.get("/v2/prod/a/manifests/v1").await.header("docker-content-digest"), digest);
}

#[tokio::test]
async fn a_quota_counts_each_blob_once() {
    let registry = Fixture::with("[[quota]]\nrepositories = \"team/*\"\nbytes = \"100\"\n");
    registry.push_blob("team/a", &[1; 60]).await;
    registry.push_blob("team/b", &[1; 60]).await;
    registry.push_blob("team/b", &[2; 40]).await;
    let digest = sha256(b"x");
    let path = |name: &str| format!("/v2/{name}/blobs/uploads/?digest={digest}");
    registry.send("POST", &path("team/a"), &[], "x").await.refused(403, "DENIED");
    registry.send("POST", &path("other"), &[], "x").await.expect(201);
    let uploads = registry.path().join("distribution/uploads");
    assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0);
}
