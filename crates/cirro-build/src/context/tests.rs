//! Build contexts as hostile as they come.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use tar::{EntryType, Header};

use super::*;

struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Adds an entry whose name is written as it is, however bad.
    fn entry(mut self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(1234);
        header.set_gid(1234);
        header.set_mtime(1_000_000_000);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", content.as_bytes())
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn unpack(self) -> (tempfile::TempDir, Result<(), String>) {
        unpack_bytes(&self.bytes())
    }
}

fn unpack_bytes(bytes: &[u8]) -> (tempfile::TempDir, Result<(), String>) {
    let parent = tempfile::tempdir().unwrap();
    std::fs::create_dir(parent.path().join("context")).unwrap();
    let unpacked = unpack_context(&mut &*bytes, &parent.path().join("context"));
    // Whatever an archive holds, nothing may come to lie beside the context.
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    (parent, unpacked.map_err(|error| error.to_string()))
}

fn text(parent: &tempfile::TempDir, path: &str) -> String {
    std::fs::read_to_string(parent.path().join("context").join(path)).unwrap()
}

#[test]
fn plain_gzip_and_zstd_archives_are_unpacked() {
    let tar = Tar::new().file("Dockerfile", "FROM x\n").file("./a/b/c", "deep").bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    for bytes in [tar.clone(), gzip.finish().unwrap(), zstd::encode_all(&tar[..], 1).unwrap()] {
        let (parent, unpacked) = unpack_bytes(&bytes);
        unpacked.unwrap();
        assert_eq!(text(&parent, "Dockerfile"), "FROM x\n");
        assert_eq!(text(&parent, "a/b/c"), "deep");
    }
}

#[test]
fn entries_belong_to_root_and_keep_mode_time_and_long_names() {
    let mut tar = Tar::new();
    let mut header = Header::new_gnu();
    header.set_mode(0o4751);
    header.set_uid(7);
    header.set_size(1);
    header.set_mtime(1_000_000_000);
    let long = "directory/".repeat(30) + "file";
    tar.0.append_data(&mut header, &long, &b"1"[..]).unwrap();
    let (parent, unpacked) = tar.entry(EntryType::Directory, "d", "", b"").file("d/x", "").unpack();
    unpacked.unwrap();
    let meta = parent.path().join("context").join(&long).metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o4751, 0, 0));
    assert_eq!(meta.mtime(), 1_000_000_000);
    assert_eq!(parent.path().join("context/d").metadata().unwrap().mtime(), 1_000_000_000);
}

#[test]
fn an_archive_may_end_with_its_last_content_but_not_before() {
    let whole = Tar::new().file("a", "one").file("b", "twotwo").bytes();
    // Two headers and a padded content come before the second content.
    let content = 3 * 512;
    for (length, fits) in [
        (content + 6, true),
        (content + 100, true),
        (content + 512, true),
        (content + 512 + 512, true),
        (content + 5, false),
        (content, false),
        (content - 1, false),
        (content + 512 + 100, false),
    ] {
        let mut bytes = whole[..length].to_vec();
        if length == content + 512 + 100 {
            // The beginning of one more header.
            bytes[content + 512..].copy_from_slice(&whole[..100]);
        }
        let (parent, unpacked) = unpack_bytes(&bytes);
        assert_eq!(unpacked.is_ok(), fits, "{length} bytes: {unpacked:?}");
        if fits {
            assert_eq!((text(&parent, "a"), text(&parent, "b")), ("one".into(), "twotwo".into()));
        }
    }
}

#[test]
fn a_slash_at_the_end_makes_a_directory() {
    let (parent, unpacked) = Tar::new().file("old/", "").file("old/x", "x").unpack();
    unpacked.unwrap();
    assert_eq!(text(&parent, "old/x"), "x");
}

#[test]
fn names_that_leave_the_context_are_refused() {
    for name in ["../x", "a/../../x", "a/..", "/../x"] {
        let (_, unpacked) = Tar::new().file(name, "x").unpack();
        assert!(unpacked.unwrap_err().contains("leaves the archive's root"), "{name}");
    }
    let (parent, unpacked) = Tar::new().file("/etc/x", "x").unpack();
    unpacked.unwrap();
    assert_eq!(text(&parent, "etc/x"), "x");
}

