//! Writes a tar of files that may change meanwhile.
//!
//! What vanishes before it is reached is left out; a file that shrinks is filled up with zeros, one that grows is cut where
//! it ended when its header was written. Sockets are left out, and of the extended attributes only the capabilities are
//! kept, as docker does.

use std::collections::HashMap;
use std::io::{Read, Write};

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::{Asked, Files};
use crate::confine::{Directory, MAX_PATH, Missing, names};
use crate::error::{Context, ImageError, shown};
use crate::tarball::{BLOCK, CHUNK, write};
use crate::xattr;

const CAPABILITIES: &[u8] = b"security.capability";
/// How deep a tree may be; paths are bounded too, so this only bounds the stack.
const MAX_DEPTH: usize = MAX_PATH / 2;

impl Files {
    /// Writes what a path stands for, named as docker does: by its last name, `./` for a path that ends in `/.`.
    pub fn pack(&self, path: &str, out: &mut dyn Write) -> Result<(), ImageError> {
        let at = || format!("look at `{path}`");
        let asked = Asked::new(path).context(at)?;
        let base = asked.base(path);
        let mut packer = Packer::new(self, out);
        // A directory is opened once more by its name: what it is now is what is packed.
        let kind = if asked.directory {
            FileType::Directory
        } else {
            let (parent, name, stat) = self.last(&asked).context(at)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind != FileType::Directory {
                packer.other(&parent, &name, &base, &stat)?;
            }
            kind
        };
        if kind == FileType::Directory {
            let directory = self.tree.resolve(&asked.path, Missing::Fail).context(at)?;
            let prefix = if base == b"/" { Vec::new() } else { base };
            packer.directory(&directory, &prefix, 0)?;
        }
        packer.finish()
    }

    /// Writes everything below the root, with relative names.
    pub fn pack_root(&self, out: &mut dyn Write) -> Result<(), ImageError> {
        let root = self.tree.root().context(|| "open root".into())?;
        let mut packer = Packer::new(self, out);
        packer.children(&root, b"", 0)?;
        packer.finish()
    }
}

struct Packer<'a> {
    files: &'a Files,
    out: &'a mut dyn Write,
    /// The first name of each file that has several, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<'a> Packer<'a> {
    fn new(files: &'a Files, out: &'a mut dyn Write) -> Self {
        Self { files, out, links: HashMap::new(), buffer: vec![0; CHUNK] }
    }

    fn finish(mut self) -> Result<(), ImageError> {
        self.raw(&[0; 2 * BLOCK])?;
        self.out.flush().context(|| "write archive".into())
    }

    fn directory(&mut self, directory: &Directory, name: &[u8], depth: usize) -> Result<(), ImageError> {
        let stat =
            rustix::fs::fstat(&directory.fd).context(|| format!("look at `{}`", shown(&directory.path)))?;
        self.raw(&write::entry(&[name, b"/"].concat(), b"", &stat, &[])?)?;
        self.children(directory, &[name, b"/"].concat(), depth)
    }

    fn children(&mut self, directory: &Directory, prefix: &[u8], depth: usize) -> Result<(), ImageError> {
        let at = || format!("list `{}`", shown(&directory.path));
        let mut found = names(&directory.fd).context(at)?;
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let mut below = Vec::new();
        for (name, _) in found {
            let stat = match rustix::fs::statat(&directory.fd, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat.context(|| format!("look at `{}`", shown(&directory.join(&name))))?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                below.push(name);
            } else {
                self.other(directory, &name, &[prefix, &name].concat(), &stat)?;
            }
        }
        for name in below {
            let path = directory.join(&name);
            if path.len() > MAX_PATH || depth > MAX_DEPTH {
                return crate::error::invalid(format!("the path `{}` is too long", shown(&path)));
            }
            // Opened from the root by a path without links, so that a deep tree does not use up the descriptors.
            match self.files.tree.open_directory(&path) {
                Ok(child) => self.directory(&child, &[prefix, &name].concat(), depth + 1)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno).context(|| format!("open `{}`", shown(&path))),
            }
        }
        Ok(())
    }

    /// Writes what is no directory.
    fn other(
        &mut self,
        parent: &Directory,
        name: &[u8],
        shown_name: &[u8],
        stat: &Stat,
    ) -> Result<(), ImageError> {
        let at = || format!("read `{}`", shown(&parent.join(name)));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => Ok(()),
            FileType::RegularFile => self.file(parent, name, shown_name),
            FileType::Symlink => match rustix::fs::readlinkat(&parent.fd, name, Vec::new()) {
                Ok(target) => self.raw(&write::entry(shown_name, target.as_bytes(), stat, &[])?),
                Err(Errno::NOENT | Errno::INVAL) => Ok(()),
                Err(errno) => Err(errno).context(at),
            },
            _ => self.raw(&write::entry(shown_name, b"", stat, &[])?),
        }
    }

    fn file(&mut self, parent: &Directory, name: &[u8], shown_name: &[u8]) -> Result<(), ImageError> {
        let at = || format!("read `{}`", shown(&parent.join(name)));
        let (mut file, stat) = match parent.open_file(name) {
            // It went, or became something else.
            Err(Errno::NOENT | Errno::LOOP | Errno::INVAL) => return Ok(()),
            opened => opened.context(at)?,
        };
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let header = write::hard_link(shown_name, first, &stat)?;
                return self.raw(&header);
            }
            self.links.insert((stat.st_dev, stat.st_ino), shown_name.to_vec());
        }
        let capabilities = xattr::get_open(&file, CAPABILITIES).context(at)?;
        let xattrs: Vec<_> = capabilities.into_iter().map(|value| (CAPABILITIES.to_vec(), value)).collect();
        let size = stat.st_size as u64;
        self.raw(&write::entry(shown_name, b"", &stat, &xattrs)?)?;
        let mut left = size;
        let mut ended = false;
        while left > 0 {
            let want = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
            let count = if ended { 0 } else { file.read(&mut self.buffer[..want]).context(at)? };
            let count = if count == 0 {
                ended = true;
                self.buffer[..want].fill(0);
                want
            } else {
                count
            };
            self.out.write_all(&self.buffer[..count]).context(|| "write archive".into())?;
            left -= count as u64;
        }
        let padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
        self.raw(&[0; BLOCK][..padding])
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.out.write_all(bytes).context(|| "write archive".into())
    }
}
