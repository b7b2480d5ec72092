//! What a layer's tar has beyond its files' contents, kept so that the same bytes come out again.
//!
//! ## Theory of operation
//! A layer lives as an unpacked tree. Its digest, though, is that of a tar, and who gets the layer
//! from us must get that very tar. So while a layer is unpacked (or made), everything in the tar that
//! is no file's contents goes into the recipe: headers, padding, the end. Contents are taken from the tree.
//!
//! ```text
//! recipe = zstd( MAGIC record* )
//! record = 0 length bytes            bytes verbatim
//!        | 1 length                  that many zero bytes
//!        | 2 length size path        contents of the file `path` of the tree
//! ```
//! Numbers are LEB128. When a later entry of the same layer replaced a file, the old contents were moved
//! to `displaced/N`, N counting the records of kind 2.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;

use cirro_types::Digest;

use crate::confine::Tree;
use crate::error::{Context, ImageError, invalid, reading, shown};
use crate::hash::Hasher;
use crate::tarball::{BLOCK, CHUNK, Sink};

const MAGIC: &[u8] = b"cirro layer recipe 1\n";
const LEVEL: i32 = 1;
const RAW: u8 = 0;
const ZEROS: u8 = 1;
const CONTENTS: u8 = 2;
/// Longer runs than an extension header do not occur; a bound for damaged files.
const MAX_RAW: u64 = 16 << 20;
const ZERO_BLOCK: [u8; BLOCK] = [0; BLOCK];
static ZERO_CHUNK: [u8; CHUNK] = [0; CHUNK];

/// Writes a recipe.
pub(crate) struct RecipeWriter {
    out: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    /// Zero blocks that were not written yet: they come in long runs at the end.
    zeros: u64,
    records: u64,
    raw_bytes: u64,
    limit: u64,
}

impl RecipeWriter {
    /// Starts a recipe that may keep `limit` bytes verbatim.
    pub(crate) fn new(file: OwnedFd, limit: u64) -> Result<Self, ImageError> {
        let mut out = zstd::stream::write::Encoder::new(BufWriter::new(File::from(file)), LEVEL)
            .context(|| "start recipe".into())?;
        out.write_all(MAGIC).context(|| "write recipe".into())?;
        Ok(Self { out, zeros: 0, records: 0, raw_bytes: 0, limit })
    }

    /// Notes that a file's contents follow; returns the number of this note.
    pub(crate) fn contents(&mut self, path: &[u8], size: u64) -> Result<u64, ImageError> {
        self.flush_zeros()?;
        let mut record = vec![CONTENTS];
        put_number(&mut record, path.len() as u64);
        put_number(&mut record, size);
        record.extend_from_slice(path);
        self.put(&record)?;
        self.records += 1;
        Ok(self.records - 1)
    }

    /// Ends the recipe.
    pub(crate) fn finish(mut self) -> Result<(), ImageError> {
        self.flush_zeros()?;
        let mut file = self.out.finish().context(|| "write recipe".into())?;
        file.flush().context(|| "write recipe".into())
    }

    fn flush_zeros(&mut self) -> Result<(), ImageError> {
        if self.zeros == 0 {
            return Ok(());
        }
        let mut record = vec![ZEROS];
        put_number(&mut record, self.zeros);
        self.zeros = 0;
        self.put(&record)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.out.write_all(bytes).context(|| "write recipe".into())
    }
}

impl Sink for RecipeWriter {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        for piece in bytes.chunks(CHUNK) {
            if is_zero(piece) {
                self.zeros += piece.len() as u64;
                continue;
            }
            self.flush_zeros()?;
            self.raw_bytes += piece.len() as u64;
            if self.raw_bytes > self.limit {
                return invalid("layer: too many bytes that belong to no file");
            }
            let mut head = vec![RAW];
            put_number(&mut head, piece.len() as u64);
            self.put(&head)?;
            self.put(piece)?;
        }
        Ok(())
    }
}

/// Writes the tar that a recipe and a tree give; returns its digest and length.
pub(crate) fn replay(
    recipe: File,
    tree: &Tree,
    displaced: Option<&Tree>,
    out: &mut dyn Write,
) -> Result<(Digest, u64), ImageError> {
    let decoder = zstd::stream::read::Decoder::new(recipe).context(|| "read recipe".into())?;
    let mut recipe = BufReader::with_capacity(CHUNK, decoder);
    let mut out = Output { out, hasher: Hasher::new(), length: 0 };
    let mut buffer = vec![0; CHUNK];
    expect_magic(&mut recipe)?;
    let mut ordinal = 0;
    while let Some(kind) = get_byte(&mut recipe)? {
        match kind {
            RAW => {
                let length = get_number(&mut recipe)?;
                copy(&mut (&mut recipe).take(length.min(MAX_RAW)), length, &mut buffer, &mut out)?;
            }
            ZEROS => zeros(get_number(&mut recipe)?, &mut out)?,
            CONTENTS => {
                let path_length = get_number(&mut recipe)?.min(MAX_RAW) as usize;
                let size = get_number(&mut recipe)?;
                let mut path = vec![0; path_length];
                recipe.read_exact(&mut path).map_err(|error| reading("recipe", error))?;
                let mut file = open_contents(tree, displaced, &path, ordinal)?;
                copy(&mut file, size, &mut buffer, &mut out)?;
                ordinal += 1;
            }
            _ => return invalid("recipe is damaged"),
        }
    }
    Ok((out.hasher.finish(), out.length))
}

struct Output<'a> {
    out: &'a mut dyn Write,
    hasher: Hasher,
    length: u64,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.out.write_all(bytes).context(|| "write layer".into())
    }
}

fn open_contents(
    tree: &Tree,
    displaced: Option<&Tree>,
    path: &[u8],
    ordinal: u64,
) -> Result<File, ImageError> {
    if let Some(file) = displaced.and_then(|tree| tree.open_file(ordinal.to_string().as_bytes()).ok()) {
        return Ok(file);
    }
    tree.open_file(path).context(|| format!("open `{}` of the layer", shown(path)))
}

fn copy(from: &mut dyn Read, length: u64, buffer: &mut [u8], out: &mut Output<'_>) -> Result<(), ImageError> {
    let mut left = length;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = from.read(&mut buffer[..want]).map_err(|error| reading("layer", error))?;
        if count == 0 {
            return invalid("the layer's tree is damaged: a file is too short");
        }
        out.write(&buffer[..count])?;
        left -= count as u64;
    }
    Ok(())
}

fn zeros(mut length: u64, out: &mut Output<'_>) -> Result<(), ImageError> {
    while length > 0 {
        let count = length.min(CHUNK as u64);
        out.write(&ZERO_CHUNK[..count as usize])?;
        length -= count;
    }
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(BLOCK).all(|block| *block == ZERO_BLOCK[..block.len()])
}

fn expect_magic(recipe: &mut impl Read) -> Result<(), ImageError> {
    let mut magic = [0; MAGIC.len()];
    recipe.read_exact(&mut magic).map_err(|error| reading("recipe", error))?;
    if magic == MAGIC { Ok(()) } else { invalid("recipe is damaged") }
}

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn get_number(recipe: &mut impl Read) -> Result<u64, ImageError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let Some(byte) = get_byte(recipe)? else { break };
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    invalid("recipe is damaged")
}

fn get_byte(recipe: &mut impl Read) -> Result<Option<u8>, ImageError> {
    let mut byte = [0];
    match recipe.read(&mut byte) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(byte[0])),
        Err(error) => Err(reading("recipe", error)),
    }
}
