//! Unpacks a layer's tar to a tree as overlayfs wants it, and writes its recipe.
//!
//! ## Theory of operation
//! ```text
//! caller's thread: read ─▶ decompress ─▶ hash ─▶ chunks ─▶ own thread: parse ─▶ write files, recipe
//! ```
//! A layer is unpacked alone, never over its parents, since it is shared by all images that have it. So
//! whiteouts become what overlayfs reads (a character device 0/0; `trusted.overlay.opaque`), and a
//! directory that the tar only implies is 0755 of root, as in docker. A whiteout speaks of the layers
//! below only (OCI image-spec v1.1, `layer.md`): what this layer itself brings stays, and where both are
//! there the directory is made opaque.

pub(crate) mod make;
pub(crate) mod metadata;
mod replace;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};

use cirro_sys::fail_point::fail_point;
use cirro_types::Digest;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::confine::{self, Directory, MAX_PATH, Missing, Tree};
use crate::error::{Context, ImageError, invalid, reading, shown};
use crate::hash::Hasher;
use crate::limits::Limits;
use crate::ratio::Ratio;
use crate::recipe::RecipeWriter;
use crate::tarball::{Chunks, Kind, Member, Sink, TarStream, Time, fill, sparse};
use crate::xattr;
use cirro_compression::Gauge;

pub(crate) use replace::is_whiteout;

/// Prefix of a whiteout's name.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The whiteout of everything in a directory.
pub(crate) const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
/// What aufs kept for itself.
const AUFS: &[u8] = b".wh..wh.";
const MAX_NAME: usize = 255;
/// Bytes of directory paths that are kept until the end for their times.
const MAX_PENDING: usize = 256 << 20;
const CHUNKS_IN_FLIGHT: usize = 4;

/// What a tar became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) diff_id: Digest,
    /// Bytes of its files.
    pub(crate) size: u64,
    /// Bytes of its tar.
    pub(crate) tar_size: u64,
    /// Whether it hides everything below it.
    pub(crate) opaque_root: bool,
}

/// Unpacks a plain tar below the empty directory `layer`: `diff`, `recipe`, maybe `displaced`.
///
/// On error the caller removes the directory.
pub(crate) fn unpack(
    tar: &mut dyn Read,
    gauge: &Gauge,
    limits: &Limits,
    layer: &Path,
) -> Result<Unpacked, ImageError> {
    std::thread::scope(|scope| {
        let (chunks, incoming) = sync_channel(CHUNKS_IN_FLIGHT);
        let (spent, returned) = channel();
        let worker = scope.spawn(move || {
            let stream = TarStream::new(ChannelChunks { incoming, spent });
            Unpacker::new(gauge, limits, layer)?.run(stream)
        });
        let mut hasher = Hasher::new();
        let mut tar_size = 0;
        let read = loop {
            let mut chunk: Vec<u8> = returned.try_recv().unwrap_or_default();
            match fill(tar, &mut chunk) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(reading("layer", error)),
            }
            hasher.update(&chunk);
            tar_size += chunk.len() as u64;
            if chunks.send(chunk).is_err() {
                break Ok(()); // The worker failed and says why.
            }
        };
        drop(chunks);
        let written = worker.join().expect("the unpacking thread does not panic");
        read?;
        let (size, opaque_root) = written?;
        Ok(Unpacked { diff_id: hasher.finish(), size, tar_size, opaque_root })
    })
}

struct ChannelChunks {
    incoming: Receiver<Vec<u8>>,
    spent: Sender<Vec<u8>>,
}

impl Chunks for ChannelChunks {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        match self.incoming.recv() {
            Ok(next) => {
                // The reader may be done and gone.
                let _ = self.spent.send(std::mem::replace(chunk, next));
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }
}

/// What stood where an entry goes, and was removed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removed {
    Nothing,
    Whiteout,
    Other,
}

