//! Looks into a container's root before it is mounted: an overlay resolved in user space.
//!
//! A container's root is mounted only in its own mount namespace, and what the engine wants of it beforehand is little: `/etc/passwd`,
//! whether the working directory is there, what an image has where a new volume goes. So the layers are
//! walked by hand: one directory descriptor per layer and level, every step by one name and without following links,
//! which also keeps a hostile image from pointing outside. Whiteouts and opaque directories are understood.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

const MAX_LINKS: usize = 40;
const OPAQUE: &str = "trusted.overlay.opaque";

/// The layers of a root.
pub(crate) struct Layers {
    /// The top one first.
    roots: Vec<OwnedFd>,
}

/// What a path stands for.
pub(crate) enum Found {
    /// A directory: its parts in the layers that have it, the top one first.
    Directory(Vec<OwnedFd>),
    /// Something else: the directory it is in, in its layer, and its name.
    Other(OwnedFd, OsString),
}

impl Layers {
    /// Opens layers, the top one first.
    pub(crate) fn open<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> io::Result<Self> {
        let roots = dirs.into_iter().map(|dir| open_dir(CWD, dir.as_os_str())).collect::<io::Result<_>>()?;
        Ok(Self { roots })
    }

    /// Follows an absolute path, links included, never out of the root.
    pub(crate) fn find(&self, path: &str) -> io::Result<Option<Found>> {
        let mut walk = Walk::along(self, path)?;
        Ok(match walk.go_on()? {
            Stop::End => walk.stack.pop().map(Found::Directory),
            Stop::At(dir, name) => walk.todo.is_empty().then_some(Found::Other(dir, name)),
            Stop::Missing(_) => None,
        })
    }

    /// Finds a directory by a path below the root whose links are not followed.
    pub(crate) fn find_exact(&self, path: &Path) -> io::Result<Option<Found>> {
        let mut walk = Walk::new(self, components(path))?;
        while let Some(name) = walk.todo.pop() {
            match walk.look(&name)? {
                Some(Entry::Directory(parts)) => walk.stack.push(parts),
                _ => return Ok(None),
            }
        }
        Ok(walk.stack.pop().map(Found::Directory))
    }

    /// Follows an absolute path as far as it exists; returns the names it comes to, without links.
    pub(crate) fn resolve(&self, path: &str) -> io::Result<Vec<OsString>> {
        let mut walk = Walk::along(self, path)?;
        let (Stop::At(_, name) | Stop::Missing(name)) = walk.go_on()? else { return Ok(walk.names) };
        walk.names.push(name);
        walk.names.extend(walk.todo.into_iter().rev().filter(|name| name != ".."));
        Ok(walk.names)
    }

    /// Reads a regular file, at most `limit` bytes; nothing when there is none.
    pub(crate) fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(Found::Other(dir, name)) = self.find(path)? else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(dir, &name, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Makes a directory and its parents in the top layer, as overlayfs would; the root must not be mounted.
    pub(crate) fn ensure_dir(&self, path: &str) -> io::Result<()> {
        let mut walk = Walk::along(self, path)?;
        loop {
            match walk.go_on()? {
                Stop::End => return Ok(()),
                Stop::At(..) => return Err(Errno::NOTDIR.into()),
                Stop::Missing(name) => {
                    let parent = self.copy_up(&walk)?;
                    walk.down(name.clone(), vec![make_dir(&parent, &name)?]);
                }
            }
        }
    }

    /// Opens the top layer's part of the directory that the walk is at, making what is missing of it.
    fn copy_up(&self, at: &Walk) -> io::Result<OwnedFd> {
        let mut dir = self.roots[0].try_clone()?;
        for (name, parts) in at.names.iter().zip(&at.stack[1..]) {
            dir = match open_dir(&dir, name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let stat = rustix::fs::fstat(&parts[0])?;
                    let made = make_dir(&dir, name)?;
                    rustix::fs::fchown(&made, Some(uid(&stat)), Some(gid(&stat)))?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
                    made
                }
                opened => opened?,
            };
        }
        Ok(dir)
    }
}

/// A path on its way: the directories from the root down, each with its parts, and what is left of it.
struct Walk {
    stack: Vec<Vec<OwnedFd>>,
    /// Names of all but the root.
    names: Vec<OsString>,
    /// The next one last.
    todo: Vec<OsString>,
    /// Links followed so far.
    links: usize,
}

/// Where a walk stops.
enum Stop {
    /// In the directory that the path stands for.
    End,
    /// Before something else than a directory: the directory it is in, in its layer, and its name.
    At(OwnedFd, OsString),
    /// Before a name that is nowhere.
    Missing(OsString),
}

