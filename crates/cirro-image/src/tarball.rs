//! Reads tar streams block by block, so that every byte of them can be kept.
//!
//! The `tar` crate drops padding and reads numbers leniently; a layer must come out again bit for
//! bit, and what a header says must be refused when Go's `archive/tar` (docker, containerd) refuses it.

pub(crate) mod header;
pub(crate) mod pax;
pub(crate) mod sparse;
pub(crate) mod write;

use std::io::{self, Read};

use header::Header;

use crate::error::{ImageError, invalid, reading, shown};

/// Size of a block.
pub(crate) const BLOCK: usize = 512;
/// The largest long name or PAX header; the limit of Go's `archive/tar`.
const MAX_EXTENSION: u64 = 1 << 20;
/// Extension headers before one entry.
const MAX_EXTENSIONS: usize = 16;
/// Bytes that are read at once.
pub(crate) const CHUNK: usize = 256 << 10;

/// Takes the bytes of a stream that are no file's contents.
pub(crate) trait Sink {
    /// Takes bytes verbatim.
    fn raw(&mut self, bytes: &[u8]) -> Result<(), ImageError>;
}

/// A sink that forgets.
pub(crate) struct Nowhere;

impl Sink for Nowhere {
    fn raw(&mut self, _: &[u8]) -> Result<(), ImageError> {
        Ok(())
    }
}

/// Where a stream's bytes come from, in pieces.
pub(crate) trait Chunks {
    /// Replaces `chunk` by the next bytes; returns false at the end.
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool>;
}

/// The pieces of a reader.
pub(crate) struct ReaderChunks<R>(pub(crate) R);

impl<R: Read> Chunks for ReaderChunks<R> {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        fill(&mut self.0, chunk)
    }
}

