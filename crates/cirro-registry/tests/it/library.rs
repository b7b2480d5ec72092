//! Images of the library are repositories, and what is pushed becomes an image of the library.

use std::io::Write as _;

use cirro_image::distribution::Reference;
use cirro_types::{ContainerConfig, Digest, ImageConfig, ImageReference, RootFs};
use serde_json::json;

use crate::fixture::{Fixture, OCI, manifest, sha256};

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Makes an image of one layer, as a build does.
fn build(registry: &Fixture, name: &str, contents: &[u8]) -> Digest {
    let (key, root) = registry.library.open_layer(&[]).unwrap();
    std::fs::write(root.upper.join("file"), contents).unwrap();
    let diff_id = registry.library.commit_layer(&key).unwrap();
    let config = ImageConfig {
        os: "linux".into(),
        architecture: "amd64".into(),
        config: ContainerConfig { cmd: vec!["/file".into()], ..ContainerConfig::default() },
        rootfs: RootFs { diff_ids: vec![diff_id], ..RootFs::default() },
        ..ImageConfig::default()
    };
    registry.library.put_image(&config, &[name.parse().unwrap()]).unwrap()
}

#[tokio::test]
async fn an_image_that_was_built_is_there_to_pull() {
    let registry = Fixture::new();
    let id = build(&registry, "my-app:v1", b"hello");
    let first = registry.get("/v2/my-app/manifests/v1").await.expect(200);
    let document = first.json();
    assert_eq!(document["config"]["digest"], json!(id));
    let digest = first.header("docker-content-digest").to_owned();
    assert_eq!(sha256(&first.body), digest);
    // Always the same, by its digest too, and after a restart.
    let registry = registry.again();
    for reference in ["v1", &digest] {
        let again = registry.get(&format!("/v2/my-app/manifests/{reference}")).await.expect(200);
        assert_eq!(again.body, first.body);
    }
    let config = registry.get(&format!("/v2/my-app/blobs/{id}")).await.expect(200);
    assert_eq!(
        (sha256(&config.body), config.body.len() as u64),
        (id.to_string(), document["config"]["size"].as_u64().unwrap())
    );
    let layer = document["layers"][0]["digest"].as_str().unwrap();
    let path = format!("/v2/my-app/blobs/{layer}");
    let bytes = registry.get(&path).await.expect(200).body;
    assert_eq!(
        (sha256(&bytes), bytes.len() as u64),
        (layer.to_owned(), document["layers"][0]["size"].as_u64().unwrap())
    );
    let part = registry.send("GET", &path, &[("range", "bytes=500-1500")], "").await.expect(206);
    assert_eq!(part.body, bytes.slice(500..=1500));
    assert_eq!(registry.head(&path).await.expect(200).header("content-length"), bytes.len().to_string());
    assert_eq!(registry.get("/v2/my-app/tags/list").await.json()["tags"], json!(["v1"]));
    assert_eq!(registry.get("/v2/_catalog").await.json()["repositories"], json!(["my-app"]));
    registry.delete("/v2/my-app/manifests/v1").await.refused(405, "UNSUPPORTED");
    registry.delete(&path).await.refused(405, "UNSUPPORTED");
}

#[tokio::test]
async fn an_old_client_gets_dockers_words() {
    let registry = Fixture::new();
    build(&registry, "my-app", b"hello");
    let docker =
        registry.send("GET", "/v2/my-app/manifests/latest", &[("accept", DOCKER)], "").await.expect(200);
    assert_eq!(docker.header("content-type"), DOCKER);
    let digest = docker.header("docker-content-digest");
    assert_eq!(registry.get(&format!("/v2/my-app/manifests/{digest}")).await.expect(200).body, docker.body);
}

