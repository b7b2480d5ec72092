//! Tar archives unpacked into a union: build contexts, and local archives that `ADD` names.
//!
//! An archive is hostile until shown otherwise: names with `..` and devices are refused, links are made but only
//! ever followed inside the root (see [`crate::union`]), and entries, bytes and extension headers are bounded.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use tar::EntryType;

use crate::error::Refusal;
use crate::tree::{Cancel, Changes, Writer};
use crate::union::{Attributes, Cursor, Existing, Last, Union, Walked};

pub(crate) const MAX_ENTRIES: usize = 2_000_000;
/// Bytes of an archive, unpacked.
pub(crate) const MAX_BYTES: u64 = 64 << 30;
/// Bytes between two entries' contents: padding, headers, long names, PAX records. The tar library reads
/// those into memory, whatever their size.
const MAX_HEADER_BYTES: u64 = 1 << 20;
pub(crate) const MAX_PATH_BYTES: usize = 4096;
const BLOCK: usize = 512;
/// Bytes of a file that are written at a time.
const MAX_PIECE: usize = 256 << 10;

/// Whose the unpacked files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// Root's, whatever the archive says.
    Root,
    /// As the archive says.
    Archive,
}

/// How and where an archive is unpacked.
pub(crate) struct Unpacker<'a> {
    pub(crate) union: &'a Union,
    /// Directory in the union, without symbolic links.
    pub(crate) base: PathBuf,
    pub(crate) ownership: Ownership,
    pub(crate) changes: &'a Changes,
    pub(crate) cancel: &'a Cancel,
}

/// A stream, decompressed, and the first block of what is in it.
pub(crate) struct Opened<'r> {
    pub(crate) head: Vec<u8>,
    rest: Box<dyn Read + 'r>,
}

impl<'r> Opened<'r> {
    /// Decompresses `reader` and reads its first block.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub(crate) fn new(reader: impl Read + 'r) -> Result<Self, Refusal> {
        let unreadable = |error: io::Error| Refusal::new(format!("read the archive: {error}"));
        let (mut rest, _) = cirro_compression::decompress(reader).map_err(unreadable)?;
        let head = head(&mut rest).map_err(unreadable)?;
        Ok(Self { head, rest })
    }

    /// Says whether it is a tar archive: its first block is a header with the right sum, or the end mark.
    pub(crate) fn is_tar(&self) -> bool {
        let Ok(block) = <&[u8; BLOCK]>::try_from(self.head.as_slice()) else { return false };
        if block.iter().all(|byte| *byte == 0) {
            return true;
        }
        let header = tar::Header::from_byte_slice(block);
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let own: u32 = block[148..156].iter().map(|byte| u32::from(*byte)).sum();
        header.cksum().is_ok_and(|want| want == sum - own + 8 * u32::from(b' '))
    }

    /// Returns the whole stream.
    pub(crate) fn into_reader(self) -> impl Read + 'r {
        io::Cursor::new(self.head).chain(self.rest)
    }
}

