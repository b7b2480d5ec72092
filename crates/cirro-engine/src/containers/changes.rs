//! What a container changed in its image's files (`docker diff`), and how much room that takes.
//!
//! Read from the upper directory of the overlay, which is where a change is. What the runtime makes there to mount on
//! is no change of the container's, as in dockerd.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cirro_container::Rootfs;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::Engine;
use crate::error::{EngineError, blocking, io};
use crate::layers::{self, Found, Layers, is_opaque, is_whiteout};

const MAX_DEPTH: usize = 512;
/// More changes than anybody reads; a bound for the answer.
const MAX_CHANGES: usize = 1 << 20;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is in the image too, and differs.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute path in the container.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What dockerd has in the layer between image and container: (path, whether it is a directory).
///
/// Source: moby `daemon/initlayer/setup_unix.go`.
pub(crate) const INIT: [(&str, bool); 10] = [
    ("dev", true),
    ("dev/pts", true),
    ("dev/shm", true),
    ("dev/mqueue", true),
    ("dev/console", false),
    ("proc", true),
    ("sys", true),
    ("etc/resolv.conf", false),
    ("etc/hosts", false),
    ("etc/hostname", false),
];

impl Engine {
    /// Lists what a container changed, in the order of the paths.
    pub async fn container_changes(&self, name: &str) -> Result<Vec<Change>, EngineError> {
        let record = self.record(name)?;
        blocking(move || {
            let context = format!("compare container {} with its image", record.container.id);
            changes(&record.root).map_err(io(context))
        })
        .await
    }

    /// Returns the bytes that a container's own files take, and those with its image's.
    pub async fn container_size(&self, name: &str) -> Result<(u64, u64), EngineError> {
        let record = self.record(name)?;
        let library = self.shared.library.clone();
        blocking(move || {
            let own = size_of(&record.root.upper);
            let layers = library.root_size(&record.container.id)?;
            Ok((own, own + layers))
        })
        .await
    }
}

/// Whether something in the upper directory is only there to be mounted on.
pub(crate) fn is_mount_point(path: &Path, stat: &Stat) -> bool {
    let wanted = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile if stat.st_size == 0 => false,
        _ => return false,
    };
    INIT.iter().any(|(name, directory)| Path::new(name) == path && *directory == wanted)
}

