//! Layers as the kernel's overlayfs sees them. These tests mount, so they need root.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cirro_image::ContainerRoot;
use cirro_types::{Digest, ImageConfig};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::archive::{Fixture, Tar, read};

/// A mounted root, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(fixture: &Fixture, root: &ContainerRoot) -> Self {
        let at = fixture.dir.path().join("mounted");
        fs::create_dir_all(&at).unwrap();
        let lower: Vec<_> = root.lower.iter().map(|dir| dir.display().to_string()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off,index=off",
            lower.join(":"),
            root.upper.display(),
            root.work.display()
        );
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("overlay", &at, "overlay", MountFlags::empty(), &*options).unwrap();
        Self(at)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Everything that makes a tree what it is, link counts and times included.
fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let what = if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if kind.is_file() {
            format!("{} links {:?}", stat.nlink(), Digest::of(&fs::read(&path).unwrap()))
        } else if kind.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else {
            format!("device {}", stat.rdev())
        };
        let mut note = [0; 100];
        let length = rustix::fs::lgetxattr(&path, "user.note", &mut note[..]).unwrap_or(0);
        let time = if path == root { (0, 0) } else { (stat.mtime(), stat.mtime_nsec()) };
        lines.push(format!(
            "{} {:o} {}:{} {time:?} {:?} {what}",
            path.strip_prefix(root).unwrap().display(),
            stat.mode(),
            stat.uid(),
            stat.gid(),
            String::from_utf8_lossy(&note[..length]),
        ));
    }
    lines.sort();
    lines
}

fn base() -> Vec<u8> {
    Tar::new()
        .dir("etc", 0o755)
        .file("etc/passwd", b"root")
        .file("etc/group", b"root")
        .dir("old", 0o755)
        .file("old/a", b"a")
        .file("old/b", b"b")
        .dir("swap", 0o755)
        .file("swap/in", b"x")
        .end()
}

/// Changes a mounted tree in every way that a layer can tell.
fn change(root: &Mounted) {
    fs::write(root.join("etc/passwd"), "changed").unwrap();
    fs::remove_file(root.join("etc/group")).unwrap();
    fs::remove_dir_all(root.join("old")).unwrap();
    fs::create_dir(root.join("old")).unwrap();
    fs::write(root.join("old/c"), "c").unwrap();
    fs::remove_dir_all(root.join("swap")).unwrap();
    symlink("etc", root.join("swap")).unwrap();
    fs::create_dir(root.join("new")).unwrap();
    fs::set_permissions(root.join("new"), fs::Permissions::from_mode(0o2775)).unwrap();
    fs::write(root.join("new/tool"), vec![3; 70_000]).unwrap();
    std::os::unix::fs::chown(root.join("new/tool"), Some(1000), Some(3_000_000)).unwrap();
    fs::set_permissions(root.join("new/tool"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::hard_link(root.join("new/tool"), root.join("new/again")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("new/tool"), "user.note", b"noted", flags).unwrap();
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(CWD, root.join("new/null"), FileType::CharacterDevice, Mode::RWXU, null).unwrap();
    rustix::fs::mknodat(CWD, root.join("new/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let long = root.join("new").join("long".repeat(40));
    fs::create_dir(&long).unwrap();
    fs::write(long.join("ünïcode"), "").unwrap();
    let past = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: 0 },
        last_modification: Timespec { tv_sec: -5, tv_nsec: 250_000_000 },
    };
    rustix::fs::utimensat(CWD, long.join("ünïcode"), &past, AtFlags::empty()).unwrap();
}

#[test]
fn a_committed_layer_shows_what_was_made_and_comes_out_as_the_same_tree() {
    let fixture = Fixture::new();
    let base = base();
    fixture.layer(&base).unwrap();
    let base_id = Digest::of(&base);
    let (key, root) = fixture.library.open_layer(&[base_id]).unwrap();
    let mounted = Mounted::new(&fixture, &root);
    change(&mounted);
    let wanted = listing(&mounted.0);
    drop(mounted);
    let diff_id = fixture.library.commit_layer(&key).unwrap();
    let mut config = ImageConfig::default();
    config.rootfs.diff_ids = vec![base_id, diff_id];
    let id = fixture.library.put_image(&config, &["built".parse().unwrap()]).unwrap();

    let root = fixture.library.create_root("c1", &id).unwrap();
    let mounted = Mounted::new(&fixture, &root);
    assert_eq!(listing(&mounted.0), wanted);
    drop(mounted);

    let mut archive = Vec::new();
    fixture.library.save(&["built".into()], &mut archive).unwrap();
    let other = Fixture::new();
    assert_eq!(other.load(&archive).unwrap()[0].id, id);
    let root = other.library.create_root("c1", &id).unwrap();
    let mounted = Mounted::new(&other, &root);
    assert_eq!(listing(&mounted.0), wanted);
    assert!(fs::symlink_metadata(mounted.join("new/null")).unwrap().file_type().is_char_device());
    drop(mounted);
    // Unpacked, it makes the same tar again.
    let (key, scratch) = other.library.open_layer(&[]).unwrap();
    let unpacked = other.library.layer_dirs(&[diff_id]).unwrap().remove(0);
    fs::remove_dir(&scratch.upper).unwrap();
    let copied =
        std::process::Command::new("cp").arg("-a").arg(unpacked).arg(&scratch.upper).status().unwrap();
    assert!(copied.success());
    assert_eq!(other.library.commit_layer(&key).unwrap(), diff_id);
}

#[test]
fn loaded_whiteouts_hide_what_is_below() {
    let fixture = Fixture::new();
    let base = base();
    let top = Tar::new()
        .file("etc/.wh.group", b"")
        .dir("old", 0o755)
        .file("old/.wh..wh..opq", b"")
        .file("old/c", b"c")
        .file(".wh.swap", b"")
        .end();
    let id = {
        fixture.layers(&[&base, &top]).unwrap();
        fixture.library.find("test").unwrap().id
    };
    let mounted = Mounted::new(&fixture, &fixture.library.create_root("c1", &id).unwrap());
    assert!(!mounted.join("etc/group").exists());
    assert_eq!(read(mounted.join("etc/passwd")), "root");
    assert_eq!(fs::read_dir(mounted.join("old")).unwrap().count(), 1);
    assert!(!mounted.join("swap").exists());
}

#[test]
fn an_opaque_root_hides_every_layer_below() {
    let fixture = Fixture::new();
    let top = Tar::new().file(".wh..wh..opq", b"").file("only", b"x").end();
    fixture.layers(&[&base(), &top]).unwrap();
    let id = fixture.library.find("test").unwrap().id;
    let mounted = Mounted::new(&fixture, &fixture.library.create_root("c1", &id).unwrap());
    assert_eq!(fs::read_dir(&mounted.0).unwrap().count(), 1);
}

#[test]
fn a_new_root_looks_like_the_images() {
    let fixture = Fixture::new();
    fixture.layer(&Tar::new().dir("./", 0o700).end()).unwrap();
    let id = fixture.library.find("test").unwrap().id;
    let mounted = Mounted::new(&fixture, &fixture.library.create_root("c1", &id).unwrap());
    assert_eq!(fs::metadata(&mounted.0).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn an_image_without_layers_can_be_mounted() {
    let fixture = Fixture::new();
    let id = fixture.library.put_image(&ImageConfig::default(), &[]).unwrap();
    let mounted = Mounted::new(&fixture, &fixture.library.create_root("c1", &id).unwrap());
    assert_eq!(fs::metadata(&mounted.0).unwrap().mode() & 0o7777, 0o755);
    fs::write(mounted.join("x"), "").unwrap();
}
