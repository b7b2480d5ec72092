//! Writes the tar of a tree that overlayfs filled, the same bytes for the same tree.
//!
//! Entries are sorted by name, a directory before what is in it, hard links after their first name. Headers
//! are ustar, with a PAX header where ustar does not hold a value: long or non-ASCII names, extended
//! attributes, parts of seconds, times before 1970. Sockets are left out, as docker does.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Stat};

use crate::confine::{Directory, MAX_PATH, Tree};
use crate::error::{Context, ImageError, invalid, shown};
use crate::hash::Hasher;
use crate::recipe::RecipeWriter;
use crate::tarball::{BLOCK, CHUNK, Sink, write};
use crate::unpack::{OPAQUE_WHITEOUT, Unpacked, WHITEOUT, is_whiteout};
use crate::xattr;

const REDIRECTS: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];

/// Writes the recipe of `tree` and computes its digest, reading every file once.
///
/// Overlayfs' marks that mean nothing in a lower layer are removed from the tree.
pub(crate) fn pack(tree: &Tree, recipe: OwnedFd) -> Result<Unpacked, ImageError> {
    let mut packer = Packer {
        tree,
        recipe: RecipeWriter::new(recipe, u64::MAX)?,
        hasher: Hasher::new(),
        links: HashMap::new(),
        buffer: vec![0; CHUNK],
        size: 0,
        tar_size: 0,
    };
    let root = tree.root().context(|| "open layer".into())?;
    packer.root(&root)?;
    packer.children(root)?;
    packer.raw(&[0; 2 * BLOCK])?;
    packer.recipe.finish()?;
    Ok(Unpacked {
        diff_id: packer.hasher.finish(),
        size: packer.size,
        tar_size: packer.tar_size,
        opaque_root: false,
    })
}

struct Packer<'a> {
    tree: &'a Tree,
    recipe: RecipeWriter,
    hasher: Hasher,
    /// The first name of each file that has several.
    links: HashMap<u64, Vec<u8>>,
    buffer: Vec<u8>,
    size: u64,
    tar_size: u64,
}

/// Attributes of an entry, split by who they are for.
#[derive(Default)]
struct Attributes {
    portable: Vec<(Vec<u8>, Vec<u8>)>,
    opaque: bool,
}

