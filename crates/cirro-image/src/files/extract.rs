//! Unpacks a tar among files that may change meanwhile, by docker's rules for `docker cp`.
//!
//! Names are relative to a directory of the container and must not lead out of it by `..`; links on the way are followed
//! as a process inside would, from the container's root. An entry replaces what has its name, but a directory stays
//! where the entry is one too.
//!
//! Source: moby `pkg/archive/archive.go` (`Unpack`, `createTarFile`).

use std::io::{Read, Write};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Asked, Files};
use crate::confine::{self, Directory, MAX_PATH, Missing, names};
use crate::error::{Context, ImageError, shown};
use crate::limits::Limits;
use crate::ratio::Ratio;
use crate::tarball::{Kind, Member, Nowhere, ReaderChunks, TarStream, Time, sparse};
use crate::unpack::{make, metadata};
use cirro_compression::decompress;

const MAX_DEPTH: usize = MAX_PATH / 2;

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extract {
    /// Whether a directory must not become a file, nor a file a directory.
    pub keep_kinds: bool,
    /// Owner of everything, instead of what the archive says.
    pub owner: Option<(u32, u32)>,
}

/// Why an archive was not unpacked. What was unpacked before stays.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive is malformed, or asks for what is not allowed.
    #[error("{0}")]
    Refused(String),
    /// The disk or stream failed.
    #[error(transparent)]
    Failed(#[from] ImageError),
}

impl Files {
    /// Unpacks a tar (plain, gzip, bzip2, xz or zstd) below the directory at `path`, which must be there.
    ///
    /// # Errors
    /// See [`ExtractError`]; entries before the one that failed stay.
    pub fn extract(&self, archive: &mut dyn Read, path: &str, options: Extract) -> Result<(), ExtractError> {
        let at = || format!("open `{path}`");
        let target = self.tree.resolve(&Asked::new(path).context(at)?.path, Missing::Fail).context(at)?;
        let limits = Limits::default();
        let (plain, gauge) = decompress(archive).map_err(|error| crate::error::reading("archive", error))?;
        let mut stream = TarStream::new(ReaderChunks(plain));
        let mut extraction = Extraction {
            files: self,
            target: target.path,
            options,
            ratio: Ratio::new(&gauge, &limits),
            limits: &limits,
            times: Vec::new(),
        };
        let mut entries = 0;
        while let Some(member) = stream.next(&mut Nowhere)? {
            entries += 1;
            if entries > limits.layer_entries {
                return Err(ExtractError::Refused(format!("more than {} entries", limits.layer_entries)));
            }
            extraction.entry(&member, &mut stream)?;
        }
        stream.drain(&mut Nowhere)?;
        extraction.set_times();
        Ok(())
    }
}

struct Extraction<'a> {
    files: &'a Files,
    /// Path of the directory below the root, without links.
    target: Vec<u8>,
    options: Extract,
    ratio: Ratio,
    limits: &'a Limits,
    /// Directories whose time is set when everything is in them.
    times: Vec<(Vec<u8>, Time)>,
}

