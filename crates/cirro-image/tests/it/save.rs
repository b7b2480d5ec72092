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
fn files_with_holes_are_read_in_every_form_and_come_out_bit_for_bit() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let directory = tempfile::tempdir().unwrap();
    // More pieces than a header has room for.
    let file = std::fs::File::create_new(directory.path().join("holes")).unwrap();
    for piece in 0..40 {
        file.write_all_at(&[b'a' + (piece % 26) as u8; 4096], piece * 131_072).unwrap();
    }
    file.set_len(6 << 20).unwrap();
    std::fs::write(directory.path().join("plain"), "plain").unwrap();
    let expected = std::fs::read(directory.path().join("holes")).unwrap();
    let forms = [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ];
    for form in forms {
        let output = Command::new("tar")
            .args(["--create", "--sparse", "--hole-detection=seek"])
            .args(form)
            .arg("-C")
            .arg(directory.path())
            .args(["holes", "plain"])
            .output()
            .expect("tar");
        let layer = output.stdout;
        assert!(output.status.success() && layer.len() < 1 << 20, "{form:?}: {}", layer.len());
        let fixture = Fixture::new();
        let dir = fixture.layer(&layer).unwrap_or_else(|error| panic!("{form:?}: {error}"));
        assert!(std::fs::read(dir.join("holes")).unwrap() == expected, "{form:?}");
        assert!(
            std::fs::metadata(dir.join("holes")).unwrap().blocks() * 512 < 1 << 20,
            "{form:?}: the holes are there"
        );
        assert_eq!(read(dir.join("plain")), "plain");
        let archive = saved(&fixture, &["test"]);
        assert!(archive.windows(layer.len()).any(|window| window == layer), "{form:?}");
    }
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
