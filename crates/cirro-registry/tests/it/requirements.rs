//! What the specification asks for at its edges; the list of all is in docs/compatibility-registry.md.

use serde_json::json;

use crate::fixture::{Fixture, OCI, manifest};

#[tokio::test]
async fn names_and_tags_are_those_of_the_specification() {
    let registry = Fixture::new();
    let long_tag = "t".repeat(128);
    for (name, tag) in [("a", long_tag.as_str()), ("a/b-c/d__e/f.g/0", "_x.Y-9"), ("a---b", "A")] {
        let digest = registry.push(name, tag, b"x").await;
        let found = registry.get(&format!("/v2/{name}/manifests/{tag}")).await.expect(200);
        assert_eq!(found.header("docker-content-digest"), digest);
    }
    for tag in [&"t".repeat(129), "-x", ".x", "a+b"] {
        registry.get(&format!("/v2/a/manifests/{tag}")).await.refused(400, "MANIFEST_INVALID");
    }
    for name in ["A", "a//b", "-a", "a-", "a___b", "a..b", "a/-b"] {
        registry.get(&format!("/v2/{name}/tags/list")).await.refused(400, "NAME_INVALID");
    }
}

#[tokio::test]
async fn a_manifest_of_four_mebibytes_is_taken() {
    let registry = Fixture::new();
    let config = registry.push_blob("a", b"{}").await;
    let mut large = manifest(&[(&config, 2)], None);
    large["annotations"] = json!({"fill": ""});
    let fill = (4 << 20) - large.to_string().len();
    large["annotations"] = json!({"fill": "x".repeat(fill)});
    assert_eq!(large.to_string().len(), 4 << 20);
    registry.put_manifest("a", "large", OCI, &large).await.expect(201);
    assert_eq!(registry.get("/v2/a/manifests/large").await.expect(200).body, large.to_string());
    large["annotations"] = json!({"fill": "x".repeat(fill + 1)});
    registry.put_manifest("a", "larger", OCI, &large).await.expect(413);
}

#[tokio::test]
async fn the_first_chunk_begins_at_zero() {
    let registry = Fixture::new();
    let begun = registry.post("/v2/a/blobs/uploads/").await.expect(202);
    let location = begun.header("location").to_owned();
    let headers = [("content-range", "5-9"), ("content-length", "5")];
    let refused = registry.send("PATCH", &location, &headers, "56789").await.expect(416);
    assert_eq!(refused.header("location"), location);
    registry
        .send("PATCH", &location, &[("content-range", "0-4"), ("content-length", "5")], "01234")
        .await
        .expect(202);
}

#[tokio::test]
async fn tags_are_in_the_order_of_the_specification() {
    let registry = Fixture::new();
    for tag in ["beta", "Alpha", "alpha", "BETA", "1.0", "_x", "alpha-2", "gamma"] {
        registry.push("a", tag, b"x").await;
    }
    let expected = ["1.0", "_x", "Alpha", "alpha", "alpha-2", "BETA", "beta", "gamma"];
    assert_eq!(registry.get("/v2/a/tags/list").await.expect(200).json()["tags"], json!(expected));
    // Page by page the same, each tag once.
    let (mut path, mut seen) = ("/v2/a/tags/list?n=3".to_owned(), Vec::new());
    loop {
        let page = registry.get(&path).await.expect(200);
        seen.extend(page.json()["tags"].as_array().unwrap().clone());
        let link = page.header("link");
        if link.is_empty() {
            break;
        }
        path = link.trim_start_matches('<').split('>').next().unwrap().to_owned();
    }
    assert_eq!(json!(seen), json!(expected));
    let none = registry.get("/v2/a/tags/list?n=0").await.expect(200);
    assert_eq!((none.json()["tags"].clone(), none.header("link")), (json!([]), ""));
}
