//! Layers and archives that want out, or want too much.
//!
//! The cases have the names they have in containerd's, moby's and umoci's tests (REPLAYS in the design papers).
//! Each either is refused and leaves nothing, or lands inside its root; a `victim` outside is never touched.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cirro_image::{ImageError, Limits};
use cirro_types::Digest;
use serde_json::json;

use crate::archive::{Fixture, Tar, config, docker_archive, docker_archive_of, gzip, header, packed, read};

/// Up from wherever a layer may be, to the directory that holds the library and the victim.
const UP: &str = "../../../../..";

/// Unpacks a layer beside a victim; asserts that the victim is as it was and that a failure leaves nothing.
fn contained(layer: Tar) -> (Fixture, Result<PathBuf, ImageError>) {
    let fixture = Fixture::new();
    let victim = fixture.dir.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("hello"), "untouched").unwrap();
    let before = (snapshot(fixture.dir.path()), snapshot(&victim));
    let result = fixture.layer(&layer.end());
    assert_eq!((snapshot(fixture.dir.path()), snapshot(&victim)), before);
    if let Err(error) = &result {
        assert!(matches!(error, ImageError::Invalid(_)), "{error:?}");
        fixture.assert_empty();
    }
    (fixture, result)
}

/// Name, type and mode, links and contents of what is in a directory.
fn snapshot(dir: &Path) -> Vec<(String, u32, u64, Option<String>)> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let stat = fs::symlink_metadata(entry.path()).unwrap();
            // The library's own directory gains and loses children; its link count is not of interest.
            let links = if stat.is_dir() { 0 } else { stat.nlink() };
            let contents = stat.is_file().then(|| read(entry.path()));
            (entry.file_name().into_string().unwrap(), stat.mode(), links, contents)
        })
        .collect();
    found.sort();
    found
}

fn inside() -> Tar {
    Tar::new().dir("etc", 0o755).file("etc/passwd", b"inside")
}

#[test]
fn writes_through_symlinks_land_inside() {
    for (name, tar, path) in [
        ("SymlinkAbsolute", inside().symlink("localetc", "/etc"), "localetc/passwd"),
        ("SymlinkUpAndOut", inside().symlink("localetc", "/dummy/../etc"), "localetc/passwd"),
        ("SymlinkRelative", inside().symlink("localetc", "../../../../etc"), "localetc/passwd"),
        (
            "SymlinkMultipleAbsolute",
            inside().symlink("first", "/etc").symlink("localetc", "/first"),
            "localetc/passwd",
        ),
        (
            "SymlinkMultipleRelative",
            inside().symlink("first", "../../etc").symlink("localetc", "../first"),
            "localetc/passwd",
        ),
        ("SymlinkSlashEnded", inside().symlink("localetc/", "/etc"), "localetc/passwd"),
        ("SymlinkParentRelative", inside().symlink("localetc/sub/..", "/etc"), "localetc/passwd"),
        ("absolute name", inside(), "/etc/passwd"),
        ("scoped name", inside(), "/../../.././../etc/./passwd"),
    ] {
        let (_fixture, dir) = contained(tar.file(path, b"written"));
        assert_eq!(read(dir.unwrap().join("etc/passwd")), "written", "{name}");
    }
}

#[test]
fn an_empty_file_does_not_truncate_through_a_symlink() {
    let (_fixture, dir) = contained(inside().symlink("link", "/etc/passwd").file("link", b""));
    let dir = dir.unwrap();
    assert_eq!(read(dir.join("etc/passwd")), "inside");
    assert!(fs::symlink_metadata(dir.join("link")).unwrap().is_file());
}

#[test]
fn names_above_the_root_land_inside() {
    let up = UP;
    for name in ["../victim/dotdot", "/../victim/slash-dotdot", &format!("{up}/victim/deep")] {
        let (_fixture, dir) = contained(Tar::new().file(name, b"x"));
        assert!(dir.unwrap().join("victim").is_dir(), "{name}");
    }
}

