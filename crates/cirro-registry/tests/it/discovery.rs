//! Workflow "content discovery": tags, catalog, referrers.

use serde_json::{Value, json};

use crate::fixture::{Fixture, INDEX, OCI, manifest, sha256};

#[tokio::test]
async fn tags_come_in_pages() {
    let registry = Fixture::new();
    for tag in ["b", "a", "C", "d"] {
        registry.push("x/y", tag, b"layer").await;
    }
    let all = registry.get("/v2/x/y/tags/list").await.expect(200).json();
    assert_eq!(all, json!({"name": "x/y", "tags": ["a", "b", "C", "d"]}));
    let first = registry.get("/v2/x/y/tags/list?n=3").await.expect(200);
    assert_eq!(first.json()["tags"], json!(["a", "b", "C"]));
    assert_eq!(first.header("link"), "</v2/x/y/tags/list?n=3&last=C>; rel=\"next\"");
    let second = registry.get("/v2/x/y/tags/list?n=3&last=C").await.expect(200);
    assert_eq!((second.json()["tags"].clone(), second.header("link")), (json!(["d"]), ""));
    assert_eq!(registry.get("/v2/x/y/tags/list?last=a").await.json()["tags"], json!(["b", "C", "d"]));
    assert_eq!(registry.get("/v2/x/y/tags/list?n=0").await.expect(200).json()["tags"], json!([]));
    registry.get("/v2/x/y/tags/list?n=x").await.refused(400, "PAGINATION_NUMBER_INVALID");
    registry.get("/v2/nowhere/tags/list").await.refused(404, "NAME_UNKNOWN");
}

#[tokio::test]
async fn the_catalog_lists_repositories_in_pages() {
    let registry = Fixture::new();
    for name in ["b", "a/x", "c"] {
        registry.push(name, "v1", b"layer").await;
    }
    assert_eq!(
        registry.get("/v2/_catalog").await.expect(200).json(),
        json!({"repositories": ["a/x", "b", "c"]})
    );
    let page = registry.get("/v2/_catalog?n=2").await.expect(200);
    assert_eq!(page.json()["repositories"], json!(["a/x", "b"]));
    assert_eq!(page.header("link"), "</v2/_catalog?n=2&last=b>; rel=\"next\"");
}

async fn referrer(registry: &Fixture, subject: &str, kind: Option<&str>, note: &str) -> String {
    let config = registry.push_blob("a", b"{}").await;
    let mut manifest = manifest(&[(&config, 2)], Some(subject));
    manifest["annotations"] = json!({"note": note});
    match kind {
        Some(kind) => manifest["artifactType"] = json!(kind),
        None => manifest["config"]["mediaType"] = json!("application/vnd.from.config"),
    }
    let digest = sha256(manifest.to_string().as_bytes());
    let answer = registry.put_manifest("a", &digest, OCI, &manifest).await.expect(201);
    assert_eq!(answer.header("oci-subject"), subject);
    digest
}

async fn referrers(registry: &Fixture, subject: &str, filter: &str) -> (Vec<Value>, String) {
    let answer = registry.get(&format!("/v2/a/referrers/{subject}{filter}")).await.expect(200);
    assert_eq!(answer.header("content-type"), INDEX);
    let index = answer.json();
    assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(INDEX)));
    (index["manifests"].as_array().unwrap().clone(), answer.header("oci-filters-applied").to_owned())
}

#[tokio::test]
async fn referrers_are_found_even_before_their_subject_is_there() {
    let registry = Fixture::new();
    let subject = sha256(b"not there yet");
    assert!(referrers(&registry, &subject, "").await.0.is_empty());
    let sbom = referrer(&registry, &subject, Some("application/vnd.sbom"), "one").await;
    let signature = referrer(&registry, &subject, None, "two").await;
    let (all, filters) = referrers(&registry, &subject, "").await;
    assert_eq!((all.len(), filters.as_str()), (2, ""));
    let (sboms, filters) = referrers(&registry, &subject, "?artifactType=application/vnd.sbom").await;
    assert_eq!(filters, "artifactType");
    assert_eq!(sboms.len(), 1);
    assert_eq!(sboms[0]["digest"], json!(sbom));
    assert_eq!(
        (&sboms[0]["artifactType"], &sboms[0]["annotations"]["note"]),
        (&json!("application/vnd.sbom"), &json!("one"))
    );
    assert!(sboms[0]["size"].as_u64().unwrap() > 0);
    let (others, _) = referrers(&registry, &subject, "?artifactType=application/vnd.from.config").await;
    assert_eq!(others[0]["digest"], json!(signature));
    assert!(referrers(&registry, &subject, "?artifactType=none").await.0.is_empty());
    registry.delete(&format!("/v2/a/manifests/{sbom}")).await.expect(202);
    assert_eq!(referrers(&registry, &subject, "").await.0.len(), 1);
    registry.get("/v2/a/referrers/sha256:x").await.refused(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn an_index_may_refer_to_a_subject_too() {
    let registry = Fixture::new();
    let subject = registry.push("a", "v1", b"x").await;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "artifactType": "application/vnd.bundle", "manifests": [],
        "subject": {"mediaType": OCI, "digest": subject, "size": 1}});
    let answer = registry.put_manifest("a", "bundle", INDEX, &index).await.expect(201);
    assert_eq!(answer.header("oci-subject"), subject);
    let (found, _) = referrers(&registry, &subject, "").await;
    assert_eq!(
        (&found[0]["mediaType"], &found[0]["artifactType"]),
        (&json!(INDEX), &json!("application/vnd.bundle"))
    );
}
