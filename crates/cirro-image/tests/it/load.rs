//! What may come in, and in which forms.

use cirro_types::{Digest, ImageConfig};
use serde_json::json;

use crate::archive::{Fixture, Tar, config, docker_archive, docker_archive_of, gzip, packed, read};

fn two_layers() -> [Vec<u8>; 2] {
    [
        Tar::new().dir("etc", 0o755).file("etc/one", b"first").end(),
        Tar::new().dir("etc", 0o755).file("etc/two", b"second").end(),
    ]
}

/// An OCI layout; `layers` are (media type suffix, blob, plain tar).
fn oci_layout(name: Option<&str>, layers: &[(&str, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let plain: Vec<_> = layers.iter().map(|layer| &layer.2[..]).collect();
    let config = config(&plain);
    let described: Vec<_> = layers
        .iter()
        .map(|(kind, blob, _)| {
            json!({"mediaType": format!("application/vnd.oci.image.layer.v1.tar{kind}"),
                "digest": Digest::of(blob), "size": blob.len()})
        })
        .collect();
    let manifest = json!({"schemaVersion": 2, "config":
        {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len()},
        "layers": described})
    .to_string();
    let inner = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(b"foreign"), "size": 7,
            "platform": {"os": "linux", "architecture": "s390x"}},
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(manifest.as_bytes()),
            "size": manifest.len(), "platform": {"os": "linux", "architecture": "amd64"}}]})
    .to_string();
    let annotations = name.map(|name| json!({"org.opencontainers.image.ref.name": name}));
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": Digest::of(inner.as_bytes()),
            "size": inner.len(), "annotations": annotations}]})
    .to_string();
    let mut tar = Tar::new().file("oci-layout", b"{}").file("index.json", index.as_bytes());
    for blob in [inner.as_bytes(), manifest.as_bytes(), &config]
        .into_iter()
        .chain(layers.iter().map(|layer| &layer.1[..]))
    {
        tar = tar.file(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
    }
    tar.end()
}

#[test]
fn a_docker_archive_is_loaded_and_named() {
    let fixture = Fixture::new();
    let [one, two] = two_layers();
    let mut lines = Vec::new();
    let archive = docker_archive(&["app:v1", "quay.io/me/app:v2"], &[&one, &two]);
    let loaded = fixture.library.load(&mut &archive[..], &mut |line| lines.push(line)).unwrap();
    assert_eq!(lines, ["Loaded image: app:v1", "Loaded image: quay.io/me/app:v2"]);
    let config = config(&[&one, &two]);
    assert_eq!(loaded[0].id, Digest::of(&config));
    let image = fixture.library.find("app:v1").unwrap();
    assert_eq!(image.id, loaded[0].id);
    assert_eq!(image.config.config.cmd, ["sh"]);
    assert_eq!(image.size, 11);
    let dirs = fixture.library.layer_dirs(&image.config.rootfs.diff_ids).unwrap();
    assert_eq!(read(dirs[0].join("etc/two")), "second");
    assert_eq!(read(dirs[1].join("etc/one")), "first");
    assert_eq!(fixture.library.layer_sizes(&image.config.rootfs.diff_ids).unwrap(), [5, 6]);
}

#[test]
fn archives_and_layers_may_be_compressed() {
    let [one, two] = two_layers();
    let config = config(&[&one, &two]);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let archive = docker_archive_of(&["app"], &config, &[&gzip(&one), &zstd(&two)]);
    let (bzip2, xz) = (packed("bzip2", &archive), packed("xz", &archive));
    for archive in [gzip(&archive), zstd(&archive), bzip2, xz, archive] {
        let fixture = Fixture::new();
        assert_eq!(fixture.load(&archive).unwrap()[0].id, Digest::of(&config));
        assert_eq!(fixture.library.find("app").unwrap().size, 11);
    }
}

#[test]
fn root_filesystems_may_be_compressed() {
    let [one, _] = two_layers();
    let ids: Vec<_> = [one.clone(), gzip(&one), packed("bzip2", &one), packed("xz", &one)]
        .iter()
        .map(|tar| {
            let fixture = Fixture::new();
            let id = fixture.library.import(&mut &tar[..], Default::default(), None).unwrap();
            fixture.library.find(&id.hex()).unwrap().config.rootfs.diff_ids.clone()
        })
        .collect();
    assert!(ids.iter().all(|diff_ids| *diff_ids == ids[0]), "{ids:?}");
}