#[test]
fn the_root_is_not_replaced_and_later_entries_apply() {
    for (name, kind) in [("..", b'2'), ("", b'2'), (".", b'0'), ("/", b'1'), ("a/..", b'6')] {
        let tar = Tar::new().entry(name.as_bytes(), kind, b"/etc", 0o777, b"").file("later", b"x");
        let (_fixture, dir) = contained(tar);
        let dir = dir.unwrap();
        assert!(fs::symlink_metadata(&dir).unwrap().is_dir(), "{name:?}");
        assert_eq!(read(dir.join("later")), "x", "{name:?}");
    }
}

#[test]
fn hard_links_take_the_file_inside() {
    for (name, tar, target) in [
        ("HardlinkRelative", inside().symlink("localetc", "../../etc"), "localetc/passwd"),
        ("HardlinkDownAndOut", inside().symlink("localetc", "downandout/../../etc"), "localetc/passwd"),
        ("HardlinkAbsolute", inside().symlink("localetc", "/etc"), "localetc/passwd"),
        ("HardlinkRelativeLong", inside().symlink("localetc", "../../../../../../../etc"), "localetc/passwd"),
        (
            "HardlinkRelativeUpAndOut",
            inside().symlink("localetc", "upandout/../../../etc"),
            "localetc/passwd",
        ),
        ("HardlinkDirectRelative", inside(), "../../../../../etc/passwd"),
        ("HardlinkDirectAbsolute", inside(), "/etc/passwd"),
    ] {
        let (_fixture, dir) = contained(tar.link("linked", target));
        let dir = dir.unwrap();
        assert_eq!(read(dir.join("linked")), "inside", "{name}");
        assert_eq!(fs::metadata(dir.join("linked")).unwrap().nlink(), 2, "{name}");
    }
}

#[test]
fn loopholes_to_the_victim_are_closed() {
    let up = UP;
    let victim = format!("{up}/victim");
    let hello = format!("{victim}/hello");
    let absolute = format!("/../{victim}/hello");
    for tar in [
        Tar::new().link("dotdot", &hello),
        Tar::new().link("slash-dotdot", &absolute),
        Tar::new().link("loophole", &victim).file("loophole/file", b"x"),
        Tar::new().link("loophole", &victim).symlink("symlink", "loophole/hello").file("symlink", b"x"),
        Tar::new().link("loophole", &victim).link("hardlink", "loophole/hello").file("hardlink", b"x"),
        Tar::new().link("loophole", &victim).file("loophole", b"replaced"),
        Tar::new().symlink("dotdot", &victim).file("dotdot/file", b"x"),
        Tar::new().symlink("dotdot", &hello).file("dotdot", b"x"),
        Tar::new().symlink("loophole", &victim).symlink("again", "loophole/hello").file("again", b"x"),
        Tar::new().symlink("loophole", &victim).link("hard", "loophole/hello").file("hard", b"x"),
        Tar::new().symlink("loophole", &victim).file("loophole", b"replaced"),
        Tar::new().symlink("loophole", &victim).dir("loophole", 0o777).file("loophole/hello", b"x"),
        Tar::new().symlink("dir/loophole", &victim).file("dir/loophole/newdir/newfile", b"x"),
        Tar::new().symlink("loophole", &victim).file("loophole/.wh.hello", b""),
        Tar::new().symlink("loophole", &victim).file("loophole/.wh..wh..opq", b""),
        Tar::new().link("sibling", "../diff-evil/secret"),
        Tar::new()
            .symlink("inner/go_up", "..")
            .symlink("inner/go_up/escape", &format!("../{victim}"))
            .file("inner/go_up/escape/breakout", b"x"),
        // A directory, then a symlink to the root, then a directory again, writing each time.
        Tar::new()
            .dir("tmp", 0o755)
            .file("tmp/a", b"1")
            .entry(b"tmp", b'2', b"/", 0o777, b"")
            .file("tmp/b", b"2")
            .dir("tmp", 0o755)
            .file("tmp/c", b"3"),
    ] {
        contained(tar).1.ok();
    }
}

