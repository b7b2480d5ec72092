//! A directory tree that paths from outside cannot leave.
//!
//! Every step is relative to a descriptor and follows no symlink by itself: a path without symlinks is
//! opened in one `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`; one with symlinks is walked component by
//! component, a symlink's target being taken relative to the tree's root, as a chroot would. No string is ever
//! compared with a root's path.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The longest path the kernel takes.
pub(crate) const MAX_PATH: usize = 4095;
/// Symlinks followed in one path, as in the kernel.
const MAX_LINKS: usize = 40;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A tree.
pub(crate) struct Tree {
    root: OwnedFd,
    resolve: ResolveFlags,
}

/// An open directory of a tree.
#[derive(Clone)]
pub(crate) struct Directory {
    pub(crate) fd: Rc<OwnedFd>,
    /// Its path below the root, without symlinks; empty for the root.
    pub(crate) path: Vec<u8>,
}

impl Directory {
    /// Returns the path of a name in this directory.
    pub(crate) fn join(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path, name].join(&b'/') }
    }
}

impl Directory {
    /// Opens a regular file in this directory for reading; its name is not followed.
    pub(crate) fn open_file(&self, name: &[u8]) -> rustix::io::Result<(File, rustix::fs::Stat)> {
        // Opening a FIFO without O_NONBLOCK would wait for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        Ok((File::from(fd), stat))
    }
}

/// What a walk does about a component that is missing or no directory.
pub(crate) enum Missing<'a> {
    /// It fails.
    Fail,
    /// It calls this, which makes a directory of that name.
    Create(&'a mut dyn FnMut(&Directory, &[u8]) -> rustix::io::Result<()>),
}

