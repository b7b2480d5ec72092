//! Path resolution over layers, on the real file system; whiteouts and owners need root.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::fs::{CWD, XattrFlags};

use super::*;

/// An upper directory and some lower ones, the top one first.
struct Layers {
    root: tempfile::TempDir,
    lowers: usize,
}

impl Layers {
    fn new(lowers: usize) -> Self {
        let root = tempfile::tempdir().unwrap();
        let layers = Self { root, lowers };
        std::fs::create_dir(layers.upper("")).unwrap();
        (0..lowers).for_each(|number| std::fs::create_dir(layers.lower(number, "")).unwrap());
        layers
    }

    fn upper(&self, path: &str) -> PathBuf {
        self.root.path().join("upper").join(path)
    }

    fn lower(&self, number: usize, path: &str) -> PathBuf {
        self.root.path().join(format!("lower{number}")).join(path)
    }

    fn file(&self, number: usize, path: &str, text: &str) -> &Self {
        let path = self.lower(number, path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn directory(&self, number: usize, path: &str) -> &Self {
        std::fs::create_dir_all(self.lower(number, path)).unwrap();
        self
    }

    fn link(&self, number: usize, path: &str, target: &str) -> &Self {
        symlink(target, self.lower(number, path)).unwrap();
        self
    }

    fn whiteout(&self, number: usize, path: &str) -> &Self {
        let path = self.lower(number, path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        self
    }

    fn opaque(&self, number: usize, path: &str) -> &Self {
        let path = self.lower(number, path);
        rustix::fs::setxattr(path, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        self
    }

    fn open(&self) -> Union {
        let lower = (0..self.lowers).map(|number| self.lower(number, "")).collect();
        let (upper, work) = (self.upper(""), self.root.path().into());
        Union::open(&WorkingLayer { key: "test".into(), lower, upper, work }).unwrap()
    }
}

fn read(union: &Union, path: &str) -> Option<String> {
    union.read(Path::new(path), 1 << 20).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
}

fn names(union: &Union, path: &str) -> Vec<String> {
    match union.walk(Path::new(path), Last::Follow).unwrap() {
        Walked::Directory(cursor) => {
            cursor.names().unwrap().into_iter().map(|name| name.into_string().unwrap()).collect()
        }
        other => panic!("{path} is no directory: {other:?}"),
    }
}

#[test]
fn upper_layers_hide_lower_ones_and_directories_merge() {
    let layers = Layers::new(2);
    layers
        .file(0, "d/a", "top")
        .file(1, "d/a", "bottom")
        .file(1, "d/b", "b")
        .file(1, "f/x", "x")
        .file(0, "f", "file");
    let union = layers.open();
    assert_eq!(read(&union, "/d/a").as_deref(), Some("top"));
    assert_eq!(read(&union, "/d/b").as_deref(), Some("b"));
    assert_eq!(names(&union, "/d"), ["a", "b"]);
    assert_eq!(read(&union, "/f").as_deref(), Some("file"));
    assert_eq!(read(&union, "/f/x"), None);
}

#[test]
fn whiteouts_and_opaque_marks_end_the_lookup() {
    let layers = Layers::new(3);
    layers.file(2, "d/gone", "1").file(2, "d/kept", "2").file(2, "o/old", "3").file(2, "w/under", "4");
    layers.whiteout(1, "d/gone").directory(1, "o").opaque(1, "o").whiteout(1, "w");
    layers.file(0, "o/new", "5").file(0, "w/fresh", "6");
    let union = layers.open();
    assert_eq!(names(&union, "/d"), ["kept"]);
    assert_eq!(read(&union, "/d/gone"), None);
    assert_eq!(names(&union, "/o"), ["new"]);
    assert_eq!(names(&union, "/w"), ["fresh"], "a directory made again does not show what was whited out");
    assert!(matches!(union.walk(Path::new("/d/gone"), Last::Keep).unwrap(), Walked::Missing(..)));
}

#[test]
fn links_are_followed_inside_of_the_union() {
    let layers = Layers::new(2);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    layers.file(1, "srv/app/f", "F").directory(0, "a/b").link(0, "abs", "/srv/app").link(
        0,
        "a/b/rel",
        "../../srv",
    );
    layers.link(0, "up", "../../../../../srv/app").link(0, "out", outside.path().to_str().unwrap());
    layers.link(0, "chain", "abs/../app").link(0, "loop", "loop").link(0, "self", ".").link(
        0,
        "magic",
        "/proc/self/root",
    );
    let union = layers.open();
    for path in
        ["/abs/f", "/a/b/rel/app/f", "/up/f", "/chain/f", "/self/self/abs/f", "/../../abs/f", "a/../abs/./f"]
    {
        assert_eq!(read(&union, path).as_deref(), Some("F"), "{path}");
    }
    assert_eq!(read(&union, "/out/secret"), None);
    assert_eq!(read(&union, "/magic/etc/passwd"), None);
    let looped = union.walk(Path::new("/loop/x"), Last::Follow).unwrap_err();
    assert_eq!(looped.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    assert!(matches!(union.walk(Path::new("/abs"), Last::Keep).unwrap(), Walked::Other(..)));
}

#[test]
fn what_is_written_goes_up_with_its_parents() {
    let layers = Layers::new(1);
    layers.file(0, "a/b/old", "old").link(0, "link", "/a/b");
    std::fs::set_permissions(layers.lower(0, "a"), PermissionsExt::from_mode(0o1711)).unwrap();
    std::os::unix::fs::chown(layers.lower(0, "a"), Some(3), Some(4)).unwrap();
    rustix::fs::setxattr(layers.lower(0, "a"), "user.kept", b"1", XattrFlags::empty()).unwrap();
    let union = layers.open();
    let mut cursor = union.make_directories(Path::new("/link/new/er"), &Attributes::new(0o755)).unwrap();
    assert_eq!(cursor.path(), Path::new("/a/b/new/er"));
    cursor.make_file("f".as_ref()).unwrap().write_all(b"f").unwrap();
    let meta = layers.upper("a").metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o1711, 3, 4));
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(layers.upper("a"), "user.kept", &mut value[..]).unwrap(), 1);
    assert_eq!(layers.upper("a/b/new").metadata().unwrap().mode() & 0o7777, 0o755);
    assert!(!layers.upper("a/b/old").exists(), "only what is needed goes up");
    assert_eq!(read(&union, "/link/new/er/f").as_deref(), Some("f"));
    assert_eq!(names(&union, "/a/b"), ["new", "old"]);
    assert!(!layers.lower(0, "a/b/new").exists());
}

#[test]
fn new_things_take_the_place_of_files_but_not_of_directories() {
    let layers = Layers::new(1);
    layers.file(0, "f", "lower").directory(0, "d").link(0, "l", "/f").file(0, "hidden/x", "x");
    let union = layers.open();
    let mut root = union.root();
    root.make_file("f".as_ref()).unwrap().write_all(b"upper").unwrap();
    root.make_file("l".as_ref()).unwrap().write_all(b"file").unwrap();
    assert_eq!(read(&union, "/f").as_deref(), Some("upper"));
    assert_eq!(read(&union, "/l").as_deref(), Some("file"), "a link is replaced, not followed");
    let error = root.make_file("d".as_ref()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ISDIR.raw_os_error()));
    let error = root.make_directory("f".as_ref(), Existing::Keep).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::NOTDIR.raw_os_error()));
    root.make_link("f".as_ref(), "d".as_ref(), &Attributes::new(0o777)).unwrap();
    assert!(layers.upper("f").symlink_metadata().unwrap().is_symlink());
    assert!(root.make_directory("f".as_ref(), Existing::Replace).unwrap());
    assert!(layers.upper("f").is_dir());
}

