//! Workflow "push".

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;

use crate::fixture::{Answer, Fixture, INDEX, OCI, manifest, sha256, sha512};

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

async fn start(registry: &Fixture, name: &str) -> String {
    let answer = registry.post(&format!("/v2/{name}/blobs/uploads/")).await.expect(202);
    assert!(!answer.header("docker-upload-uuid").is_empty());
    answer.header("location").to_owned()
}

async fn chunk(registry: &Fixture, location: &str, range: &str, bytes: &[u8]) -> Answer {
    let length = bytes.len().to_string();
    registry
        .send("PATCH", location, &[("content-range", range), ("content-length", &length)], bytes.to_vec())
        .await
}

#[tokio::test]
async fn a_blob_is_pushed_in_one_request() {
    let registry = Fixture::new();
    let digest = sha256(b"blob");
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    let answer = registry.send("POST", &path, &[("content-length", "4")], "blob").await.expect(201);
    assert_eq!(answer.header("location"), format!("/v2/a/blobs/{digest}"));
    assert_eq!(answer.header("docker-content-digest"), digest);
    assert_eq!(&registry.get(answer.header("location")).await.body[..], b"blob");
    // The empty blob is one too.
    let empty = registry.push_blob("a", b"").await;
    assert_eq!(registry.get(&format!("/v2/a/blobs/{empty}")).await.expect(200).body.len(), 0);
}