#[tokio::test]
async fn every_name_of_an_image_is_a_repository() {
    let registry = Fixture::new();
    build(&registry, "quay.io/team/tool:v1", b"tool");
    build(&registry, "localhost:5000/own:v1", b"own");
    registry.get("/v2/quay.io/team/tool/manifests/v1").await.expect(200);
    registry.get("/v2/own/manifests/v1").await.expect(200);
    let all = registry.get("/v2/_catalog").await.json();
    assert_eq!(all["repositories"], json!(["own", "quay.io/team/tool"]));
}

#[tokio::test]
async fn layers_of_the_library_are_mounted_without_a_copy_and_stay() {
    let registry = Fixture::new();
    let id = build(&registry, "my-app", b"hello");
    let document = registry.get("/v2/my-app/manifests/latest").await.json();
    let layer = document["layers"][0]["digest"].as_str().unwrap().to_owned();
    for digest in [&layer, &id.to_string()] {
        registry.post(&format!("/v2/team/app/blobs/uploads/?mount={digest}&from=my-app")).await.expect(201);
    }
    registry.put_manifest("team/app", "v1", OCI, &document).await.expect(201);
    registry.library.remove("my-app", true, &|_| None).unwrap();
    registry.library.prune(true, &|_| true, &|_| None).unwrap();
    let registry = registry.again();
    registry.library.prune(true, &|_| true, &|_| None).unwrap();
    let bytes = registry.get(&format!("/v2/team/app/blobs/{layer}")).await.expect(200).body;
    assert_eq!(sha256(&bytes), layer);
    // The image comes back without a wire.
    let name: ImageReference = "localhost:5000/team/app:v1".parse().unwrap();
    assert_eq!(registry.distribution.adopt(&name).unwrap().0, id);
    assert_eq!(registry.library.find("localhost:5000/team/app:v1").unwrap().id, id);
    assert!(registry.library.layer_dirs(&[layer.parse().unwrap()]).unwrap()[0].join("file").exists());
}

#[tokio::test]
async fn an_image_that_was_pushed_is_there_to_run() {
    let registry = Fixture::new();
    let tar = {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o755);
        builder.append_data(&mut header, "bin/app", &b"hello"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let config = json!({"os": "linux", "architecture": "amd64", "config": {"Cmd": ["/bin/app"]},
        "rootfs": {"type": "layers", "diff_ids": [sha256(&tar)]}})
    .to_string();
    let layer = registry.push_blob("team/app", &gzip).await;
    let config_digest = registry.push_blob("team/app", config.as_bytes()).await;
    let mut document = manifest(&[(&config_digest, config.len()), (&layer, gzip.len())], None);
    document["config"]["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    registry.put_manifest("team/app", "v1", OCI, &document).await.expect(201);
    for host in ["localhost:5000", "127.0.0.1:5000"] {
        let name: ImageReference = format!("{host}/team/app:v1").parse().unwrap();
        assert!(registry.distribution.is_own(&name));
        let (id, _) = registry.distribution.adopt(&name).unwrap();
        assert_eq!(id.to_string(), config_digest);
        let image = registry.library.find(&name.to_string()).unwrap();
        let dir = &registry.library.layer_dirs(&image.config.rootfs.diff_ids).unwrap()[0];
        assert_eq!(std::fs::read(dir.join("bin/app")).unwrap(), b"hello");
    }
    // An artifact is not an image.
    registry.push("files", "v1", b"x").await;
    assert!(registry.distribution.adopt(&"localhost:5000/files:v1".parse().unwrap()).is_err());
    assert!(registry.distribution.adopt(&"localhost:5000/nothing:v1".parse().unwrap()).is_err());
    // Removed from the library it is still there to pull.
    registry.library.remove("localhost:5000/team/app:v1", true, &|_| None).unwrap();
    let reference: Reference = "v1".parse().unwrap();
    assert!(
        registry
            .distribution
            .manifest(&"team/app".parse().unwrap(), &reference, cirro_image::distribution::Dialect::Oci)
            .is_ok()
    );
}