#[test]
fn a_directory_in_place_of_a_whiteout_stays_empty() {
    let layers = Layers::new(1);
    layers.file(0, "d/old", "x");
    rustix::fs::mknodat(CWD, layers.upper("d"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let union = layers.open();
    assert!(matches!(union.walk(Path::new("/d"), Last::Keep).unwrap(), Walked::Missing(..)));
    union.make_directories(Path::new("/d"), &Attributes::new(0o755)).unwrap();
    assert!(names(&union, "/d").is_empty());
    assert!(is_opaque(std::fs::File::open(layers.upper("d")).unwrap()).unwrap());
}

#[test]
fn the_kernel_sees_the_same_tree() {
    let layers = Layers::new(2);
    layers.file(1, "a/one", "1").file(1, "a/two", "2").whiteout(0, "a/two").link(0, "l", "/a");
    let union = layers.open();
    let mut cursor = union.make_directories(Path::new("/l/deep"), &Attributes::new(0o700)).unwrap();
    cursor.make_file("three".as_ref()).unwrap().write_all(b"3").unwrap();
    let (work, merged) = (layers.root.path().join("work"), layers.root.path().join("merged"));
    std::fs::create_dir(&work).unwrap();
    std::fs::create_dir(&merged).unwrap();
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        layers.lower(0, "").display(),
        layers.lower(1, "").display(),
        layers.upper("").display(),
        work.display()
    );
    let mounted = Mounted::overlay(&merged, &options);
    let mut found: Vec<_> =
        std::fs::read_dir(merged.join("a")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    found.sort();
    assert_eq!(found, ["deep", "one"]);
    let mut text = String::new();
    std::fs::File::open(merged.join("a/deep/three")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "3");
    drop(mounted);
}

/// A mount that goes with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn overlay(at: &Path, options: &str) -> Self {
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("overlay", at, "overlay", flags, Some(options.as_c_str())).unwrap();
        Self(at.into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn trees_that_are_too_deep_are_refused() {
    let layers = Layers::new(0);
    let union = layers.open();
    let path: PathBuf = std::iter::repeat_n("d", MAX_DEPTH + 1).collect();
    assert!(union.make_directories(&path, &Attributes::new(0o755)).is_err());
}