fn changes(root: &Rootfs) -> std::io::Result<Vec<Change>> {
    let below = Layers::open(root.lower.iter().map(|dir| dir.as_path()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::openat(CWD, &root.upper, flags, Mode::empty())?;
    let mut found = Comparison { below, changes: BTreeMap::new() };
    found.directory(&upper, Path::new(""), 0)?;
    let change =
        |(path, kind): (OsString, ChangeKind)| Change { path: format!("/{}", path.to_string_lossy()), kind };
    Ok(found.changes.into_iter().map(change).collect())
}

struct Comparison {
    below: Layers,
    changes: BTreeMap<OsString, ChangeKind>,
}

impl Comparison {
    /// Compares what is in one upper directory; tells whether anything is a change of the container's, and whether
    /// anything is not.
    fn directory(&mut self, upper: &OwnedFd, path: &Path, depth: usize) -> std::io::Result<(bool, bool)> {
        if depth > MAX_DEPTH || self.changes.len() > MAX_CHANGES {
            return Err(Errno::TOOBIG.into());
        }
        let (mut changed, mut ours) = (false, false);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(upper)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        for name in &names {
            let stat = match rustix::fs::statat(upper, name, AtFlags::SYMLINK_NOFOLLOW) {
                // It went meanwhile.
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            let made = self.entry(upper, &path.join(name), name, &stat, depth)?;
            changed |= made;
            ours |= !made;
        }
        if is_opaque(upper) {
            changed |= self.hidden(path, &names)?;
        }
        Ok((changed, ours))
    }

    /// Compares one upper entry; tells whether it is a change.
    fn entry(
        &mut self,
        upper: &OwnedFd,
        path: &Path,
        name: &OsStr,
        stat: &Stat,
        depth: usize,
    ) -> std::io::Result<bool> {
        let before = self.before(path)?;
        if is_whiteout(stat) {
            if before.is_some() {
                self.note(path, ChangeKind::Deleted);
            }
            return Ok(before.is_some());
        }
        let kind = if before.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            if before.is_none() && is_mount_point(path, stat) {
                return Ok(false);
            }
            self.note(path, kind);
            return Ok(true);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::openat(upper, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            opened => opened?,
        };
        let (changed, ours) = self.directory(&directory, path, depth + 1)?;
        let itself = match &before {
            None => !is_mount_point(path, stat),
            // A directory's time changes with what is made in it to mount on, too.
            Some(before) => differs(before, stat) || (!ours && before.st_mtime != stat.st_mtime),
        };
        if changed || itself {
            self.note(path, kind);
        }
        Ok(changed || itself)
    }

    /// Notes what an opaque directory hides.
    fn hidden(&mut self, path: &Path, names: &[OsString]) -> std::io::Result<bool> {
        let Some(Found::Directory(parts)) = self.below.find(&absolute(path))? else { return Ok(false) };
        let mut any = false;
        for name in layers::list(&parts)? {
            if !names.contains(&name) {
                self.note(&path.join(name), ChangeKind::Deleted);
                any = true;
            }
        }
        Ok(any)
    }

    /// Looks at what the image has at a path, links not followed.
    fn before(&self, path: &Path) -> std::io::Result<Option<Stat>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        let Some(Found::Directory(parts)) = self.below.find_exact(parent)? else { return Ok(None) };
        Ok(match layers::child(&parts, name)? {
            None => None,
            Some(Found::Directory(parts)) => Some(rustix::fs::fstat(&parts[0])?),
            Some(Found::Other(dir, name)) => {
                Some(rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?)
            }
        })
    }

    fn note(&mut self, path: &Path, kind: ChangeKind) {
        self.changes.insert(path.as_os_str().to_owned(), kind);
    }
}

fn absolute(path: &Path) -> String {
    format!("/{}", path.to_string_lossy())
}

fn differs(before: &Stat, now: &Stat) -> bool {
    let of = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    of(before) != of(now)
}

/// Returns the bytes of the files below a directory, each once however many names it has.
///
/// Source: moby `daemon/internal/directory`.
pub(crate) fn size_of(dir: &Path) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let mut left = vec![dir.to_owned()];
    let mut total = 0;
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            use std::os::unix::fs::MetadataExt;
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                left.push(entry.path());
            } else if meta.nlink() < 2 || seen.insert((meta.dev(), meta.ino())) {
                total += meta.size();
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Trees {
        _dir: tempfile::TempDir,
        root: Rootfs,
    }

    fn trees() -> Trees {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["upper", "work", "lower/etc", "lower/usr/bin", "lower/dir"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        for name in ["etc/passwd", "usr/bin/tool", "dir/a", "dir/b"] {
            fs::write(path("lower").join(name), "image").unwrap();
        }
        let root = Rootfs { lower: vec![path("lower")], upper: path("upper"), work: path("work") };
        Trees { _dir: dir, root }
    }

    fn copy_up(root: &Rootfs, name: &str) {
        fs::create_dir_all(root.upper.join(name)).unwrap();
        let before = fs::metadata(root.lower[0].join(name)).unwrap();
        fs::set_permissions(root.upper.join(name), before.permissions()).unwrap();
    }

    fn listed(root: &Rootfs) -> Vec<String> {
        let letter = |kind| match kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        let line = |change: Change| format!("{} {}", letter(change.kind), change.path);
        changes(root).unwrap().into_iter().map(line).collect()
    }

    fn whiteout(path: &Path) {
        let mode = Mode::empty();
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, 0).unwrap();
    }

    #[test]
    fn changes_are_told_with_the_directories_they_are_in_as_root() {
        let Trees { root, .. } = &trees();
        assert!(listed(root).is_empty());
        copy_up(root, "etc");
        copy_up(root, "usr");
        copy_up(root, "usr/bin");
        fs::write(root.upper.join("etc/passwd"), "changed").unwrap();
        fs::write(root.upper.join("etc/new"), "").unwrap();
        whiteout(&root.upper.join("usr/bin/tool"));
        assert_eq!(
            listed(root),
            ["C /etc", "A /etc/new", "C /etc/passwd", "C /usr", "C /usr/bin", "D /usr/bin/tool"]
        );
    }

    #[test]
    fn what_is_there_to_mount_on_is_no_change_as_root() {
        let Trees { root, .. } = &trees();
        copy_up(root, "etc");
        for name in ["etc/hosts", "etc/hostname"] {
            fs::write(root.upper.join(name), "").unwrap();
        }
        for name in ["proc", "dev", "dev/shm"] {
            fs::create_dir(root.upper.join(name)).unwrap();
        }
        assert!(listed(root).is_empty(), "{:?}", listed(root));
        fs::create_dir(root.upper.join("dev/own")).unwrap();
        fs::write(root.upper.join("etc/hosts"), "own").unwrap();
        assert_eq!(listed(root), ["A /dev", "A /dev/own", "C /etc", "A /etc/hosts"]);
    }

    #[test]
    fn a_directory_made_anew_hides_what_was_in_it_as_root() {
        let Trees { root, .. } = &trees();
        fs::create_dir(root.upper.join("dir")).unwrap();
        fs::write(root.upper.join("dir/a"), "again").unwrap();
        let opaque = "trusted.overlay.opaque";
        rustix::fs::setxattr(root.upper.join("dir"), opaque, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        assert_eq!(listed(root), ["C /dir", "C /dir/a", "D /dir/b"]);
    }

    #[test]
    fn a_link_is_compared_and_not_followed_as_root() {
        let Trees { root, .. } = &trees();
        symlink("/etc", root.upper.join("usr")).unwrap();
        symlink("/", root.lower[0].join("loop")).unwrap();
        fs::create_dir(root.upper.join("loop")).unwrap();
        fs::set_permissions(root.upper.join("loop"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(root.upper.join("loop/etc"), "").unwrap();
        assert_eq!(listed(root), ["C /loop", "A /loop/etc", "C /usr"]);
    }

    #[test]
    fn a_file_with_two_names_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("one"), vec![0; 1000]).unwrap();
        fs::hard_link(dir.path().join("one"), dir.path().join("sub/two")).unwrap();
        fs::write(dir.path().join("sub/three"), vec![0; 10]).unwrap();
        assert_eq!(size_of(dir.path()), 1010);
    }
}