#[test]
fn links_stay_links_and_are_followed_inside_only() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let (parent, unpacked) = Tar::new()
        .entry(EntryType::Symlink, "out", target, b"")
        .file("out/x", "inside")
        .entry(EntryType::Symlink, "up", "../../..", b"")
        .file("up/y", "inside")
        .entry(EntryType::Symlink, "file", "/etc/passwd", b"")
        .file("file", "replaced")
        .unpack();
    unpacked.unwrap();
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(text(&parent, &format!("{}/x", target.trim_start_matches('/'))), "inside");
    assert_eq!(text(&parent, "y"), "inside");
    assert_eq!(text(&parent, "file"), "replaced");
    assert!(parent.path().join("context/out").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn hard_links_reach_files_of_the_archive_only() {
    let (parent, unpacked) = Tar::new().file("a", "one").entry(EntryType::Link, "d/b", "/a", b"").unpack();
    unpacked.unwrap();
    assert_eq!(parent.path().join("context/d/b").metadata().unwrap().nlink(), 2);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    let target = outside.path().to_str().unwrap();
    for target in [format!("{target}/secret"), "d".into(), "/etc/passwd".into(), "../x".into()] {
        let tar =
            Tar::new().entry(EntryType::Directory, "d", "", b"").entry(EntryType::Link, "l", &target, b"");
        assert!(tar.unpack().1.is_err(), "{target}");
    }
    let through = Tar::new().entry(EntryType::Symlink, "out", target, b"").entry(
        EntryType::Link,
        "l",
        "out/secret",
        b"",
    );
    assert!(through.unpack().1.is_err());
}

#[test]
fn devices_and_unknown_entries_are_refused() {
    for kind in [EntryType::Char, EntryType::Block] {
        let error = Tar::new().entry(kind, "dev", "", b"").unpack().1.unwrap_err();
        assert_eq!(error, "build context: dev: a device in an archive is not supported");
    }
    assert!(Tar::new().entry(EntryType::new(b'M'), "x", "", b"").unpack().1.is_err());
}

#[test]
fn directories_and_files_of_one_name_do_not_destroy_each_other() {
    let tar = Tar::new().file("d/x", "kept").file("d", "file");
    let (parent, unpacked) = tar.unpack();
    assert!(unpacked.is_err());
    assert_eq!(text(&parent, "d/x"), "kept");
    let (parent, unpacked) =
        Tar::new().file("d", "file").entry(EntryType::Directory, "d", "", b"").file("d/x", "1").unpack();
    unpacked.unwrap();
    assert_eq!(text(&parent, "d/x"), "1");
}

#[test]
fn extension_headers_are_bounded() {
    let huge = vec![b'a'; 3 << 20];
    let error = Tar::new().entry(EntryType::GNULongName, "././@LongLink", "", &huge).file("x", "").unpack().1;
    assert!(error.unwrap_err().contains("headers of more than"));
    let error = Tar::new().entry(EntryType::XHeader, "pax", "", &huge).file("x", "").unpack().1;
    assert!(error.unwrap_err().contains("headers of more than"));
    let content = vec![b'a'; 3 << 20];
    Tar::new().entry(EntryType::Regular, "big", "", &content).file("x", "").unpack().1.unwrap();
}

#[test]
fn cut_and_broken_streams_are_errors() {
    let tar = Tar::new().file("Dockerfile", &"x".repeat(5000)).bytes();
    assert!(unpack_bytes(&tar[..2000]).1.is_err());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    assert!(unpack_bytes(&gzip[..gzip.len() / 2]).1.is_err());
    assert_eq!(unpack_bytes(b"").1.unwrap_err(), "build context: the context is empty");
    for broken in [&b"BZh91AY"[..], b"\xfd7zXZ\0"] {
        let error = unpack_bytes(broken).1.unwrap_err();
        assert!(error.starts_with("build context: read the archive: "), "{error}");
    }
}

#[test]
fn a_dockerfile_by_itself_is_a_context() {
    for name in ["FROM busybox\n", "FROM busybox\nRUN true\n# and more"] {
        let (parent, unpacked) = unpack_bytes(name.as_bytes());
        unpacked.unwrap();
        assert_eq!(text(&parent, "Dockerfile"), name);
    }
    assert!(unpack_bytes(b"\x7fELF\0\0").1.unwrap_err().contains("neither a tar archive nor a Dockerfile"));
}

#[test]
fn an_empty_archive_is_an_empty_context() {
    let (parent, unpacked) = Tar::new().unpack();
    unpacked.unwrap();
    assert_eq!(std::fs::read_dir(parent.path().join("context")).unwrap().count(), 0);
}