impl Extraction<'_> {
    fn entry<R: Read>(
        &mut self,
        member: &Member,
        stream: &mut TarStream<ReaderChunks<R>>,
    ) -> Result<(), ExtractError> {
        let failed = |errno: Errno| failed(&member.name, errno);
        let relative = self.below_target(&member.name)?;
        if relative.is_empty() {
            // The directory itself is there and stays as it is.
            return Ok(());
        }
        let (directory, name) = confine::split(&relative);
        let parent = self.parent(directory).map_err(failed)?;
        let member = &self.owned(member);
        if !self.make_room(member, &parent, name)? && member.kind != Kind::Directory {
            return Ok(());
        }
        match member.kind {
            Kind::File => return self.file(member, &parent, name, stream),
            Kind::Directory => self.directory(member, &parent, name),
            Kind::Symlink => rustix::fs::symlinkat(&member.link[..], &parent.fd, name)
                .and_then(|()| metadata::set_symlink(member, &parent, name)),
            Kind::HardLink => return self.hard_link(member, &parent, name),
            Kind::Character | Kind::Block | Kind::Fifo => {
                make::check_device(member).and_then(|()| make::node(member, &parent, name))
            }
        }
        .map_err(failed)
    }

    /// Cleans a name and refuses one that leads out of the directory.
    fn below_target(&self, name: &[u8]) -> Result<Vec<u8>, ExtractError> {
        let mut depth = 0_usize;
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." if depth == 0 && !name.starts_with(b"/") => {
                    let text = format!("\"{}\" is outside of \"/{}\"", shown(name), shown(&self.target));
                    return Err(ExtractError::Refused(text));
                }
                b".." => depth = depth.saturating_sub(1),
                _ => depth += 1,
            }
        }
        let cleaned = confine::clean(name);
        if self.target.len() + cleaned.len() >= MAX_PATH || confine::split(&cleaned).1.len() > 255 {
            return Err(ExtractError::Refused(format!("the name \"{}\" is too long", shown(name))));
        }
        Ok(cleaned)
    }

    fn in_target(&self, relative: &[u8]) -> Vec<u8> {
        match (self.target.is_empty(), relative.is_empty()) {
            (true, _) => relative.to_vec(),
            (_, true) => self.target.clone(),
            _ => [&self.target, relative].join(&b'/'),
        }
    }

    /// Opens the directory that an entry goes to; missing ones are made.
    fn parent(&self, directory: &[u8]) -> rustix::io::Result<Directory> {
        let (uid, gid) = self.options.owner.unwrap_or_default();
        let mut create = |at: &Directory, name: &[u8]| {
            let made = make_directory(at, name)?;
            metadata::set_owner_and_mode(&made.fd, uid, gid, 0o755)
        };
        self.files.tree.resolve(&self.in_target(directory), Missing::Create(&mut create))
    }

    fn owned(&self, member: &Member) -> Member {
        let mut member = member.clone();
        if let Some((uid, gid)) = self.options.owner {
            (member.uid, member.gid) = (uid, gid);
        }
        member
    }

    /// Removes what has the entry's name, unless both are directories; tells whether the name is free now.
    fn make_room(&self, member: &Member, parent: &Directory, name: &[u8]) -> Result<bool, ExtractError> {
        let failed = |errno: Errno| failed(&member.name, errno);
        let stat = match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(true),
            stat => stat.map_err(failed)?,
        };
        let (is, becomes) =
            (FileType::from_raw_mode(stat.st_mode) == FileType::Directory, member.kind == Kind::Directory);
        if self.options.keep_kinds && is != becomes {
            let (is, becomes) =
                if is { ("directory", "non-directory") } else { ("non-directory", "directory") };
            return Err(ExtractError::Refused(format!(
                "cannot overwrite {is} \"/{}\" with {becomes} \"/{}\"",
                shown(&parent.join(name)),
                shown(&self.target)
            )));
        }
        if is && becomes {
            return Ok(false);
        }
        if self.is_itself(member, parent, name, &stat) {
            return Ok(false);
        }
        self.remove(parent, name, is, 0).map_err(failed)?;
        Ok(true)
    }

    /// Whether a hard link would replace its own target.
    fn is_itself(&self, member: &Member, parent: &Directory, name: &[u8], stat: &Stat) -> bool {
        member.kind == Kind::HardLink
            && self.link_target(member).is_ok_and(|(target, target_name)| {
                target.path == parent.path && target_name == name
                    || rustix::fs::statat(&target.fd, &target_name[..], AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|other| (other.st_dev, other.st_ino) == (stat.st_dev, stat.st_ino))
            })
    }

    fn remove(
        &self,
        parent: &Directory,
        name: &[u8],
        directory: bool,
        depth: usize,
    ) -> rustix::io::Result<()> {
        if !directory {
            return rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty());
        }
        if depth > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        let path = parent.join(name);
        for (child, _) in names(&self.files.tree.open_directory(&path)?.fd)? {
            let at = self.files.tree.open_directory(&path)?;
            let stat = rustix::fs::statat(&at.fd, &child[..], AtFlags::SYMLINK_NOFOLLOW)?;
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            self.remove(&at, &child, is_directory, depth + 1)?;
        }
        rustix::fs::unlinkat(&parent.fd, name, AtFlags::REMOVEDIR)
    }

    fn directory(&mut self, member: &Member, parent: &Directory, name: &[u8]) -> rustix::io::Result<()> {
        let directory = match make_directory(parent, name) {
            Err(Errno::EXIST) => open_directory(parent, name)?,
            made => made?,
        };
        metadata::set_directory(member, &directory)?;
        self.times.push((directory.path, member.time));
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        member: &Member,
        parent: &Directory,
        name: &[u8],
        stream: &mut TarStream<ReaderChunks<R>>,
    ) -> Result<(), ExtractError> {
        let failed = |errno: Errno| failed(&member.name, errno);
        let file = make::file(parent, name, member.mode).map_err(failed)?;
        let made = rustix::fs::fstat(&file).map_err(failed)?;
        let mut file = std::fs::File::from(file);
        let at = || format!("write \"{}\"", shown(&member.name));
        let mut holes = member.sparse.as_ref().map(sparse::Writer::new);
        if holes.is_some() {
            if member.file_size() > self.limits.archive_bytes {
                return Err(ImageError::Invalid(format!("\"{}\" is too large", shown(&member.name))).into());
            }
            file.set_len(member.file_size()).context(at)?;
        }
        loop {
            let piece = stream.contents()?;
            if piece.is_empty() {
                break;
            }
            match &mut holes {
                Some(writer) => writer.write(&file, piece).context(at)?,
                None => file.write_all(piece).context(at)?,
            }
            self.ratio.wrote(piece.len(), "archive")?;
        }
        metadata::set_file(member, &file, &made).map_err(failed)
    }

    fn link_target(&self, member: &Member) -> rustix::io::Result<(Directory, Vec<u8>)> {
        let target = confine::clean(&member.link);
        let (directory, name) = confine::split(&target);
        let directory = self.files.tree.resolve(&self.in_target(directory), Missing::Fail)?;
        Ok((directory, name.to_vec()))
    }

    fn hard_link(&self, member: &Member, parent: &Directory, name: &[u8]) -> Result<(), ExtractError> {
        self.below_target(&member.link)?;
        let linked = self.link_target(member).and_then(|(target, target_name)| {
            rustix::fs::linkat(&target.fd, &target_name[..], &parent.fd, name, AtFlags::empty())
        });
        linked.map_err(|errno| failed(&member.name, errno))
    }

    /// Sets directories' times. One that a process inside has moved away meanwhile has none of ours.
    fn set_times(&mut self) {
        for (path, time) in std::mem::take(&mut self.times) {
            if let Ok(directory) = self.files.tree.open_directory(&path) {
                let _ = metadata::set_time(&directory.fd, time);
            }
        }
    }
}

fn make_directory(at: &Directory, name: &[u8]) -> rustix::io::Result<Directory> {
    rustix::fs::mkdirat(&at.fd, name, Mode::RWXU)?;
    open_directory(at, name)
}

fn open_directory(at: &Directory, name: &[u8]) -> rustix::io::Result<Directory> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&at.fd, name, flags, Mode::empty())?;
    Ok(Directory { fd: Rc::new(fd), path: at.join(name) })
}

fn failed(name: &[u8], errno: Errno) -> ExtractError {
    let context = format!("unpack \"{}\"", shown(name));
    ExtractError::Failed(ImageError::Io { context, source: errno.into() })
}