#[test]
fn a_hard_link_to_a_symlink_does_not_change_what_that_points_to() {
    let tar = inside()
        .symlink("shadow", "/etc/passwd")
        .entry(b"link", b'1', b"shadow", 0o777, b"")
        .symlink("before", "later")
        .link("before2", "before")
        .file("later", b"x");
    let (_fixture, dir) = contained(tar);
    let dir = dir.unwrap();
    assert!(fs::symlink_metadata(dir.join("link")).unwrap().is_symlink());
    assert_eq!(fs::metadata(dir.join("etc/passwd")).unwrap().mode() & 0o777, 0o644);
    assert_eq!(read(dir.join("before2")), "x");
}

#[test]
fn ways_through_absolute_symlinks_work() {
    for (name, tar, found) in [
        ("UntarThroughAbsoluteSymlink", Tar::new().dir("run", 0o755).symlink("var/run", "/run"), "run/file"),
        ("target missing", Tar::new().symlink("var/run", "/run"), "run/file"),
        (
            "chain, missing",
            Tar::new().symlink("var/run", "../deep/er").symlink("deep/er", "/run"),
            "run/file",
        ),
    ] {
        let (_fixture, dir) = contained(tar.file("var/run/file", b"x").link("hard", "/var/run/file"));
        let dir = dir.unwrap();
        assert_eq!(read(dir.join(found)), "x", "{name}");
        assert_eq!(read(dir.join("hard")), "x", "{name}");
        assert!(fs::symlink_metadata(dir.join("var/run")).unwrap().is_symlink(), "{name}");
    }
}

#[test]
fn a_symlink_loop_is_refused() {
    let (_fixture, result) = contained(Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b""));
    assert!(result.is_err());
}

#[test]
fn types_change_as_later_entries_say() {
    let (_fixture, dir) = contained(
        inside()
            .entry(b"etc", b'2', b"/elsewhere", 0o777, b"")
            .file("file", b"x")
            .file("file/below", b"NonDirParent")
            .symlink("link", "/file")
            .link("hard", "file/below")
            .dir("link", 0o700)
            .file("link/new", b"not the old inode")
            .file("hard", b"new"),
    );
    let dir = dir.unwrap();
    assert_eq!(fs::read_link(dir.join("etc")).unwrap(), Path::new("/elsewhere"));
    assert_eq!(read(dir.join("file/below")), "NonDirParent");
    assert_eq!(read(dir.join("link/new")), "not the old inode");
    assert_eq!(fs::metadata(dir.join("hard")).unwrap().nlink(), 1);
}

#[test]
fn invalid_whiteouts_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "etc/.wh.", "etc/.wh..", "etc/.wh..."] {
        let (_fixture, result) = contained(inside().file(name, b""));
        assert!(result.is_err(), "{name}");
    }
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    let (_fixture, dir) = contained(
        Tar::new()
            .file(".wh.gone", b"")
            .file("dne/../.wh.etc", b"")
            .file(".wh.dir/somefile", b"WhiteoutDirectoryName")
            .dir("kept", 0o755)
            .file("kept/before", b"x")
            .file("kept/.wh..wh..opq", b"")
            .file("kept/after", b"y")
            .file("both", b"of this layer")
            .file(".wh.both", b"")
            .dir("new", 0o755)
            .file(".wh.new", b"")
            .file(".wh.late", b"")
            .dir("late", 0o755),
    );
    let dir = dir.unwrap();
    for name in ["gone", "etc"] {
        let stat = fs::symlink_metadata(dir.join(name)).unwrap();
        assert!(stat.file_type().is_char_device() && stat.rdev() == 0, "{name}");
    }
    assert_eq!(read(dir.join(".wh.dir/somefile")), "WhiteoutDirectoryName");
    assert_eq!(read(dir.join("both")), "of this layer");
    assert_eq!(read(dir.join("kept/before")) + &read(dir.join("kept/after")), "xy");
    for name in ["kept", "new", "late"] {
        assert_eq!(xattr(&dir.join(name), "trusted.overlay.opaque").unwrap(), b"y", "{name}");
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn overlay_attributes_of_a_layer_are_not_applied() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (_fixture, dir) = contained(
        Tar::new()
            .pax("SCHILY.xattr.trusted.overlay.opaque", b"y")
            .pax("SCHILY.xattr.trusted.overlay.redirect", b"/etc")
            .pax("SCHILY.xattr.user.note", b"kept")
            .dir("dir", 0o755)
            .pax("SCHILY.xattr.security.capability", &capability)
            .executable("tool", 0o4755, b"x"),
    );
    let dir = dir.unwrap();
    assert_eq!(xattr(&dir.join("dir"), "trusted.overlay.opaque"), None);
    assert_eq!(xattr(&dir.join("dir"), "trusted.overlay.redirect"), None);
    assert_eq!(xattr(&dir.join("dir"), "user.note").unwrap(), b"kept");
    assert_eq!(xattr(&dir.join("tool"), "security.capability").unwrap(), capability);
    assert_eq!(fs::metadata(dir.join("tool")).unwrap().mode() & 0o7777, 0o4755);
}