/// Writes all of an entry. The standard library's copy would take 8 KiB at a time.
fn pour<R: Read>(entry: &mut tar::Entry<'_, R>, file: &mut std::fs::File) -> io::Result<()> {
    let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
    let mut buffer = vec![0; size.clamp(BLOCK, MAX_PIECE)];
    // The tar library takes the end of the stream for that of the file.
    let mut left = entry.size();
    loop {
        match entry.read(&mut buffer) {
            Ok(0) if left > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Ok(()),
            Ok(count) => {
                file.write_all(&buffer[..count])?;
                left = left.saturating_sub(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn head(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.by_ref().take(BLOCK as u64).read_to_end(&mut head)?;
    Ok(head)
}

impl Unpacker<'_> {
    /// Unpacks an archive.
    pub(crate) fn unpack(&self, archive: Opened<'_>) -> Result<(), Refusal> {
        let budget = Rc::new(Cell::new(MAX_HEADER_BYTES));
        let place = Rc::new(Cell::new(Place::At(0)));
        let reader = Bounded { inner: archive.into_reader(), budget: budget.clone(), place: place.clone() };
        let mut archive = tar::Archive::new(reader);
        let failed = |error: io::Error| Refusal::new(format!("read the archive: {error}"));
        let mut progress = Progress::default();
        let mut count = 0;
        // Where the last entry's content ended.
        let mut at = 0;
        let mut entries = archive.entries().map_err(failed)?;
        loop {
            budget.set(MAX_HEADER_BYTES);
            let Some(entry) = entries.next() else { break };
            let mut entry = match entry {
                // Go's readers do without the last padding and the end mark, and docker's CLI leaves them out (`-f -`).
                Err(_) if matches!(place.get(), Place::End(end) if end <= next_block(at)) => break,
                entry => entry.map_err(failed)?,
            };
            budget.set(u64::MAX);
            self.cancel.check()?;
            count += 1;
            if count > MAX_ENTRIES {
                return Err(Refusal::new(format!("the archive has more than {MAX_ENTRIES} entries")));
            }
            self.entry(&mut entry, &mut progress)?;
            // What is left of the content must not count as headers.
            io::copy(&mut entry, &mut io::sink()).map_err(failed)?;
            at = place.get().bytes();
        }
        // Last: what was unpacked into them has changed their times.
        for (path, attributes) in progress.directories {
            if let Walked::Directory(mut cursor) =
                self.union.walk(&path, Last::Keep).map_err(Refusal::at(&path))?
            {
                cursor.set_attributes(&attributes).map_err(Refusal::at(path))?;
            }
        }
        Ok(())
    }

    fn entry<R: Read>(&self, entry: &mut tar::Entry<'_, R>, progress: &mut Progress) -> Result<(), Refusal> {
        let kind = match entry.header().entry_type() {
            EntryType::XGlobalHeader => return Ok(()),
            // The oldest archives mark a directory by its slash alone.
            EntryType::Regular if entry.path_bytes().ends_with(b"/") => EntryType::Directory,
            kind => kind,
        };
        let names = names(&entry.path_bytes())?;
        let shown = names.iter().collect::<PathBuf>();
        let attributes =
            self.attributes(entry.header(), kind == EntryType::Directory).map_err(Refusal::at(&shown))?;
        let Some((name, parents)) = names.split_last() else {
            // The archive's own root: a directory that is there already.
            return Ok(());
        };
        let mut writer = Writer::new(self.parent(parents, progress)?);
        match kind {
            EntryType::Directory => {
                writer.cursor.make_directory(name, Existing::Replace).map_err(Refusal::at(&shown))?;
                progress.directories.push((writer.cursor.path(), attributes));
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                writer.write_file(name, &attributes, |file| pour(entry, file))
            }
            EntryType::Symlink => {
                progress.parent = None;
                let target = link_name(entry, &shown)?;
                let made = writer.cursor.make_link(name, OsStr::from_bytes(&target), &attributes);
                made.map_err(Refusal::at(shown))
            }
            EntryType::Link => {
                let target = link_name(entry, &shown)?;
                self.hard_link(writer.cursor, name, &self::names(&target)?, &shown)
            }
            EntryType::Char | EntryType::Block => {
                Err(Refusal::new(format!("{}: a device in an archive is not supported", shown.display())))
            }
            EntryType::Fifo => {
                let made = writer.cursor.make_node(name, rustix::fs::FileType::Fifo, &attributes);
                made.map_err(Refusal::at(shown))
            }
            other => Err(Refusal::new(format!(
                "{}: archive entry of type {:?} is not supported",
                shown.display(),
                char::from(other.as_byte())
            ))),
        }
    }

    fn attributes(&self, header: &tar::Header, is_directory: bool) -> io::Result<Attributes> {
        let mut attributes = Attributes::new(header.mode()? & 0o7777);
        attributes.modified =
            header.mtime().ok().and_then(|time| i64::try_from(time).ok()).map(|time| (time, 0));
        if self.ownership == Ownership::Archive {
            let number = |id: u64| u32::try_from(id).map_err(|_| io::Error::other("owner out of range"));
            (attributes.uid, attributes.gid) = (number(header.uid()?)?, number(header.gid()?)?);
        }
        Ok(self.changes.apply(attributes, is_directory))
    }

    /// Goes to the directory that an entry is in; makes it if the archive has not done so.
    fn parent(&self, parents: &[OsString], progress: &mut Progress) -> Result<Cursor, Refusal> {
        if let Some((last, cursor)) = &progress.parent
            && last == parents
        {
            return Ok(cursor.clone());
        }
        let path: PathBuf = self.base.iter().chain(parents.iter().map(OsString::as_os_str)).collect();
        let cursor = self.union.make_directories(&path, &self.changes.parent()).map_err(Refusal::at(path))?;
        progress.parent = Some((parents.to_vec(), cursor.clone()));
        Ok(cursor)
    }

    fn hard_link(
        &self,
        mut at: Cursor,
        name: &OsStr,
        target: &[OsString],
        shown: &Path,
    ) -> Result<(), Refusal> {
        let path: PathBuf = self.base.iter().chain(target.iter().map(OsString::as_os_str)).collect();
        match self.union.walk(&path, Last::Keep).map_err(Refusal::at(&path))? {
            Walked::Other(_, file) => at.make_hard_link(name, &file).map_err(Refusal::at(shown)),
            Walked::Directory(_) | Walked::Missing(..) => Err(Refusal::new(format!(
                "{}: hard link to {}, which is not a file of the archive",
                shown.display(),
                path.display()
            ))),
        }
    }
}

/// What an unpacking remembers from entry to entry.
#[derive(Default)]
struct Progress {
    directories: Vec<(PathBuf, Attributes)>,
    /// The last entry's parent: archives come directory by directory. No directory is ever removed, so it stays
    /// valid; only a new link may lead its name elsewhere.
    parent: Option<(Vec<OsString>, Cursor)>,
}

fn link_name<R: Read>(entry: &tar::Entry<'_, R>, shown: &Path) -> Result<Vec<u8>, Refusal> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() && target.len() < MAX_PATH_BYTES => Ok(target.into_owned()),
        _ => Err(Refusal::new(format!("{}: link without a target, or with too long a one", shown.display()))),
    }
}

/// Splits an entry's name; a leading slash goes, `..` is refused.
pub(crate) fn names(path: &[u8]) -> Result<Vec<OsString>, Refusal> {
    let shown = || String::from_utf8_lossy(&path[..path.len().min(80)]).into_owned();
    if path.len() > MAX_PATH_BYTES || path.contains(&0) {
        return Err(Refusal::new(format!("{}: invalid name in the archive", shown())));
    }
    let mut names = Vec::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) => names.push(name.to_owned()),
            Component::ParentDir => {
                return Err(Refusal::new(format!("{}: entry leaves the archive's root", shown())));
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(names)
}

/// How far a stream is read.
#[derive(Debug, Clone, Copy)]
enum Place {
    At(u64),
    /// There is no more.
    End(u64),
}

impl Place {
    fn bytes(self) -> u64 {
        let (Self::At(bytes) | Self::End(bytes)) = self;
        bytes
    }
}

fn next_block(at: u64) -> u64 {
    at.next_multiple_of(BLOCK as u64)
}

/// Ends with an error when more than [`MAX_BYTES`], or more than `budget` since it was last set, are read.
struct Bounded<R> {
    inner: R,
    budget: Rc<Cell<u64>>,
    place: Rc<Cell<Place>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)? as u64;
        let at = self.place.get().bytes() + length;
        self.place.set(if length == 0 && !buffer.is_empty() { Place::End(at) } else { Place::At(at) });
        let budget = self.budget.get();
        if length > budget {
            return Err(io::Error::other(format!("headers of more than {MAX_HEADER_BYTES} bytes")));
        }
        if at > MAX_BYTES {
            return Err(io::Error::other(format!("more than {MAX_BYTES} bytes")));
        }
        self.budget.set(if budget == u64::MAX { budget } else { budget - length });
        Ok(length as usize)
    }
}