/// Reads up to [`CHUNK`] bytes into `chunk`; returns false at the end.
pub(crate) fn fill(reader: &mut dyn Read, chunk: &mut Vec<u8>) -> io::Result<bool> {
    chunk.resize(CHUNK, 0);
    let mut length = 0;
    while length < CHUNK {
        match reader.read(&mut chunk[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(length);
    Ok(length > 0)
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// One entry's header with its extensions applied.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Bytes of its contents in the stream.
    pub(crate) size: u64,
    /// Where they belong in a file with holes.
    pub(crate) sparse: Option<sparse::Map>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) time: Time,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Member {
    /// Bytes of its contents with their holes.
    pub(crate) fn file_size(&self) -> u64 {
        self.sparse.as_ref().map_or(self.size, |map| map.size)
    }
}

/// A tar stream being read.
pub(crate) struct TarStream<C> {
    chunks: C,
    chunk: Vec<u8>,
    at: usize,
    /// Bytes of the present entry's contents that were not read yet.
    remaining: u64,
    padding: usize,
}

/// What came with an entry's extension headers.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: pax::Records,
}

impl<C: Chunks> TarStream<C> {
    pub(crate) fn new(chunks: C) -> Self {
        Self { chunks, chunk: Vec::new(), at: 0, remaining: 0, padding: 0 }
    }

    /// Reads the next entry's headers; what is left of the present entry goes to `sink`.
    pub(crate) fn next(&mut self, sink: &mut dyn Sink) -> Result<Option<Member>, ImageError> {
        self.finish_entry(sink)?;
        let mut extensions = Extensions::default();
        for _ in 0..MAX_EXTENSIONS {
            let Some(block) = self.header_block(sink)? else { return Ok(None) };
            let header = Header::parse(&block)?;
            match header.flag {
                b'x' => extensions.pax = pax::Records::parse(&self.extension(&header, sink)?)?,
                b'L' => extensions.name = Some(until_nul(self.extension(&header, sink)?)),
                b'K' => extensions.link = Some(until_nul(self.extension(&header, sink)?)),
                // A global header is a remark (git's commit id); docker and containerd ignore it.
                b'g' => drop(self.extension(&header, sink)?),
                _ => return self.member(header, extensions, sink).map(Some),
            }
        }
        invalid("tar: too many extension headers before one entry")
    }

    /// Returns the next piece of the present entry's contents, empty when there is no more.
    pub(crate) fn contents(&mut self) -> Result<&[u8], ImageError> {
        let want = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let range = self.available(want)?;
        if range.is_empty() && want > 0 {
            return invalid("tar: unexpected end of data");
        }
        self.remaining -= range.len() as u64;
        Ok(&self.chunk[range])
    }

    /// Reads what follows the last entry to the end of the stream.
    pub(crate) fn drain(&mut self, sink: &mut dyn Sink) -> Result<(), ImageError> {
        loop {
            let range = self.available(CHUNK)?;
            if range.is_empty() {
                return Ok(());
            }
            sink.raw(&self.chunk[range])?;
        }
    }

    fn finish_entry(&mut self, sink: &mut dyn Sink) -> Result<(), ImageError> {
        while self.remaining > 0 {
            let piece = self.contents()?;
            sink.raw(piece)?;
        }
        while self.padding > 0 {
            let range = self.available(self.padding)?;
            if range.is_empty() {
                // Go's reader accepts a last entry without padding.
                break;
            }
            self.padding -= range.len();
            sink.raw(&self.chunk[range])?;
        }
        self.padding = 0;
        Ok(())
    }

    /// Reads one header block; none at the end of the archive (two zero blocks, or the stream's end).
    fn header_block(&mut self, sink: &mut dyn Sink) -> Result<Option<[u8; BLOCK]>, ImageError> {
        let Some(block) = self.block(sink)? else { return Ok(None) };
        if block.iter().any(|byte| *byte != 0) {
            return Ok(Some(block));
        }
        match self.block(sink)? {
            Some(second) if second.iter().any(|byte| *byte != 0) => invalid("tar: invalid header"),
            _ => Ok(None),
        }
    }

    fn block(&mut self, sink: &mut dyn Sink) -> Result<Option<[u8; BLOCK]>, ImageError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let range = self.available(BLOCK - filled)?;
            if range.is_empty() {
                break;
            }
            block[filled..filled + range.len()].copy_from_slice(&self.chunk[range.clone()]);
            filled += range.len();
        }
        match filled {
            0 => return Ok(None),
            BLOCK => {}
            _ => return invalid("tar: unexpected end of data"),
        }
        sink.raw(&block)?;
        Ok(Some(block))
    }

    fn extension(&mut self, header: &Header<'_>, sink: &mut dyn Sink) -> Result<Vec<u8>, ImageError> {
        let size = header.size()?;
        if size > MAX_EXTENSION {
            return invalid(format!("tar: extension header of {size} bytes is too large"));
        }
        self.begin(size);
        let mut bytes = Vec::new();
        while self.remaining > 0 {
            let piece = self.contents()?;
            sink.raw(piece)?;
            bytes.extend_from_slice(piece);
        }
        self.finish_entry(sink)?;
        Ok(bytes)
    }

    fn member(
        &mut self,
        header: Header<'_>,
        extensions: Extensions,
        sink: &mut dyn Sink,
    ) -> Result<Member, ImageError> {
        let Extensions { name, link, mut pax } = extensions;
        let name = pax.sparse.name.take().or(pax.path).or(name).unwrap_or_else(|| header.name());
        let link = pax.link.or(link).unwrap_or_else(|| header.link());
        let kind = header.kind(&name)?;
        let size = match kind {
            Kind::File => match pax.size {
                Some(size) => size,
                None => header.size()?,
            },
            _ => 0,
        };
        if name.contains(&0) || link.contains(&0) {
            return invalid(format!("tar: entry `{}` has a NUL in its name", shown(&name)));
        }
        let time = match pax.time {
            Some(time) => time,
            None => Time { seconds: header.seconds()?, nanoseconds: 0 },
        };
        let device = match kind {
            Kind::Character | Kind::Block => header.device()?,
            _ => (0, 0),
        };
        let form = if kind == Kind::File { pax.sparse.form()? } else { None };
        let mut sparse = header.is_sparse().then(|| self.old_map(header.bytes(), size, sink)).transpose()?;
        self.begin(size);
        match form {
            Some(_) if sparse.is_some() => return invalid("tar: a sparse entry with two maps"),
            Some(sparse::Form::InRecords) => sparse = Some(pax.sparse.map(size)?),
            Some(sparse::Form::BeforeData) => sparse = Some(self.map_before_data(&pax.sparse, sink)?),
            None => {}
        }
        Ok(Member {
            kind,
            size: self.remaining,
            sparse,
            mode: header.mode()?,
            uid: owner(pax.uid, || header.uid())?,
            gid: owner(pax.gid, || header.gid())?,
            time,
            device,
            xattrs: pax.xattrs,
            name,
            link,
        })
    }

    fn begin(&mut self, size: u64) {
        self.remaining = size;
        self.padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    }

    /// Returns the range of up to `want` bytes in the present chunk and steps over it; empty at the end.
    fn available(&mut self, want: usize) -> Result<std::ops::Range<usize>, ImageError> {
        if want > 0 && self.at == self.chunk.len() {
            self.at = 0;
            if !self.chunks.next(&mut self.chunk).map_err(|error| reading("archive", error))? {
                self.chunk.clear();
            }
        }
        let start = self.at;
        self.at = self.chunk.len().min(start.saturating_add(want));
        Ok(start..self.at)
    }
}

fn owner(pax: Option<u64>, header: impl Fn() -> Result<u64, ImageError>) -> Result<u32, ImageError> {
    let id = match pax {
        Some(id) => id,
        None => header()?,
    };
    // The last id means "leave unchanged" to chown.
    match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => invalid(format!("tar: owner {id} is out of range")),
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

#[cfg(test)]
mod tests;