#[test]
fn attributes_beyond_the_kernels_limits_are_refused() {
    let (_fixture, result) =
        contained(Tar::new().pax("SCHILY.xattr.user.big", &vec![7; 65_537]).file("a", b"x"));
    assert!(result.is_err());
}

#[test]
fn device_numbers_out_of_range_are_refused() {
    let negative = [0xff; 8];
    let large = [0x80, 0, 0, 1, 0, 0, 0, 0];
    let one = *b"0000001\0";
    for (major, minor) in [(&negative, &one), (&one, &negative), (&large, &one), (&one, &large)] {
        assert!(contained(Tar::new().node("device", b'3', major, minor)).1.is_err());
    }
    // A raw whiteout has no place in a layer.
    let zero = *b"0000000\0";
    assert!(contained(Tar::new().node("device", b'3', &zero, &zero)).1.is_err());
    let (_fixture, dir) =
        contained(Tar::new().node("null", b'3', &one, b"0000003\0").node("f", b'6', &zero, &zero));
    let dir = dir.unwrap();
    assert_eq!(fs::metadata(dir.join("null")).unwrap().rdev(), rustix::fs::makedev(1, 3));
    assert!(fs::metadata(dir.join("f")).unwrap().file_type().is_fifo());
}

#[test]
fn odd_but_legal_names_are_kept() {
    let long = "n".repeat(255);
    let path = vec!["d".repeat(200); 10].join("/");
    let (_fixture, dir) = contained(
        Tar::new()
            .file("..gitme", b"ApplyDotDotFile")
            .entry(b"new\nline", b'0', b"", 0o644, b"x")
            .entry(b"\xff\xfe", b'0', b"", 0o644, b"not UTF-8")
            .pax("path", long.as_bytes())
            .file("x", b"255 bytes")
            .pax("path", path.as_bytes())
            .file("x", b"deep"),
    );
    let dir = dir.unwrap();
    assert_eq!(read(dir.join("..gitme")), "ApplyDotDotFile");
    assert_eq!(read(dir.join("new\nline")), "x");
    assert_eq!(read(dir.join(long)), "255 bytes");
    assert_eq!(read(dir.join(path)), "deep");
}