enum Entry {
    Directory(Vec<OwnedFd>),
    Link(std::path::PathBuf),
    Other(OwnedFd, OsString),
}

impl Walk {
    fn new(layers: &Layers, todo: Vec<OsString>) -> io::Result<Self> {
        let root = layers.roots.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok(Self { stack: vec![root], names: Vec::new(), todo, links: 0 })
    }

    fn along(layers: &Layers, path: &str) -> io::Result<Self> {
        Self::new(layers, components(Path::new(path)))
    }

    /// Goes on, links included and never out of the root.
    fn go_on(&mut self) -> io::Result<Stop> {
        while let Some(name) = self.todo.pop() {
            if name == ".." {
                self.up();
                continue;
            }
            match self.look(&name)? {
                None => return Ok(Stop::Missing(name)),
                Some(Entry::Directory(parts)) => self.down(name, parts),
                Some(Entry::Link(target)) => self.follow(&target)?,
                Some(Entry::Other(dir, name)) => return Ok(Stop::At(dir, name)),
            }
        }
        Ok(Stop::End)
    }

    fn down(&mut self, name: OsString, parts: Vec<OwnedFd>) {
        self.stack.push(parts);
        self.names.push(name);
    }

    fn up(&mut self) {
        if self.stack.len() > 1 {
            self.stack.pop();
            self.names.pop();
        }
    }

    /// Goes to where a link's target begins, which is to be gone along next.
    fn follow(&mut self, target: &Path) -> io::Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        if target.is_absolute() {
            self.stack.truncate(1);
            self.names.clear();
        }
        self.todo.extend(components(target));
        Ok(())
    }

    fn look(&self, name: &OsStr) -> io::Result<Option<Entry>> {
        look(self.stack.last().expect("the root is never left"), name)
    }
}

/// Finds one name in a merged directory.
fn look(parts: &[OwnedFd], name: &OsStr) -> io::Result<Option<Entry>> {
    let mut found = Vec::new();
    for part in parts {
        let stat = match rustix::fs::statat(part, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        if is_whiteout(&stat) {
            break;
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let dir = open_dir(part, name)?;
                let opaque = is_opaque(&dir);
                found.push(dir);
                if opaque {
                    break;
                }
            }
            _ if !found.is_empty() => break,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(part, name, Vec::new())?.into_bytes();
                return Ok(Some(Entry::Link(OsString::from_vec(target).into())));
            }
            _ => return Ok(Some(Entry::Other(part.try_clone()?, name.to_owned()))),
        }
    }
    Ok((!found.is_empty()).then_some(Entry::Directory(found)))
}

/// Returns the names of a merged directory, whiteouts applied.
pub(crate) fn list(parts: &[OwnedFd]) -> io::Result<Vec<OsString>> {
    let mut names = std::collections::BTreeSet::new();
    for part in parts {
        for entry in rustix::fs::Dir::read_from(part)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.insert(name);
            }
        }
    }
    let mut present = Vec::new();
    for name in names {
        if look(parts, &name)?.is_some() {
            present.push(name);
        }
    }
    Ok(present)
}

/// Finds one name in a merged directory without following it: a directory's parts, or where anything else is.
pub(crate) fn child(parts: &[OwnedFd], name: &OsStr) -> io::Result<Option<Found>> {
    Ok(match look(parts, name)? {
        None => None,
        Some(Entry::Directory(parts)) => Some(Found::Directory(parts)),
        Some(Entry::Other(dir, name)) => Some(Found::Other(dir, name)),
        Some(Entry::Link(_)) => {
            let holds = |part: &&OwnedFd| rustix::fs::statat(part, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            let dir = parts.iter().find(holds).ok_or(Errno::NOENT)?;
            Some(Found::Other(dir.try_clone()?, name.to_owned()))
        }
    })
}

/// Splits a path into names, the last one first.
fn components(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}

fn open_dir<Fd: AsFd>(at: Fd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// Makes a directory in the top layer; where a whiteout was, it hides what is below.
fn make_dir(at: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let hidden = match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if is_whiteout(&stat) => {
            rustix::fs::unlinkat(at, name, AtFlags::empty())?;
            true
        }
        _ => false,
    };
    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755))?;
    let dir = open_dir(at, name)?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?;
    if hidden {
        rustix::fs::fsetxattr(&dir, OPAQUE, b"y", rustix::fs::XattrFlags::empty())?;
    }
    Ok(dir)
}

