//! A directory as the tar of a build context, for a client that is beside the context and not beside the builder.
//!
//! The ignore rules are applied here already, so that what a build does not see is not sent. The directory belongs to
//! the one who packs: links are packed as links and nothing is followed.

use std::collections::{HashMap, hash_map};
use std::fs::{File, FileType, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::context::MAX_IGNORE_BYTES;
use crate::ignore::Ignore;
use crate::{BuildError, context};

/// Deeper trees are refused by the builder too.
const MAX_DEPTH: usize = 200;
/// Bytes of a file that are sent at a time.
const MAX_PIECE: usize = 256 << 10;

/// Writes the tar of the context `dir`; blocks.
///
/// `dockerfile`, a path in the context, and `.dockerignore` are sent whatever the rules say. `ignore_text` are rules
/// that go before those of the context. Entries belong to root; sockets are left out.
///
/// # Errors
/// [`BuildError::Context`] if something cannot be read, is a device, changes while it is read, or if `out` fails.
pub fn pack_context(
    dir: &Path,
    dockerfile: &str,
    ignore_text: Option<&str>,
    out: &mut dyn Write,
) -> Result<(), BuildError> {
    pack(dir, dockerfile, ignore_text, out).map_err(|message| BuildError::Context { message })
}

fn pack(dir: &Path, dockerfile: &str, text: Option<&str>, out: &mut dyn Write) -> Result<(), String> {
    let ignore = match text {
        Some(text) => Ignore::parse(text)?,
        None => find_rules(dir, dockerfile)?,
    };
    let always = [dockerfile.to_owned(), format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()];
    let mut tar = tar::Builder::new(out);
    tar.follow_symlinks(false);
    let links = HashMap::new();
    let mut packer = Packer { root: dir, ignore, always, tar, pending: Vec::new(), links, depth: 0 };
    packer.directory("")?;
    packer.tar.finish().map_err(|error| format!("send the context: {error}"))
}

/// Reads `<Dockerfile>.dockerignore`, which goes before `.dockerignore`.
fn find_rules(dir: &Path, dockerfile: &str) -> Result<Ignore, String> {
    for name in context::ignore_names(dockerfile) {
        let file = match File::open(dir.join(&name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{name}: {error}")),
        };
        let mut text = Vec::new();
        file.take(MAX_IGNORE_BYTES + 1).read_to_end(&mut text).map_err(|error| format!("{name}: {error}"))?;
        if text.len() as u64 > MAX_IGNORE_BYTES {
            return Err(format!("{name}: more than {MAX_IGNORE_BYTES} bytes"));
        }
        return Ignore::parse(&String::from_utf8_lossy(&text)).map_err(|reason| format!("{name}: {reason}"));
    }
    Ok(Ignore::default())
}

struct Packer<'a, W: Write> {
    root: &'a Path,
    ignore: Ignore,
    /// What is sent whatever the rules say.
    always: [String; 3],
    tar: tar::Builder<W>,
    /// Directories that are ignored, but may hold something that is not: sent when it is found.
    pending: Vec<(String, Metadata)>,
    /// Files with several names, by device and number: the first name that was sent.
    links: HashMap<(u64, u64), String>,
    depth: usize,
}

impl<W: Write> Packer<'_, W> {
    fn directory(&mut self, path: &str) -> Result<(), String> {
        let failed = |error: io::Error| format!("{}: {error}", if path.is_empty() { "." } else { path });
        if self.depth > MAX_DEPTH {
            return Err(format!("{path}: deeper than {MAX_DEPTH} directories"));
        }
        let entries = std::fs::read_dir(self.root.join(path)).map_err(failed)?;
        let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let Ok(name) = entry.file_name().into_string() else {
                return Err(format!("{}: the name is not UTF-8", entry.path().display()));
            };
            let below = if path.is_empty() { name } else { format!("{path}/{name}") };
            match entry.metadata() {
                Ok(meta) => self.entry(below, meta)?,
                // It was there a moment ago; what is there now is what is sent.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{below}: {error}")),
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: String, meta: Metadata) -> Result<(), String> {
        let ignored = self.ignore.ignores(&path) && !self.always.contains(&path);
        if meta.is_dir() {
            let holds_wanted = || self.always.iter().any(|wanted| wanted.starts_with(&format!("{path}/")));
            if ignored && !self.ignore.has_exceptions() && !holds_wanted() {
                return Ok(());
            }
            self.pending.push((path.clone(), meta));
            if !ignored {
                self.send_pending()?;
            }
            let before = self.pending.len();
            self.depth += 1;
            self.directory(&path)?;
            self.depth -= 1;
            // Nothing in it was sent: it stays out.
            if ignored && self.pending.len() == before {
                self.pending.pop();
            }
            return Ok(());
        }
        if ignored || meta.file_type().is_socket() {
            return Ok(());
        }
        self.send_pending()?;
        self.send(&path, &meta)
    }

    fn send_pending(&mut self) -> Result<(), String> {
        for (path, meta) in std::mem::take(&mut self.pending) {
            let mut header = header(&meta, tar::EntryType::Directory, 0);
            let sent = self.tar.append_data(&mut header, format!("{path}/"), io::empty());
            sent.map_err(|error| format!("{path}: {error}"))?;
        }
        Ok(())
    }

    fn send(&mut self, path: &str, meta: &Metadata) -> Result<(), String> {
        let failed = |error: io::Error| format!("{path}: {error}");
        let full: PathBuf = self.root.join(path);
        let kind: FileType = meta.file_type();
        if kind.is_symlink() {
            let target = std::fs::read_link(&full).map_err(failed)?;
            let mut header = header(meta, tar::EntryType::Symlink, 0);
            return self.tar.append_link(&mut header, path, target).map_err(failed);
        }
        if kind.is_fifo() {
            let mut header = header(meta, tar::EntryType::Fifo, 0);
            return self.tar.append_data(&mut header, path, io::empty()).map_err(failed);
        }
        if !kind.is_file() {
            return Err(format!("{path}: a device in a build context is not supported"));
        }
        if meta.nlink() > 1 {
            match self.links.entry((meta.dev(), meta.ino())) {
                hash_map::Entry::Occupied(first) => {
                    let mut header = header(meta, tar::EntryType::Link, 0);
                    return self.tar.append_link(&mut header, path, first.get()).map_err(failed);
                }
                hash_map::Entry::Vacant(new) => drop(new.insert(path.to_owned())),
            }
        }
        let file = File::open(&full).map_err(failed)?;
        let mut header = header(meta, tar::EntryType::Regular, meta.len());
        // A buffer of this kind is what the standard library's copy takes instead of its own of 8 KiB.
        let size = usize::try_from(meta.len()).unwrap_or(usize::MAX).min(MAX_PIECE);
        let content = io::BufReader::with_capacity(size, Exact { file, left: meta.len() });
        self.tar.append_data(&mut header, path, content).map_err(failed)
    }
}

fn header(meta: &Metadata, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.mode() & 0o7777);
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or_default());
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A file of a size that was promised: the header with it is sent already.
struct Exact {
    file: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        match self.file.read(&mut buffer[..wanted])? {
            0 => Err(io::Error::other("it became shorter while it was read")),
            length => {
                self.left -= length as u64;
                Ok(length)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn context(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        dir
    }

    fn sent(dir: &Path, dockerfile: &str, rules: Option<&str>) -> Vec<String> {
        let mut bytes = Vec::new();
        pack_context(dir, dockerfile, rules, &mut bytes).unwrap();
        let mut tar = tar::Archive::new(bytes.as_slice());
        let paths = tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        paths.collect()
    }

    #[test]
    fn what_is_ignored_is_not_sent_but_the_dockerfile_is() {
        let dir = context(&["Dockerfile", "a/keep", "a/b/drop", "node_modules/x/y", "z"]);
        std::fs::write(dir.path().join(".dockerignore"), "Dockerfile\nnode_modules\na\n!a/keep\n").unwrap();
        assert_eq!(
            sent(dir.path(), "Dockerfile", None),
            [".dockerignore", "Dockerfile", "a/", "a/keep", "z"]
        );
        assert_eq!(sent(dir.path(), "a/b/drop", Some("*")), [".dockerignore", "a/", "a/b/", "a/b/drop"]);
    }

    #[test]
    fn links_modes_and_long_names_arrive() {
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
        let dir = context(&[&long, "x"]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        std::fs::hard_link(dir.path().join("x"), dir.path().join("y")).unwrap();
        std::fs::set_permissions(dir.path().join("x"), std::fs::Permissions::from_mode(0o751)).unwrap();
        let mut bytes = Vec::new();
        pack_context(dir.path(), "Dockerfile", None, &mut bytes).unwrap();
        let into = tempfile::tempdir().unwrap();
        crate::unpack_context(&mut bytes.as_slice(), into.path()).unwrap();
        assert_eq!(std::fs::read_to_string(into.path().join(&long)).unwrap(), long);
        assert_eq!(std::fs::read_link(into.path().join("link")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(into.path().join("x").metadata().unwrap().mode() & 0o7777, 0o751);
        assert_eq!(into.path().join("y").metadata().unwrap().nlink(), 2);
    }
}