struct Unpacker<'a> {
    limits: &'a Limits,
    layer: OwnedFd,
    tree: Rc<Tree>,
    recipe: RecipeWriter,
    /// The last entry's directory: entries of one directory come together.
    parent: Option<(Vec<u8>, Directory)>,
    /// Which note of the recipe an inode's contents belong to.
    contents: HashMap<u64, u64>,
    displaced: Option<OwnedFd>,
    /// Directories' times are set at the end, when nothing changes them any more.
    times: Vec<(Vec<u8>, Time)>,
    pending: usize,
    ratio: Ratio,
    /// Bytes that files have and nobody wrote.
    holes: u64,
    entries: u64,
    opaque_root: bool,
}

impl<'a> Unpacker<'a> {
    fn new(gauge: &Gauge, limits: &'a Limits, path: &Path) -> Result<Self, ImageError> {
        let at = || format!("prepare `{}`", path.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let layer = rustix::fs::openat(CWD, path, flags, Mode::empty()).context(at)?;
        rustix::fs::mkdirat(&layer, "diff", Mode::from_raw_mode(0o755)).context(at)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let recipe = rustix::fs::openat(&layer, "recipe", flags, Mode::from_raw_mode(0o600)).context(at)?;
        let tree = Tree::open(&path.join("diff")).context(at)?;
        rustix::fs::fchmod(&tree, Mode::from_raw_mode(0o755)).context(at)?;
        Ok(Self {
            limits,
            layer,
            tree: Rc::new(tree),
            recipe: RecipeWriter::new(recipe, limits.layer_bytes)?,
            parent: None,
            contents: HashMap::new(),
            displaced: None,
            times: Vec::new(),
            pending: 0,
            ratio: Ratio::new(gauge, limits),
            holes: 0,
            entries: 0,
            opaque_root: false,
        })
    }

    /// Unpacks everything; returns the bytes of the files and whether the root is opaque.
    fn run(mut self, mut stream: TarStream<ChannelChunks>) -> Result<(u64, bool), ImageError> {
        while let Some(member) = stream.next(&mut self.recipe)? {
            fail_point("image.unpack.entry").context(|| "unpack".into())?;
            self.entry(&member, &mut stream)?;
            self.entries += 1;
            if self.entries > self.limits.layer_entries {
                return invalid(format!("layer: more than {} entries", self.limits.layer_entries));
            }
        }
        stream.drain(&mut self.recipe)?;
        fail_point("image.unpack.end").context(|| "unpack".into())?;
        self.set_directory_times()?;
        self.recipe.finish()?;
        Ok((self.ratio.written(), self.opaque_root))
    }

    fn entry(&mut self, member: &Member, stream: &mut TarStream<ChannelChunks>) -> Result<(), ImageError> {
        let path = confine::clean(&member.name);
        let (directory, name) = confine::split(&path);
        if path.len() > MAX_PATH || name.len() > MAX_NAME {
            return invalid(format!("layer: the name `{}` is too long", shown(&member.name)));
        }
        if name.is_empty() {
            return self.root(member);
        }
        let result = if name.starts_with(WHITEOUT) {
            self.whiteout(directory, name)
        } else {
            let parent = self.parent(directory).map_err(|errno| refused(&member.name, errno))?;
            match member.kind {
                Kind::File => return self.file(member, &parent, name, stream),
                Kind::Directory => self.directory(member, &parent, name, &path),
                Kind::Symlink => self.symlink(member, &parent, name),
                Kind::HardLink => self.hard_link(member, &parent, name),
                Kind::Character | Kind::Block | Kind::Fifo => self.node(member, &parent, name),
            }
        };
        result.map_err(|errno| refused(&member.name, errno))
    }

    /// The root's own entry sets its attributes; an entry of another type must not replace it.
    fn root(&mut self, member: &Member) -> Result<(), ImageError> {
        if member.kind != Kind::Directory {
            return Ok(());
        }
        let refused = |errno| refused(&member.name, errno);
        let root = self.tree.root().map_err(refused)?;
        metadata::set_directory(member, &root).map_err(refused)?;
        self.keep_time(Vec::new(), member.time).map_err(refused)
    }

    fn parent(&mut self, directory: &[u8]) -> rustix::io::Result<Directory> {
        if let Some((path, parent)) = &self.parent
            && path == directory
        {
            return Ok(parent.clone());
        }
        let tree = Rc::clone(&self.tree);
        let mut create = |at: &Directory, name: &[u8]| self.implied_directory(at, name);
        let parent = tree.resolve(directory, Missing::Create(&mut create))?;
        self.parent = Some((directory.to_vec(), parent.clone()));
        Ok(parent)
    }

    fn implied_directory(&mut self, at: &Directory, name: &[u8]) -> rustix::io::Result<()> {
        self.entries += 1;
        if self.entries > self.limits.layer_entries {
            return Err(Errno::DQUOT);
        }
        let made = self.make_directory(at, name)?;
        // A directory below one with the set-group-id bit would inherit its group.
        metadata::set_owner_and_mode(&made, 0, 0, 0o755)
    }

    /// Makes a directory where there may be something else.
    fn make_directory(&mut self, at: &Directory, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        let mode = Mode::from_raw_mode(0o700);
        let mut was = Removed::Nothing;
        if let Err(errno) = rustix::fs::mkdirat(&at.fd, name, mode) {
            if errno != Errno::EXIST {
                return Err(errno);
            }
            let stat = rustix::fs::statat(&at.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                was = self.remove(at, name)?;
                rustix::fs::mkdirat(&at.fd, name, mode)?;
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&at.fd, name, flags, Mode::empty())?;
        if was == Removed::Whiteout {
            // What this layer hid below stays hidden.
            xattr::set(&xattr::path_at(&at.fd, name), xattr::OPAQUE, b"y")?;
        }
        Ok(made)
    }

    fn directory(
        &mut self,
        member: &Member,
        parent: &Directory,
        name: &[u8],
        path: &[u8],
    ) -> rustix::io::Result<()> {
        let made = self.make_directory(parent, name)?;
        let made = Directory { fd: Rc::new(made), path: parent.join(name) };
        metadata::set_directory(member, &made)?;
        self.keep_time(made.path.clone(), member.time)?;
        // Its entries most likely follow.
        self.parent = Some((path.to_vec(), made));
        Ok(())
    }

    fn file(
        &mut self,
        member: &Member,
        parent: &Directory,
        name: &[u8],
        stream: &mut TarStream<ChannelChunks>,
    ) -> Result<(), ImageError> {
        let refused = |errno| refused(&member.name, errno);
        let written = self.ratio.written();
        let total = written.checked_add(self.holes).and_then(|sum| sum.checked_add(member.file_size()));
        if total.is_none_or(|total| total > self.limits.layer_bytes) {
            return invalid(format!("layer: more than {} bytes", self.limits.layer_bytes));
        }
        let file = self.create(parent, name, member.mode).map_err(refused)?;
        let made = rustix::fs::fstat(&file).map_err(refused)?;
        let mut file = std::fs::File::from(file);
        if let Some(map) = &member.sparse {
            self.sparse_file(member, map, &file, stream)?;
            return metadata::set_file(member, &file, &made).map_err(refused);
        }
        if member.size > 0 {
            let note = self.recipe.contents(&parent.join(name), member.size)?;
            self.contents.insert(made.st_ino, note);
        }
        loop {
            let piece = stream.contents()?;
            if piece.is_empty() {
                break;
            }
            file.write_all(piece).context(|| format!("write `{}`", shown(&member.name)))?;
            self.ratio.wrote(piece.len(), "layer")?;
        }
        metadata::set_file(member, &file, &made).map_err(refused)
    }

    /// Writes a file with holes. The tar has it in a form that cannot be made again from the file, so its bytes go into the recipe.
    fn sparse_file(
        &mut self,
        member: &Member,
        map: &sparse::Map,
        file: &std::fs::File,
        stream: &mut TarStream<ChannelChunks>,
    ) -> Result<(), ImageError> {
        let at = || format!("write `{}`", shown(&member.name));
        file.set_len(map.size).context(at)?;
        let mut writer = sparse::Writer::new(map);
        loop {
            let piece = stream.contents()?;
            if piece.is_empty() {
                break;
            }
            self.recipe.raw(piece)?;
            writer.write(file, piece).context(at)?;
            self.ratio.wrote(piece.len(), "layer")?;
        }
        self.holes += map.size - member.size;
        Ok(())
    }

    /// Makes a file where there may be something else.
    fn create(&mut self, parent: &Directory, name: &[u8], mode: u32) -> rustix::io::Result<OwnedFd> {
        match make::file(parent, name, mode) {
            Err(Errno::EXIST) => {
                self.remove(parent, name)?;
                make::file(parent, name, mode)
            }
            other => other,
        }
    }

    fn symlink(&mut self, member: &Member, parent: &Directory, name: &[u8]) -> rustix::io::Result<()> {
        self.remove(parent, name)?;
        rustix::fs::symlinkat(&member.link[..], &parent.fd, name)?;
        metadata::set_symlink(member, parent, name)
    }

    /// The target's directory is looked up inside the tree, its last component is not followed.
    fn hard_link(&mut self, member: &Member, parent: &Directory, name: &[u8]) -> rustix::io::Result<()> {
        let target = confine::clean(&member.link);
        let (directory, target_name) = confine::split(&target);
        let target = self.tree.resolve(directory, Missing::Fail)?;
        let stat = rustix::fs::statat(&target.fd, target_name, AtFlags::SYMLINK_NOFOLLOW)?;
        if is_whiteout(&stat) {
            return Err(Errno::NOENT);
        }
        if target.path == parent.path && target_name == name {
            return Ok(());
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Errno::PERM);
        }
        self.remove(parent, name)?;
        rustix::fs::linkat(&target.fd, target_name, &parent.fd, name, AtFlags::empty())
    }

    fn node(&mut self, member: &Member, parent: &Directory, name: &[u8]) -> rustix::io::Result<()> {
        make::check_device(member)?;
        self.remove(parent, name)?;
        make::node(member, parent, name)
    }

    fn whiteout(&mut self, directory: &[u8], name: &[u8]) -> rustix::io::Result<()> {
        if name == OPAQUE_WHITEOUT {
            let parent = self.parent(directory)?;
            // Overlayfs does not look at the root's mark: who lists the layers stops at this one.
            self.opaque_root |= parent.path.is_empty();
            return xattr::set(&xattr::path_at(&parent.fd, b"."), xattr::OPAQUE, b"y");
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Errno::INVAL);
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        let parent = self.parent(directory)?;
        match rustix::fs::statat(&parent.fd, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                let mode = Mode::from_raw_mode(0);
                rustix::fs::mknodat(&parent.fd, hidden, FileType::CharacterDevice, mode, 0)
            }
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                xattr::set(&xattr::path_at(&parent.fd, hidden), xattr::OPAQUE, b"y")
            }
            other => other.map(drop),
        }
    }

    fn keep_time(&mut self, path: Vec<u8>, time: Time) -> rustix::io::Result<()> {
        self.pending += path.len() + size_of::<(Vec<u8>, Time)>();
        if self.pending > MAX_PENDING {
            return Err(Errno::DQUOT);
        }
        self.times.push((path, time));
        Ok(())
    }

    fn set_directory_times(&mut self) -> Result<(), ImageError> {
        for (path, time) in std::mem::take(&mut self.times) {
            match self.tree.open_directory(&path) {
                Ok(directory) => metadata::set_time(&directory.fd, time)
                    .context(|| format!("set the time of `{}`", shown(&path)))?,
                // A later entry replaced it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(refused(&path, errno)),
            }
        }
        Ok(())
    }
}

/// Tells an entry that cannot be from a disk that fails.
fn refused(name: &[u8], errno: Errno) -> ImageError {
    let why = match errno {
        Errno::DQUOT => "the layer has too many entries".into(),
        Errno::INVAL
        | Errno::NAMETOOLONG
        | Errno::LOOP
        | Errno::NOTDIR
        | Errno::ISDIR
        | Errno::NOENT
        | Errno::EXIST
        | Errno::PERM
        | Errno::TOOBIG
        | Errno::RANGE
        | Errno::XDEV
        | Errno::MLINK => io::Error::from(errno).to_string(),
        _ => {
            let context = format!("unpack `{}`", shown(name));
            return ImageError::Io { context, source: errno.into() };
        }
    };
    ImageError::Invalid(format!("layer: entry `{}`: {why}", shown(name)))
}