/// Opens the directory that the last of these names is in, in one layer alone; nothing when it is not there.
pub(crate) fn parent_in_layer(layer: &Path, names: &[OsString]) -> io::Result<Option<OwnedFd>> {
    let mut dir = open_dir(CWD, layer.as_os_str())?;
    for name in names.iter().take(names.len().saturating_sub(1)) {
        dir = match open_dir(&dir, name) {
            Ok(dir) => dir,
            Err(_) => return Ok(None),
        };
    }
    Ok(Some(dir))
}

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0u8; 1];
    matches!(rustix::fs::fgetxattr(dir, OPAQUE, &mut value), Ok(1)) && value == *b"y"
}

pub(crate) fn uid(stat: &Stat) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(stat.st_uid)
}

pub(crate) fn gid(stat: &Stat) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(stat.st_gid)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn layers(names: &[&str]) -> (tempfile::TempDir, Layers) {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = names.iter().map(|name| dir.path().join(name)).collect();
        for path in &paths {
            fs::create_dir_all(path.join("etc")).unwrap();
        }
        let layers = Layers::open(paths.iter().map(|path| path.as_path())).unwrap();
        (dir, layers)
    }

    fn whiteout(path: &Path) {
        let none = rustix::fs::makedev(0, 0);
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), none).unwrap();
    }

    #[test]
    fn the_topmost_file_wins_and_a_whiteout_hides_as_root() {
        let (dir, layers) = layers(&["top", "base"]);
        fs::write(dir.path().join("base/etc/passwd"), "base").unwrap();
        assert_eq!(layers.read("/etc/passwd", 100).unwrap().unwrap(), b"base");
        fs::write(dir.path().join("top/etc/passwd"), "top").unwrap();
        assert_eq!(layers.read("/etc/../etc/passwd", 2).unwrap().unwrap(), b"to");
        fs::remove_file(dir.path().join("top/etc/passwd")).unwrap();
        whiteout(&dir.path().join("top/etc/passwd"));
        assert_eq!(layers.read("/etc/passwd", 100).unwrap(), None);
    }

    #[test]
    fn links_cross_layers_and_stay_inside() {
        let (dir, layers) = layers(&["top", "base"]);
        fs::write(dir.path().join("base/etc/real"), "inside").unwrap();
        symlink("/../../etc/real", dir.path().join("top/etc/passwd")).unwrap();
        assert_eq!(layers.read("/etc/passwd", 100).unwrap().unwrap(), b"inside");
        symlink("loop", dir.path().join("top/etc/loop")).unwrap();
        assert!(layers.read("/etc/loop", 100).is_err());
    }

    #[test]
    fn a_path_resolves_to_names_without_links() {
        let (dir, layers) = layers(&["top", "base"]);
        symlink("../run/dns/resolv.conf", dir.path().join("base/etc/resolv.conf")).unwrap();
        assert_eq!(layers.resolve("/etc/resolv.conf").unwrap(), ["run", "dns", "resolv.conf"]);
        assert_eq!(layers.resolve("/etc/hosts").unwrap(), ["etc", "hosts"]);
    }

    #[test]
    fn a_missing_directory_is_made_in_the_top_layer_and_parents_keep_their_mode() {
        let (dir, layers) = layers(&["top", "base"]);
        fs::create_dir(dir.path().join("base/srv")).unwrap();
        fs::set_permissions(dir.path().join("base/srv"), fs::Permissions::from_mode(0o700)).unwrap();
        layers.ensure_dir("/srv/app/data").unwrap();
        layers.ensure_dir("/srv/app/data").unwrap();
        assert!(dir.path().join("top/srv/app/data").is_dir());
        assert_eq!(fs::metadata(dir.path().join("top/srv")).unwrap().permissions().mode() & 0o7777, 0o700);
        layers.ensure_dir("/etc").unwrap();
        fs::write(dir.path().join("base/etc/file"), "").unwrap();
        assert!(layers.ensure_dir("/etc/file/x").is_err());
    }

    #[test]
    fn a_directory_over_a_whiteout_hides_what_is_below_as_root() {
        let (dir, layers) = layers(&["top", "base"]);
        fs::create_dir(dir.path().join("base/app")).unwrap();
        fs::write(dir.path().join("base/app/old"), "").unwrap();
        whiteout(&dir.path().join("top/app"));
        layers.ensure_dir("/app").unwrap();
        let Some(Found::Directory(parts)) = layers.find("/app").unwrap() else { panic!("no directory") };
        assert!(list(&parts).unwrap().is_empty());
    }
}