#[test]
fn an_oci_layout_is_loaded_for_this_platform() {
    let [one, two] = two_layers();
    let layers = [("+gzip", gzip(&one), one.clone()), ("", two.clone(), two.clone())];
    let fixture = Fixture::new();
    let loaded = fixture.load(&oci_layout(Some("localhost/app:v3"), &layers)).unwrap();
    assert_eq!(loaded[0].tags[0].to_string(), "localhost/app:v3");
    assert_eq!(fixture.library.find("localhost/app:v3").unwrap().size, 11);
}

#[test]
fn a_bare_tag_of_a_layout_names_nothing() {
    let [one, _] = two_layers();
    let fixture = Fixture::new();
    let mut lines = Vec::new();
    let archive = oci_layout(Some("latest"), &[("", one.clone(), one)]);
    let loaded = fixture.library.load(&mut &archive[..], &mut |line| lines.push(line)).unwrap();
    assert!(loaded[0].tags.is_empty());
    assert_eq!(lines, [format!("Loaded image ID: {}", loaded[0].id)]);
}

#[test]
fn old_archives_link_to_layers_that_are_there_already() {
    let [one, _] = two_layers();
    let manifest = json!([{"Config": "c.json", "RepoTags": null, "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    let archive = Tar::new()
        .file("c.json", &config(&[&one, &one]))
        .symlink("b/layer.tar", "../a/layer.tar")
        .file("manifest.json", manifest.to_string().as_bytes())
        .file("a/layer.tar", &one)
        .end();
    let fixture = Fixture::new();
    let id = fixture.load(&archive).unwrap()[0].id;
    let image = fixture.library.find(&id.to_string()).unwrap();
    assert_eq!(image.config.rootfs.diff_ids.len(), 2);
    // Overlayfs takes a directory once.
    assert_eq!(fixture.library.layer_dirs(&image.config.rootfs.diff_ids).unwrap().len(), 1);
}

#[test]
fn a_name_moves_to_the_newer_image_and_it_is_told() {
    let fixture = Fixture::new();
    let [one, two] = two_layers();
    let old = fixture.load(&docker_archive(&["app"], &[&one])).unwrap()[0].id;
    let mut lines = Vec::new();
    fixture
        .library
        .load(&mut &docker_archive(&["app"], &[&one, &two])[..], &mut |line| lines.push(line))
        .unwrap();
    assert_eq!(
        lines[0],
        format!("The image app:latest already exists, renaming the old one with ID {old} to empty string")
    );
    assert!(fixture.library.find(&old.hex()).unwrap().tags.is_empty());
}

#[test]
fn a_layer_that_is_here_is_not_unpacked_again() {
    let fixture = Fixture::new();
    let [one, two] = two_layers();
    let dir = fixture.layer(&one).unwrap();
    std::fs::write(dir.join("mark"), "").unwrap();
    fixture.layers(&[&one, &two]).unwrap();
    assert!(dir.join("mark").exists());
}

#[test]
fn a_root_filesystem_becomes_an_image() {
    let fixture = Fixture::new();
    let tar = Tar::new().dir("./", 0o755).file("./bin", b"x").end();
    let config = ImageConfig::default();
    let id = fixture.library.import(&mut &gzip(&tar)[..], config, Some(&"root:1".parse().unwrap())).unwrap();
    let image = fixture.library.find("root:1").unwrap();
    assert_eq!(image.id, id);
    assert_eq!(image.config.rootfs.diff_ids, [Digest::of(&tar)]);
    assert_eq!(image.config.os, "linux");
}

#[test]
fn the_same_layer_loaded_by_many_at_once_is_unpacked_once() {
    let fixture = Fixture::new();
    let layers: Vec<_> =
        (0..8).map(|index| Tar::new().file(&format!("f{index}"), &vec![index; 300_000]).end()).collect();
    std::thread::scope(|scope| {
        for turn in 0..8 {
            let mut order: Vec<_> = layers.iter().map(Vec::as_slice).collect();
            order.rotate_left(turn);
            let fixture = &fixture;
            scope.spawn(move || fixture.load(&docker_archive(&[&format!("app:{turn}")], &order)).unwrap());
        }
    });
    assert_eq!(fixture.library.list().unwrap().len(), 8);
    assert_eq!(std::fs::read_dir(fixture.path().join("layers")).unwrap().count(), 8);
    assert_eq!(std::fs::read_dir(fixture.path().join("temporary")).unwrap().count(), 0);
}