impl Packer<'_> {
    /// The root gets an entry only when it is not what every new root is, so that an empty layer is empty.
    fn root(&mut self, root: &Directory) -> Result<(), ImageError> {
        let stat = rustix::fs::fstat(&root.fd).context(|| "look at layer".into())?;
        let attributes = self.attributes(root, b".")?;
        let usual = stat.st_mode & 0o7777 == 0o755 && (stat.st_uid, stat.st_gid) == (0, 0);
        if usual && attributes.portable.is_empty() {
            return Ok(());
        }
        self.entry(b"./", b"", &stat, &attributes.portable)
    }

    /// Writes the entries of one directory, then those of the directories in it.
    fn children(&mut self, directory: Directory) -> Result<(), ImageError> {
        let at = || format!("list `{}`", shown(&directory.path));
        let mut names = crate::confine::names(&directory.fd).context(at)?;
        names.sort_by(|a, b| a.0.cmp(&b.0));
        let mut below = Vec::new();
        for (name, _) in names {
            if self.child(&directory, &name)? {
                below.push(directory.join(&name));
            }
        }
        // A deep tree must not use up the descriptors.
        drop(directory);
        for path in below {
            let child = self.tree.open_directory(&path).context(|| format!("open `{}`", shown(&path)))?;
            self.children(child)?;
        }
        Ok(())
    }

    /// Writes one entry; tells whether it is a directory.
    fn child(&mut self, parent: &Directory, name: &[u8]) -> Result<bool, ImageError> {
        let path = parent.join(name);
        if path.len() > MAX_PATH {
            return invalid(format!("commit layer: the path `{}` is too long", shown(&path)));
        }
        if name.starts_with(WHITEOUT) {
            return invalid(format!("commit layer: `{}` has the name of a whiteout", shown(&path)));
        }
        let stat = rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .context(|| format!("look at `{}`", shown(&path)))?;
        if is_whiteout(&stat) {
            self.mark(&[&parent.join(WHITEOUT), name].concat())?;
            return Ok(false);
        }
        let attributes = self.attributes(parent, name)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.entry(&[&path, &b"/"[..]].concat(), b"", &stat, &attributes.portable)?;
                if attributes.opaque {
                    self.mark(&[&path, &b"/"[..], OPAQUE_WHITEOUT].concat())?;
                }
                return Ok(true);
            }
            FileType::Socket => {}
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&parent.fd, name, Vec::new())
                    .context(|| format!("read link `{}`", shown(&path)))?;
                self.entry(&path, target.as_bytes(), &stat, &attributes.portable)?;
            }
            FileType::RegularFile => self.file(&path, &stat, &attributes.portable)?,
            _ => self.entry(&path, b"", &stat, &attributes.portable)?,
        }
        Ok(false)
    }

    fn file(&mut self, path: &[u8], stat: &Stat, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), ImageError> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&stat.st_ino) {
                let first = first.clone();
                return self.hard_link(path, &first, stat);
            }
            self.links.insert(stat.st_ino, path.to_vec());
        }
        self.entry(path, b"", stat, xattrs)?;
        let size = stat.st_size as u64;
        if size > 0 {
            self.recipe.contents(path, size)?;
            self.contents(path, size)?;
            let padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
            self.raw(&[0; BLOCK][..padding])?;
        }
        Ok(())
    }

    fn contents(&mut self, path: &[u8], size: u64) -> Result<(), ImageError> {
        let at = || format!("read `{}`", shown(path));
        let mut file = self.tree.open_file(path).context(at)?;
        let mut left = size;
        while left > 0 {
            let want = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
            let count = file.read(&mut self.buffer[..want]).context(at)?;
            if count == 0 {
                return invalid(format!("commit layer: `{}` shrank while it was read", shown(path)));
            }
            self.hasher.update(&self.buffer[..count]);
            left -= count as u64;
        }
        self.size += size;
        self.tar_size += size;
        Ok(())
    }

    /// Reads the attributes of an entry and removes overlayfs' own that are done with.
    fn attributes(&self, parent: &Directory, name: &[u8]) -> Result<Attributes, ImageError> {
        let at = || format!("read the attributes of `{}`", shown(&parent.join(name)));
        let path = xattr::path_at(&parent.fd, name);
        let mut attributes = Attributes::default();
        for (key, value) in xattr::all(&path).context(at)? {
            if REDIRECTS.contains(&&key[..]) {
                return invalid(format!(
                    "commit layer: `{}` has {}: mount with redirect_dir=off,metacopy=off",
                    shown(&parent.join(name)),
                    shown(&key)
                ));
            }
            if key == xattr::OPAQUE {
                attributes.opaque = value == b"y";
            } else if xattr::is_overlay(&key) {
                xattr::remove(&path, &key).context(at)?;
            } else if xattr::is_portable(&key) {
                attributes.portable.push((key, value));
            }
        }
        Ok(attributes)
    }

    /// Writes a whiteout. It has no time of its own: the kernel made it when something was deleted.
    fn mark(&mut self, name: &[u8]) -> Result<(), ImageError> {
        self.raw(&write::mark(name)?)
    }

    fn hard_link(&mut self, path: &[u8], first: &[u8], stat: &Stat) -> Result<(), ImageError> {
        self.raw(&write::hard_link(path, first, stat)?)
    }

    fn entry(
        &mut self,
        name: &[u8],
        link: &[u8],
        stat: &Stat,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), ImageError> {
        self.raw(&write::entry(name, link, stat, xattrs)?)
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.hasher.update(bytes);
        self.tar_size += bytes.len() as u64;
        self.recipe.raw(bytes)
    }
}