#[test]
fn names_that_no_kernel_takes_are_refused() {
    for tar in [
        Tar::new().pax("path", "n".repeat(256).as_bytes()).file("x", b""),
        Tar::new().pax("path", vec!["d"; 2100].join("/").as_bytes()).file("x", b""),
        Tar::new().pax("path", b"a\0b").file("x", b""),
        Tar::new().pax("linkpath", b"").symlink("empty", ""),
    ] {
        assert!(contained(tar).1.is_err());
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let mut huge = header(b"sparse", b'0', b"", 0o644, 0);
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let mut negative = header(b"negative", b'0', b"", 0o644, 0);
    negative[124..136].fill(0xff);
    let mut owner = header(b"owner", b'0', b"", 0o644, 0);
    owner[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let extension = |kind, size| header(b"x", kind, b"", 0o644, size);
    for tar in [
        Tar::new().raw_entry(huge, b""),
        Tar::new().raw_entry(negative, b""),
        Tar::new().raw_entry(owner, b""),
        Tar::new().raw_entry(extension(b'x', 4 << 30), b""),
        Tar::new().raw_entry(extension(b'L', 2 << 20), b""),
        Tar::new().entry(b"a", b'S', b"", 0o644, b""),
        Tar::new().entry(b"a", b'Z', b"", 0o644, b""),
        Tar::new().pax("GNU.sparse.major", b"1").file("a", b""),
        Tar::new().pax("size", b"99999999999999999999").file("a", b""),
        (0..40).fold(Tar::new(), |tar, _| tar.entry(b"x", b'g', b"", 0o644, b"")),
    ] {
        assert!(contained(tar).1.is_err());
    }
}

/// An entry of GNU tar's with holes: a map of one piece, the size that the file is to have, contents.
fn sparse(piece: (u64, u64), size: u64, contents: &[u8]) -> Tar {
    let mut head = header(b"sparse", b'S', b"", 0o644, contents.len() as u64);
    head[257..265].copy_from_slice(b"ustar  \0");
    head[345..].fill(0);
    let mut number = |at: usize, value: u64| {
        head[at] = 0x80;
        head[at + 4..at + 12].copy_from_slice(&value.to_be_bytes());
    };
    number(386, piece.0);
    number(398, piece.1);
    number(483, size);
    Tar::new().raw_entry(head, contents)
}

#[test]
fn holes_of_exabytes_and_maps_that_lie_are_refused() {
    assert!(contained(sparse((4096, 4), 8192, b"data")).1.is_ok());
    for (piece, size, contents) in [
        ((0, 4), i64::MAX as u64, &b"data"[..]),
        ((0, 4), u64::MAX, b"data"),
        ((8192, 4), 8192, b"data"),
        ((u64::MAX - 1, 4), 8192, b"data"),
        ((0, 3), 8192, b"data"),
        ((0, 5), 8192, b"data"),
    ] {
        let (_, result) = contained(sparse(piece, size, contents));
        assert!(matches!(result, Err(ImageError::Invalid(_))), "{piece:?} {size}: {result:?}");
    }
    let cut = Tar::new().pax("GNU.sparse.major", b"1").pax("GNU.sparse.minor", b"0");
    let cut = cut.pax("GNU.sparse.realsize", b"100").file("a", &[b'9'; 512]);
    assert!(contained(cut).1.is_err());
}

#[test]
fn a_truncated_layer_is_refused() {
    let layer = inside().file("big", &[1; 5000]).end();
    for length in [700, 2000, layer.len() - 1024 - 700] {
        let fixture = Fixture::new();
        fixture.layer(&layer[..length]).unwrap_err();
        fixture.assert_empty();
    }
}

fn refused(limits: Limits, archive: &[u8]) -> String {
    let fixture = Fixture::with(limits);
    let error = fixture.load(archive).unwrap_err();
    assert!(matches!(error, ImageError::Invalid(_)), "{error:?}");
    fixture.assert_empty();
    error.to_string()
}

#[test]
fn bombs_go_off_outside() {
    let limits = || Limits { ratio_floor: 1 << 20, ratio: 100, ..Limits::default() };
    let zeros = Tar::new().file("zeros", &vec![0; 8 << 20]).end();
    let config = config(&[&zeros]);
    for blob in [
        gzip(&zeros),
        zstd::encode_all(&zeros[..], 3).unwrap(),
        packed("bzip2", &zeros),
        packed("xz", &zeros),
    ] {
        let archive = docker_archive_of(&["bomb"], &config, &[&blob]);
        assert!(refused(limits(), &archive).contains("compressed byte"));
    }
    let whole = gzip(&docker_archive(&["bomb"], &[&zeros]));
    assert!(refused(limits(), &whole).contains("compressed byte"));

    let many = (0..200).fold(Tar::new(), |tar, index| tar.file(&index.to_string(), b"")).end();
    let limits = Limits { layer_entries: 100, ..Limits::default() };
    assert!(refused(limits.clone(), &docker_archive(&[], &[&many])).contains("entries"));
    let implied = Tar::new().pax("path", vec!["d"; 150].join("/").as_bytes()).file("x", b"").end();
    assert!(refused(limits, &docker_archive(&[], &[&implied])).contains("entries"));
    let limits = Limits { layer_bytes: 1 << 20, ..Limits::default() };
    assert!(refused(limits, &docker_archive(&[], &[&zeros])).contains("bytes"));
    let limits = Limits { archive_bytes: 1 << 20, ..Limits::default() };
    assert!(refused(limits, &docker_archive(&[], &[&zeros])).contains("bytes"));
    let limits = Limits { archive_members: 2, ..Limits::default() };
    assert!(refused(limits, &docker_archive(&[], &[&many])).contains("members"));
}

#[test]
fn a_window_that_takes_gigabytes_of_memory_is_refused() {
    let layer = inside().end();
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    std::io::Write::write_all(&mut encoder, &layer).unwrap();
    let blob = encoder.finish().unwrap();
    let archive = docker_archive_of(&["window"], &config(&[&layer]), &[&blob]);
    assert!(refused(Limits::default(), &archive).to_lowercase().contains("memory"));
}

#[test]
fn a_name_of_gigabytes_is_refused_before_it_is_read() {
    let mut names = header(b"x", b'x', b"", 0o644, 4 << 30);
    names[156] = b'x';
    let layer = Tar::new().raw_entry(names, b"30 path=short\n").end();
    let archive = docker_archive_of(&["names"], &config(&[&layer]), &[&layer]);
    assert!(refused(Limits::default(), &archive).contains("too large"));
}

#[test]
fn one_layer_twice_is_one_layer_and_one_digest_with_two_sizes_none() {
    let layer = inside().end();
    let config_twice = config(&[&layer, &layer]);
    let entry = described("layer.v1.tar", &layer);
    let mut other = entry.clone();
    other["size"] = json!(layer.len() - 512);
    for (second, sound) in [(entry.clone(), true), (other, false)] {
        let manifest = json!({"schemaVersion": 2, "config": described("config.v1+json", &config_twice),
            "layers": [entry, second]})
        .to_string()
        .into_bytes();
        let index = json!({"schemaVersion": 2, "manifests": [described("manifest.v1+json", &manifest)]});
        let archive = layout(index, &[&manifest, &config_twice, &layer]);
        if sound {
            let fixture = Fixture::new();
            fixture.load(&archive).unwrap();
            assert_eq!(fs::read_dir(fixture.path().join("layers")).unwrap().count(), 1);
        } else {
            assert!(refused(Limits::default(), &archive).contains("descriptor says"));
        }
    }
}

#[test]
fn an_empty_tar_with_much_padding_is_imported() {
    // CVE-2017-14992, a thousandth of its size: memory does not grow with it, which the recipe's length shows.
    struct Zeros(u64);
    impl std::io::Read for Zeros {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = buffer.len().min(self.0 as usize);
            buffer[..count].fill(0);
            self.0 -= count as u64;
            Ok(count)
        }
    }
    let fixture = Fixture::new();
    let id = fixture.library.import(&mut Zeros(64 << 20), Default::default(), None).unwrap();
    let image = fixture.library.find(&id.hex()).unwrap();
    assert_eq!(image.size, 0);
    let layer = fixture.path().join("layers").join(image.config.rootfs.diff_ids[0].hex());
    assert!(fs::metadata(layer.join("recipe")).unwrap().len() < 200);
}

#[test]
fn documents_that_do_not_fit_are_refused() {
    let layer = inside().end();
    let other = Tar::new().file("other", b"x").end();
    let config_of = |layers: &[&[u8]]| config(layers);
    let manifest = |text: &str| Tar::new().file("manifest.json", text.as_bytes()).end();
    for (archive, why) in [
        (docker_archive_of(&[], &config_of(&[&other]), &[&layer]), "invalid diff ID"),
        (docker_archive_of(&[], &config_of(&[&layer, &layer]), &[&layer]), "layers length mismatch"),
        (docker_archive_of(&[], b"{}", &[&layer]), "layers length mismatch"),
        (docker_archive_of(&[], b"no json", &[&layer]), "image configuration"),
        (docker_archive_of(&["UPPER"], &config_of(&[&layer]), &[&layer]), "invalid tag"),
        (docker_archive_of(&[], br#"{"os":"windows","rootfs":{"type":"layers"}}"#, &[]), "operating system"),
        (manifest(r#"[{"Config":"c","Layers":[]}]"#), "missing"),
        (manifest(r#"[{"Config":"../../../etc/passwd","Layers":[]}]"#), "missing"),
        (manifest("{"), "manifest.json"),
        (manifest(&" ".repeat(5 << 20)), "at most"),
        (Tar::new().file("repositories", b"{}").end(), "before 1.10"),
        (Tar::new().file("x", b"").end(), "not an image archive"),
        (b"this is no archive at all".to_vec(), "unexpected end"),
        (vec![0x55; 4096], "checksum"),
    ] {
        let error = refused(Limits::default(), &archive);
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn too_many_layers_are_refused() {
    let layer = Tar::new().end();
    let layers = vec![&layer[..]; 126];
    assert!(refused(Limits::default(), &docker_archive(&[], &layers)).contains("max depth exceeded"));
}

/// An OCI layout of the given blobs with this index.
fn layout(index: serde_json::Value, blobs: &[&[u8]]) -> Vec<u8> {
    let mut tar = Tar::new().file("index.json", index.to_string().as_bytes());
    for blob in blobs {
        tar = tar.file(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
    }
    tar.end()
}

fn described(kind: &str, blob: &[u8]) -> serde_json::Value {
    json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": Digest::of(blob), "size": blob.len()})
}

#[test]
fn layouts_that_do_not_fit_are_refused() {
    let layer = inside().end();
    let config = config(&[&layer]);
    let manifest = |config: serde_json::Value, layer: serde_json::Value| {
        json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string().into_bytes()
    };
    let index = |descriptor: serde_json::Value| json!({"schemaVersion": 2, "manifests": [descriptor]});
    let config_entry = described("config.v1+json", &config);
    let layer_entry = described("layer.v1.tar", &layer);
    let load = |config_entry: &serde_json::Value, layer_entry: &serde_json::Value| {
        let manifest = manifest(config_entry.clone(), layer_entry.clone());
        layout(index(described("manifest.v1+json", &manifest)), &[&manifest, &config, &layer])
    };
    let changed = |entry: &serde_json::Value, key: &str, value: serde_json::Value| {
        let mut entry = entry.clone();
        entry[key] = value;
        entry
    };
    Fixture::new().load(&load(&config_entry, &layer_entry)).unwrap();

    let longer = json!(layer.len() + 1);
    let foreign = json!("application/vnd.oci.image.layer.v1.tar+lzma");
    let malformed = json!("sha256:../../../../etc/passwd");
    let unsafe_digest = json!("sha512:00");
    for (archive, why) in [
        (load(&config_entry, &changed(&layer_entry, "size", longer)), "descriptor says"),
        (load(&changed(&config_entry, "size", json!(3)), &layer_entry), "descriptor says"),
        (load(&config_entry, &changed(&layer_entry, "mediaType", foreign)), "not supported"),
        (load(&config_entry, &changed(&layer_entry, "digest", malformed)), "invalid digest"),
        (load(&config_entry, &changed(&layer_entry, "digest", unsafe_digest)), "invalid digest"),
    ] {
        let error = refused(Limits::default(), &archive);
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_blob_with_another_digest_is_refused() {
    let layer = inside().end();
    let config = config(&[&layer]);
    // The blob decompresses to the right layer, but it is not the blob that the manifest names.
    let named = gzip(&layer);
    let mut other = gzip(&layer);
    other[4] ^= 1; // The time in gzip's header.
    let manifest = json!({"schemaVersion": 2, "config": described("config.v1+json", &config),
        "layers": [described("layer.v1.tar+gzip", &named)]})
    .to_string()
    .into_bytes();
    let index = json!({"schemaVersion": 2, "manifests": [described("manifest.v1+json", &manifest)]});
    let archive = Tar::new()
        .file("index.json", index.to_string().as_bytes())
        .file(&format!("blobs/sha256/{}", Digest::of(&manifest).hex()), &manifest)
        .file(&format!("blobs/sha256/{}", Digest::of(&config).hex()), &config)
        .file(&format!("blobs/sha256/{}", Digest::of(&named).hex()), &other)
        .end();
    assert!(refused(Limits::default(), &archive).contains("has the digest"));
}

#[test]
fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    // The blob is what its descriptor says, unpacked it is not what the diff_id says.
    let (said, sent) = (inside().end(), inside().file("more", b"than was said").end());
    let fixture = Fixture::new();
    let archive = docker_archive_of(&["test:latest"], &config(&[&said]), &[&sent]);
    let error = fixture.load(&archive).unwrap_err().to_string();
    let expected = format!("expected \"{}\", got \"{}\"", Digest::of(&said), Digest::of(&sent));
    assert!(error.contains("invalid diff ID") && error.contains(&expected), "{error}");
    fixture.assert_empty();

    let document = config(&[&said]);
    let manifest = json!({"schemaVersion": 2, "config": described("config.v1+json", &document),
        "layers": [described("layer.v1.tar", &sent)]})
    .to_string()
    .into_bytes();
    let index = json!({"schemaVersion": 2, "manifests": [described("manifest.v1+json", &manifest)]});
    let error = refused(Limits::default(), &layout(index, &[&manifest, &document, &sent]));
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn a_document_that_is_manifest_and_index_is_refused() {
    // CVE-2021-41190.
    let layer = inside().end();
    let config = config(&[&layer]);
    let both = json!({"schemaVersion": 2, "config": described("config.v1+json", &config),
        "layers": [described("layer.v1.tar", &layer)], "manifests": []})
    .to_string()
    .into_bytes();
    for kind in ["manifest.v1+json", "index.v1+json"] {
        let index = json!({"schemaVersion": 2, "manifests": [described(kind, &both)]});
        assert!(refused(Limits::default(), &layout(index, &[&both, &config, &layer])).contains("both"));
    }
    let other = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "config": described("config.v1+json", &config), "layers": []})
    .to_string()
    .into_bytes();
    let index = json!({"schemaVersion": 2, "manifests": [described("manifest.v1+json", &other)]});
    assert!(refused(Limits::default(), &layout(index, &[&other, &config])).contains("it says that"));
}

#[test]
fn indexes_in_indexes_end() {
    let mut inner = b"{\"schemaVersion\":2,\"manifests\":[]}".to_vec();
    let mut blobs = vec![inner.clone()];
    for _ in 0..20 {
        inner = json!({"schemaVersion": 2, "manifests": [described("index.v1+json", &inner)]})
            .to_string()
            .into_bytes();
        blobs.push(inner.clone());
    }
    let index = json!({"schemaVersion": 2, "manifests": [described("index.v1+json", &inner)]});
    let blobs: Vec<_> = blobs.iter().map(Vec::as_slice).collect();
    assert!(refused(Limits::default(), &layout(index, &blobs)).contains("nested too deep"));
    // Few documents, many paths through them.
    let wide = json!({"schemaVersion": 2, "manifests": vec![described("index.v1+json", blobs[0]); 2000]});
    assert!(refused(Limits::default(), &layout(wide, &blobs[..1])).contains("more than"));
}
