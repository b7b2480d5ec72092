//! What goes out: the same layers bit for bit, in archives that other engines read.

use std::process::Command;

use cirro_types::Digest;

use crate::archive::{Fixture, Tar, docker_archive, header, read};

fn saved(fixture: &Fixture, names: &[&str]) -> Vec<u8> {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut archive = Vec::new();
    fixture.library.save(&names, &mut archive).unwrap();
    archive
}

/// A layer with everything that makes reproduction hard.
fn odd_layer() -> Vec<u8> {
    let mut garbage = header(b"old", 0, b"", 0o600, 3);
    garbage[257..265].fill(0);
    garbage[500..512].copy_from_slice(b"not zeroes !");
    let mut layer = Tar::new()
        .dir("./", 0o755)
        .file("twice", b"the first contents")
        .file("dir/inner", b"inside")
        .link("dir/linked", "dir/inner")
        .file("twice", b"the second")
        .entry(b"dir", b'2', b"elsewhere", 0o777, b"")
        .pax("comment", b"kept")
        .pax("mtime", b"1234.5")
        .file("pax", &vec![7; 5000])
        .raw_entry(garbage, b"odd")
        .file(".wh..wh.plnk", b"what aufs leaves")
        .file(".wh.gone", b"contents of a whiteout")
        .end();
    layer.extend_from_slice(&[0; 9000]);
    layer.extend_from_slice(b"trailing bytes");
    layer
}

#[test]
fn a_layer_comes_out_bit_for_bit() {
    let fixture = Fixture::new();
    let layer = odd_layer();
    let dir = fixture.layer(&layer).unwrap();
    assert_eq!(read(dir.join("twice")), "the second");
    let archive = saved(&fixture, &["test"]);
    assert!(archive.windows(layer.len()).any(|window| window == layer));
    // And what was saved is loaded elsewhere.
    let other = Fixture::new();
    let loaded = other.load(&archive).unwrap();
    assert_eq!(loaded[0].id, fixture.library.find("test").unwrap().id);
    assert_eq!(loaded[0].tags[0].familiar(), "test:latest");
}

#[test]
fn several_images_share_their_layers_in_the_archive() {
    let fixture = Fixture::new();
    let [one, two] = [Tar::new().file("a", &[1; 100_000]).end(), Tar::new().file("b", b"2").end()];
    fixture.load(&docker_archive(&["a:1", "a:2"], &[&one])).unwrap();
    fixture.load(&docker_archive(&["b"], &[&one, &two])).unwrap();
    let archive = saved(&fixture, &["a", "b"]);
    assert!(archive.len() < 150_000);
    let other = Fixture::new();
    let loaded = other.load(&archive).unwrap();
    assert_eq!(loaded.len(), 2);
    assert_eq!(loaded[0].tags.len(), 2, "a repository's name stands for all of its tags");
}

#[test]
fn an_unknown_name_fails_before_the_first_byte() {
    let fixture = Fixture::new();
    fixture.layer(&odd_layer()).unwrap();
    let mut archive = Vec::new();
    let error = fixture.library.save(&["test".into(), "absent".into()], &mut archive).unwrap_err();
    assert_eq!(error.to_string(), "No such image: absent:latest");
    assert!(archive.is_empty());
}

#[test]
fn a_damaged_tree_is_not_passed_on() {
    let fixture = Fixture::new();
    let dir = fixture.layer(&odd_layer()).unwrap();
    std::fs::write(dir.join("pax"), vec![8; 5000]).unwrap();
    let error = fixture.library.save(&["test".into()], &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
}

#[test]
fn a_file_swapped_for_a_symlink_is_not_read() {
    // CVE-2023-0778.
    let fixture = Fixture::new();
    let dir = fixture.layer(&odd_layer()).unwrap();
    std::fs::remove_file(dir.join("pax")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("pax")).unwrap();
    assert!(fixture.library.save(&["test".into()], &mut Vec::new()).is_err());
}

#[test]
fn skopeo_reads_what_is_saved() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("SKIPPED: skopeo is not installed");
        return;
    }
    let fixture = Fixture::new();
    let layer = odd_layer();
    fixture.layer(&layer).unwrap();
    let archive = fixture.dir.path().join("saved.tar");
    std::fs::write(&archive, saved(&fixture, &["test:latest"])).unwrap();
    for transport in ["docker-archive", "oci-archive"] {
        let to = fixture.dir.path().join(transport);
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "--tmpdir"])
            .arg(fixture.dir.path())
            .arg("copy")
            .arg(format!("{transport}:{}", archive.display()))
            .arg(format!("dir:{}", to.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{transport}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::read(to.join(Digest::of(&layer).hex())).unwrap(), layer);
    }
}

#[test]
fn what_skopeo_writes_is_loaded() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("SKIPPED: skopeo is not installed");
        return;
    }
    let fixture = Fixture::new();
    fixture.layer(&Tar::new().file("a", b"contents").end()).unwrap();
    let id = fixture.library.find("test").unwrap().id;
    let archive = fixture.dir.path().join("saved.tar");
    std::fs::write(&archive, saved(&fixture, &["test:latest"])).unwrap();
    for (transport, name) in [("docker-archive", ":app:v1"), ("oci-archive", ":localhost/app:v1")] {
        let to = fixture.dir.path().join(format!("{transport}.tar"));
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "--tmpdir"])
            .arg(fixture.dir.path())
            .arg("copy")
            .arg(format!("docker-archive:{}", archive.display()))
            .arg(format!("{transport}:{}{name}", to.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{transport}: {}", String::from_utf8_lossy(&output.stderr));
        let other = Fixture::new();
        let loaded = other.load(&std::fs::read(&to).unwrap()).unwrap();
        assert_eq!(loaded[0].tags[0].familiar(), name.trim_start_matches(':'));
        assert_eq!(other.library.find(name.trim_start_matches(':')).unwrap().size, 8);
        assert_eq!(loaded[0].id.hex().len(), id.hex().len());
    }
}