impl Tree {
    /// Opens the tree at a path of our own.
    pub(crate) fn open(path: &Path) -> rustix::io::Result<Self> {
        let root = rustix::fs::openat(CWD, path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        Ok(Self { root, resolve })
    }

    /// Takes a root with other file systems mounted in it, which belong to the tree.
    pub(crate) fn mounted(root: OwnedFd) -> Self {
        Self { root, resolve: ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS }
    }

    /// Returns the root directory.
    pub(crate) fn root(&self) -> rustix::io::Result<Directory> {
        // Opened anew: the root itself may be open as a place only, and has one position for all who list it.
        self.open_directory(b"")
    }

    /// Opens a directory by a path that must have no symlinks.
    pub(crate) fn open_directory(&self, path: &[u8]) -> rustix::io::Result<Directory> {
        let fd = self.open_exact(path, DIRECTORY)?;
        Ok(Directory { fd: Rc::new(fd), path: path.to_vec() })
    }

    /// Opens a regular file for reading by a path that must have no symlinks.
    pub(crate) fn open_file(&self, path: &[u8]) -> rustix::io::Result<File> {
        // Opening a FIFO without O_NONBLOCK would wait for ever.
        let fd = self.open_exact(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC)?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        Ok(File::from(fd))
    }

    fn open_exact(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { &b"."[..] } else { path };
        loop {
            let flags = flags | OFlags::NOFOLLOW;
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), self.resolve) {
                // Something was renamed meanwhile; the kernel asks for another try.
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    /// Follows every symlink of a cleaned path, the last one too, as far as it exists; returns a path without symlinks.
    pub(crate) fn follow(&self, path: &[u8]) -> rustix::io::Result<Vec<u8>> {
        let mut walk = self.walk(path)?;
        match walk.go_on(self)? {
            Stop::End => Ok(walk.at.path),
            Stop::At(name, _) => {
                let rest: Vec<_> = std::iter::once(walk.at.join(&name)).chain(walk.queue).collect();
                Ok(clean(&rest.join(&b'/')))
            }
        }
    }

    /// Opens a directory by a cleaned path whose symlinks are followed inside the tree.
    pub(crate) fn resolve(&self, path: &[u8], mut missing: Missing<'_>) -> rustix::io::Result<Directory> {
        if path.len() > MAX_PATH {
            return Err(Errno::NAMETOOLONG);
        }
        if let Ok(directory) = self.open_directory(path) {
            return Ok(directory);
        }
        let mut walk = self.walk(path)?;
        loop {
            match walk.go_on(self)? {
                Stop::End => return Ok(walk.at),
                Stop::At(name, Errno::NOENT) if shorten(&name, &mut walk.queue) => {}
                Stop::At(name, error) => match &mut missing {
                    Missing::Fail => return Err(error),
                    Missing::Create(create) => {
                        create(&walk.at, &name)?;
                        match step(&walk.at, &name)? {
                            Step::Directory(directory) => walk.at = directory,
                            _ => return Err(Errno::NOTDIR),
                        }
                    }
                },
            }
        }
    }

    fn walk(&self, path: &[u8]) -> rustix::io::Result<Walk> {
        let queue = components(path).map(<[u8]>::to_vec).collect();
        Ok(Walk { at: self.root()?, queue, links: 0 })
    }
}

/// A path on its way, component by component.
struct Walk {
    at: Directory,
    queue: VecDeque<Vec<u8>>,
    /// Symlinks followed so far.
    links: usize,
}

/// Where a walk stops.
enum Stop {
    /// In the directory that the path stands for.
    End,
    /// Before a name, taken from the queue, that is missing or neither a directory nor a symlink.
    At(Vec<u8>, Errno),
}

impl Walk {
    fn go_on(&mut self, tree: &Tree) -> rustix::io::Result<Stop> {
        while let Some(name) = self.queue.pop_front() {
            if name == b".." {
                self.at = tree.open_directory(parent(&self.at.path))?;
                continue;
            }
            match step(&self.at, &name)? {
                Step::Directory(directory) => self.at = directory,
                Step::Link(target) => {
                    self.links += 1;
                    if self.links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    if target.starts_with(b"/") {
                        self.at = tree.root()?;
                    }
                    components(&target).rev().for_each(|name| self.queue.push_front(name.to_vec()));
                }
                Step::Other(error) => return Ok(Stop::At(name, error)),
            }
        }
        Ok(Stop::End)
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Takes `missing/..` out of a path that is about to lead through a missing directory; tells whether there was one.
///
/// To the kernel such a path is broken; docker and containerd clean symlinks' targets lexically.
fn shorten(missing: &[u8], queue: &mut VecDeque<Vec<u8>>) -> bool {
    let mut kept: VecDeque<Vec<u8>> = VecDeque::from([missing.to_vec()]);
    for component in queue.iter() {
        match kept.back() {
            Some(last) if component == b".." && last != b".." => drop(kept.pop_back()),
            _ => kept.push_back(component.clone()),
        }
    }
    let shorter = kept.len() <= queue.len();
    if shorter {
        *queue = kept;
    }
    shorter
}

enum Step {
    Directory(Directory),
    Link(Vec<u8>),
    /// Missing, or neither of both.
    Other(Errno),
}

fn step(at: &Directory, name: &[u8]) -> rustix::io::Result<Step> {
    let path = at.join(name);
    if path.len() > MAX_PATH {
        return Err(Errno::NAMETOOLONG);
    }
    match rustix::fs::openat(&at.fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => return Ok(Step::Directory(Directory { fd: Rc::new(fd), path })),
        Err(Errno::NOENT) => return Ok(Step::Other(Errno::NOENT)),
        Err(Errno::NOTDIR | Errno::LOOP) => {}
        Err(error) => return Err(error),
    }
    match rustix::fs::readlinkat(&at.fd, name, Vec::new()) {
        Ok(target) => Ok(Step::Link(target.into_bytes())),
        Err(Errno::INVAL) => Ok(Step::Other(Errno::NOTDIR)),
        Err(error) => Err(error),
    }
}

/// Splits a path at its slashes; empty components and `.` are left out.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

/// Returns the path without its last component.
pub(crate) fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => &path[..slash],
        None => b"",
    }
}

/// Splits a cleaned path into its directory and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Cleans a path lexically as if it began at the root: no empty components, no `.`, no `..`.
///
/// So do docker and containerd with entry names before they look at the disk.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for component in components(path) {
        if component == b".." {
            kept.pop();
        } else {
            kept.push(component);
        }
    }
    kept.join(&b'/')
}