#[tokio::test]
async fn a_blob_is_pushed_by_post_and_put() {
    let registry = Fixture::new();
    let location = start(&registry, "a").await;
    let digest = sha512(b"blob");
    let answer = registry.send("PUT", &format!("{location}?digest={digest}"), &[], "blob").await.expect(201);
    assert_eq!(&registry.get(answer.header("location")).await.body[..], b"blob");
    // The upload is over.
    registry.get(&location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    let no_digest = start(&registry, "a").await;
    registry.send("PUT", &no_digest, &[], "blob").await.refused(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn another_digest_is_refused_and_nothing_is_kept() {
    let registry = Fixture::new();
    let wrong = sha256(b"other");
    registry
        .send("POST", &format!("/v2/a/blobs/uploads/?digest={wrong}"), &[], "blob")
        .await
        .refused(400, "DIGEST_INVALID");
    let location = start(&registry, "a").await;
    registry
        .send("PUT", &format!("{location}?digest={wrong}"), &[], "blob")
        .await
        .refused(400, "DIGEST_INVALID");
    registry
        .send("PUT", &format!("{location}?digest=md5:00"), &[], "blob")
        .await
        .refused(400, "DIGEST_INVALID");
    let uploads = registry.path().join("distribution/uploads");
    assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0);
}

#[tokio::test]
async fn a_blob_is_pushed_in_chunks_that_follow_each_other() {
    let registry = Fixture::new();
    let location = start(&registry, "a").await;
    let first = chunk(&registry, &location, "0-4", b"01234").await.expect(202);
    assert_eq!((first.header("range"), first.header("location")), ("0-4", location.as_str()));
    // Twice the same, a gap, nonsense, a length that is another: the client is told where to go on.
    for (range, bytes) in [("0-4", &b"01234"[..]), ("7-9", b"789"), ("x", b"567"), ("5-9", b"567")] {
        let refused = chunk(&registry, &location, range, bytes).await.expect(416);
        assert_eq!(
            (refused.header("range"), refused.header("location")),
            ("0-4", location.as_str()),
            "{range}"
        );
    }
    let status = registry.get(&location).await.expect(204);
    assert_eq!((status.header("range"), status.header("location")), ("0-4", location.as_str()));
    chunk(&registry, &location, "5-7", b"567").await.expect(202);
    let digest = sha256(b"0123456789");
    let last = [("content-range", "8-9"), ("content-length", "2")];
    registry
        .send("PUT", &format!("{location}?digest={digest}"), &[("content-range", "9-10")], "89")
        .await
        .expect(416);
    let answer = registry.send("PUT", &format!("{location}?digest={digest}"), &last, "89").await.expect(201);
    assert_eq!(&registry.get(answer.header("location")).await.body[..], b"0123456789");
}

#[tokio::test]
async fn chunks_without_a_range_are_a_stream() {
    let registry = Fixture::new();
    let location = start(&registry, "a").await;
    registry.send("PATCH", &location, &[], "01234").await.expect(202);
    let answer = registry.send("PATCH", &location, &[], "56789").await.expect(202);
    assert_eq!(answer.header("range"), "0-9");
    let digest = sha512(b"0123456789");
    registry.send("PUT", &format!("{location}?digest={digest}"), &[], "").await.expect(201);
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on_where_it_was_even_after_a_crash() {
    let registry = Fixture::new();
    let location = start(&registry, "a").await;
    let broken = stream::iter([Ok(Bytes::from_static(b"01234")), Err(std::io::Error::other("gone"))]);
    registry
        .send("PATCH", &location, &[], Body::from_stream(broken))
        .await
        .refused(400, "BLOB_UPLOAD_INVALID");
    assert_eq!(registry.get(&location).await.expect(204).header("range"), "0-4");
    let registry = registry.again();
    assert_eq!(registry.get(&location).await.expect(204).header("range"), "0-4");
    chunk(&registry, &location, "5-9", b"56789").await.expect(202);
    let digest = sha256(b"0123456789");
    registry.send("PUT", &format!("{location}?digest={digest}"), &[], "").await.expect(201);
}

#[tokio::test]
async fn an_upload_is_cancelled_and_belongs_to_its_repository() {
    let registry = Fixture::new();
    let location = start(&registry, "a").await;
    registry.get(&location.replace("/v2/a/", "/v2/b/")).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    registry.delete(&location).await.expect(204);
    registry.get(&location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    registry.delete(&location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    for id in ["x", "../../x", &"a".repeat(32)] {
        registry.get(&format!("/v2/a/blobs/uploads/{id}")).await.expect(404);
    }
    assert_eq!(std::fs::read_dir(registry.path().join("distribution/uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository() {
    let registry = Fixture::new();
    let digest = registry.push_blob("a", b"blob").await;
    let mounted = registry.post(&format!("/v2/b/blobs/uploads/?mount={digest}&from=a")).await.expect(201);
    assert_eq!(mounted.header("location"), format!("/v2/b/blobs/{digest}"));
    assert_eq!(&registry.get(mounted.header("location")).await.expect(200).body[..], b"blob");
    // From anywhere.
    registry.post(&format!("/v2/c/blobs/uploads/?mount={digest}")).await.expect(201);
    // What is not there is uploaded.
    let unknown = sha256(b"unknown");
    let answer = registry.post(&format!("/v2/b/blobs/uploads/?mount={unknown}&from=a")).await.expect(202);
    assert!(answer.header("location").starts_with("/v2/b/blobs/uploads/"));
    registry.post(&format!("/v2/b/blobs/uploads/?mount={digest}&from=nowhere")).await.expect(202);
}

#[tokio::test]
async fn a_manifest_must_be_one_and_complete() {
    let registry = Fixture::new();
    let config = registry.push_blob("a", b"{}").await;
    let missing = sha256(b"missing");
    let incomplete = manifest(&[(&config, 2), (&missing, 7)], None);
    let answer = registry.put_manifest("a", "v1", OCI, &incomplete).await.expect(400);
    assert_eq!(answer.json()["errors"][0]["detail"], json!([{"digest": missing}]));
    answer.refused(400, "MANIFEST_BLOB_UNKNOWN");
    let wrong_size = manifest(&[(&config, 3)], None);
    registry.put_manifest("a", "v1", OCI, &wrong_size).await.refused(400, "MANIFEST_INVALID");
    let good = manifest(&[(&config, 2)], None);
    registry.put_manifest("a", "v1", INDEX, &good).await.refused(400, "MANIFEST_INVALID");
    registry.put_manifest("a", &missing, OCI, &good).await.refused(400, "DIGEST_INVALID");
    registry.put_manifest("a", "-", OCI, &good).await.refused(400, "MANIFEST_INVALID");
    registry.send("PUT", "/v2/a/manifests/v1", &[], "{").await.refused(400, "MANIFEST_INVALID");
    registry.send("PUT", "/v2/a/manifests/v1", &[], vec![b' '; (4 << 20) + 1]).await.expect(413);
    registry.get("/v2/a/manifests/v1").await.expect(404);
    registry.put_manifest("a", "v1", OCI, &good).await.expect(201);
}

#[tokio::test]
async fn manifests_of_every_kind_are_taken_under_both_digests() {
    let registry = Fixture::new();
    let config = registry.push_blob("a", b"{}").await;
    let mut docker = manifest(&[(&config, 2)], None);
    docker["mediaType"] = json!(DOCKER);
    let digest = registry.put_manifest("a", "docker", DOCKER, &docker).await.expect(201);
    let digest = digest.header("docker-content-digest").to_owned();
    let list_type = "application/vnd.docker.distribution.manifest.list.v2+json";
    let list = json!({"schemaVersion": 2, "mediaType": list_type, "manifests": [
        {"mediaType": DOCKER, "digest": digest, "size": docker.to_string().len(), "platform": {"os": "linux", "architecture": "amd64"}}]});
    registry.put_manifest("a", "list", list_type, &list).await.expect(201);
    assert_eq!(registry.get("/v2/a/manifests/list").await.header("content-type"), list_type);
    let text = manifest(&[(&config, 2)], None);
    let long = sha512(text.to_string().as_bytes());
    let answer = registry.put_manifest("a", &long, OCI, &text).await.expect(201);
    assert_eq!(answer.header("docker-content-digest"), long);
    assert_eq!(registry.get(&format!("/v2/a/manifests/{long}")).await.expect(200).body, text.to_string());
}

/// As helm and oras push them.
#[tokio::test]
async fn artifacts_of_any_type_are_taken() {
    let registry = Fixture::new();
    let chart = registry.push_blob("charts/app", b"chart").await;
    let config = registry.push_blob("charts/app", b"{\"name\":\"app\"}").await;
    let helm = json!({"schemaVersion": 2,
        "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": config, "size": 14},
        "layers": [{"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "digest": chart, "size": 5}]});
    registry.put_manifest("charts/app", "1.0.0", OCI, &helm).await.expect(201);
    let empty = registry.push_blob("files", b"{}").await;
    let file = registry.push_blob("files", b"hello").await;
    let oras = json!({"schemaVersion": 2, "mediaType": OCI, "artifactType": "application/vnd.example",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2, "data": "e30="},
        "layers": [{"mediaType": "text/plain", "digest": file, "size": 5, "annotations": {"org.opencontainers.image.title": "hello.txt"}}]});
    registry.put_manifest("files", "v1", OCI, &oras).await.expect(201);
    assert_eq!(registry.get("/v2/files/manifests/v1").await.body, oras.to_string());
    // What lies elsewhere need not be here.
    let foreign = json!({"schemaVersion": 2, "mediaType": OCI,
        "config": {"mediaType": "x", "digest": empty, "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "digest": sha256(b"far"), "size": 9, "urls": ["https://example.com/far"]}]});
    registry.put_manifest("files", "foreign", OCI, &foreign).await.expect(201);
}