/// Why a tree was not removed.
#[derive(Debug)]
pub(crate) enum Interrupted {
    /// It was no longer wanted.
    Stopped,
    /// The kernel refused.
    Failed(Errno),
}

impl From<Errno> for Interrupted {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

/// Removes a directory with everything below; a missing one is no error.
///
/// No descriptor is kept per level, so any depth will do, and no symlink is followed.
pub(crate) fn remove_tree(path: &Path) -> rustix::io::Result<()> {
    match remove_tree_while(path, &|| true) {
        Err(Interrupted::Failed(errno)) => Err(errno),
        Ok(()) | Err(Interrupted::Stopped) => Ok(()),
    }
}

/// As [`remove_tree`], but asks before each file whether to go on.
pub(crate) fn remove_tree_while(path: &Path, wanted: &dyn Fn() -> bool) -> Result<(), Interrupted> {
    match rustix::fs::unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let mut at = rustix::fs::openat(CWD, path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    let mut levels = vec![(Vec::new(), unlink_files(&at, wanted)?)];
    while let Some((name, children)) = levels.last_mut() {
        if let Some(child) = children.pop() {
            at = rustix::fs::openat(&at, &child[..], DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
            levels.push((child, unlink_files(&at, wanted)?));
            continue;
        }
        let name = std::mem::take(name);
        levels.pop();
        if !levels.is_empty() {
            at = rustix::fs::openat(&at, "..", DIRECTORY, Mode::empty())?;
            rustix::fs::unlinkat(&at, &name[..], AtFlags::REMOVEDIR)?;
        }
    }
    Ok(rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Removes what is no directory; returns the directories.
fn unlink_files(at: &OwnedFd, wanted: &dyn Fn() -> bool) -> Result<Vec<Vec<u8>>, Interrupted> {
    let mut directories = Vec::new();
    for (name, kind) in names(at)? {
        if !wanted() {
            return Err(Interrupted::Stopped);
        }
        if kind == FileType::Directory {
            directories.push(name);
            continue;
        }
        match rustix::fs::unlinkat(at, &name[..], AtFlags::empty()) {
            Ok(()) => {}
            // A file system that does not tell types.
            Err(Errno::ISDIR) => directories.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(directories)
}

/// Lists a directory with the types that it tells.
pub(crate) fn names(fd: impl AsFd) -> rustix::io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn cleaning_never_leaves_a_parent_component() {
        for (given, wanted) in [
            ("", ""),
            ("..", ""),
            ("/../../a/./b//c/", "a/b/c"),
            ("dne/../.wh.etc", ".wh.etc"),
            ("localetc/sub/..", "localetc"),
            ("..gitme", "..gitme"),
        ] {
            assert_eq!(clean(given.as_bytes()), wanted.as_bytes(), "{given}");
        }
    }

    #[test]
    fn symlinks_resolve_inside_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc/sub")).unwrap();
        for (target, name) in [
            ("/etc", "absolute"),
            ("../../../../etc", "above"),
            ("absolute/sub/../..", "winding"),
            ("loop", "loop"),
        ] {
            symlink(target, dir.path().join(name)).unwrap();
        }
        let tree = Tree::open(dir.path()).unwrap();
        let real = |path: &str| tree.resolve(path.as_bytes(), Missing::Fail).map(|found| found.path);
        assert_eq!(real("absolute/sub").unwrap(), b"etc/sub");
        assert_eq!(real("above").unwrap(), b"etc");
        assert_eq!(real("winding").unwrap(), b"");
        assert_eq!(real("loop").unwrap_err(), Errno::LOOP);
        assert_eq!(real("absent").unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn a_tree_deeper_than_the_descriptor_limit_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir(&top).unwrap();
        symlink("/etc", top.join("link")).unwrap();
        let mut at = rustix::fs::openat(CWD, &top, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..1500 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        assert!(Path::new("/etc").exists());
    }
}
