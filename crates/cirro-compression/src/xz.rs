//! Reads xz: streams of blocks, each LZMA2, with checks of everything.
//!
//! ```text
//! stream header ─▶ block ─▶ block ─▶ … ─▶ index ─▶ footer ─▶ padding ─▶ stream header …
//! ```
//! Of the filters only LZMA2 by itself is taken, which is what `xz` makes unless it is told otherwise. A block says how
//! much memory its dictionary takes; more than `xz -9` asks for is refused before anything is allocated. The
//! index is compared with what was read as a count and two sums, so that it takes no memory.
//!
//! Source: "The .xz File Format", version 1.2.1.

use std::io::{self, Read};

use crc32fast::Hasher as Crc32;
use lzma_rust2::Lzma2Reader;
use ring::digest::{Context as Sha256, SHA256};

const MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
const FOOTER_MAGIC: [u8; 2] = *b"YZ";
/// `xz -9` has 64 MiB.
const MAX_DICTIONARY: u32 = 128 << 20;
const LZMA2: u64 = 0x21;
/// Bytes of each kind of check.
const CHECK_SIZES: [usize; 16] = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];

/// Decompresses an xz file as it is read.
pub(crate) struct XzReader<R> {
    state: State<R>,
}

enum State<R> {
    /// Before a stream, maybe with padding in front of it; whether there must be one.
    Stream(Input<R>, bool),
    /// Before a block or the index.
    Block(Input<R>, Stream),
    /// Inside of a block.
    Contents(Box<Contents<R>>),
    /// At the end, or after an error.
    Over,
}

/// What is known of a stream.
struct Stream {
    flags: [u8; 2],
    blocks: u64,
    /// Sums of the sizes in the index.
    unpadded: u64,
    uncompressed: u64,
}

struct Contents<R> {
    reader: Lzma2Reader<Input<R>>,
    stream: Stream,
    check: Check,
    header_size: u64,
    /// Where the compressed bytes begin.
    begin: u64,
    /// What the block's header says.
    sizes: (Option<u64>, Option<u64>),
    uncompressed: u64,
}

enum Check {
    None,
    Crc32(Crc32),
    Crc64(u64),
    Sha256(Box<Sha256>),
    /// Of a kind that nobody has defined yet.
    Unknown(usize),
}

impl<R: Read> XzReader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { state: State::Stream(Input { source, position: 0 }, true) }
    }

    /// Goes on to the next contents; returns whether there are some.
    fn advance(&mut self) -> io::Result<bool> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Over) {
                State::Stream(input, first) => match begin_stream(input, first)? {
                    Some((input, stream)) => State::Block(input, stream),
                    None => return Ok(false),
                },
                State::Block(input, stream) => begin_block(input, stream)?,
                State::Contents(contents) => {
                    self.state = State::Contents(contents);
                    return Ok(true);
                }
                State::Over => return Ok(false),
            };
        }
    }
}

impl<R: Read> Read for XzReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() && self.advance()? {
            let State::Contents(mut contents) = std::mem::replace(&mut self.state, State::Over) else {
                return Ok(0);
            };
            let count = contents.reader.read(buffer).map_err(foreign)?;
            if count == 0 {
                self.state = contents.finish()?;
                continue;
            }
            contents.uncompressed += count as u64;
            contents.check.update(&buffer[..count]);
            self.state = State::Contents(contents);
            return Ok(count);
        }
        Ok(0)
    }
}

/// Reads a stream's header; nothing at the end of the file.
fn begin_stream<R: Read>(mut input: Input<R>, first: bool) -> io::Result<Option<(Input<R>, Stream)>> {
    let mut word = [0; 4];
    loop {
        match input.fill(&mut word)? {
            0 if !first => return Ok(None),
            4 if !first && word == [0; 4] => {}
            4 => break,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    let rest: [u8; 8] = input.array()?;
    if word != MAGIC[..4] || rest[..2] != MAGIC[4..] {
        return damaged("no stream");
    }
    let flags = [rest[2], rest[3]];
    if Crc32::sum(&flags) != [rest[4], rest[5], rest[6], rest[7]] || flags[0] != 0 || flags[1] > 15 {
        return damaged("stream header");
    }
    Ok(Some((input, Stream { flags, blocks: 0, unpadded: 0, uncompressed: 0 })))
}

/// Reads a block's header, or the index and the footer.
fn begin_block<R: Read>(mut input: Input<R>, stream: Stream) -> io::Result<State<R>> {
    let [first] = input.array()?;
    if first == 0 {
        end_stream(&mut input, &stream)?;
        return Ok(State::Stream(input, false));
    }
    let size = (usize::from(first) + 1) * 4;
    let mut header = vec![first; size];
    input.exact(&mut header[1..])?;
    let (fields, sum) = header.split_at(size - 4);
    if Crc32::sum(fields) != sum {
        return damaged("block header");
    }
    let flags = fields[1];
    let mut fields = &fields[2..];
    let compressed = (flags & 0x40 != 0).then(|| number(&mut fields)).transpose()?;
    let uncompressed = (flags & 0x80 != 0).then(|| number(&mut fields)).transpose()?;
    if flags & 0x3f != 0 || number(&mut fields)? != LZMA2 || number(&mut fields)? != 1 {
        return Err(unsupported("filters other than LZMA2"));
    }
    let Some((property, padding)) = fields.split_first() else { return damaged("block header") };
    if padding.iter().any(|byte| *byte != 0) {
        return damaged("block header");
    }
    let dictionary = dictionary(*property)?;
    let check = Check::new(stream.flags[1]);
    let begin = input.position;
    let reader = Lzma2Reader::new(input, dictionary, None);
    Ok(State::Contents(Box::new(Contents {
        reader,
        stream,
        check,
        header_size: size as u64,
        begin,
        sizes: (compressed, uncompressed),
        uncompressed: 0,
    })))
}

fn dictionary(property: u8) -> io::Result<u32> {
    if property > 40 {
        return damaged("dictionary size");
    }
    let size = match property {
        40 => u32::MAX,
        _ => (2 | u32::from(property & 1)) << (property / 2 + 11),
    };
    match size > MAX_DICTIONARY {
        true => Err(unsupported("a dictionary of more than 128 MiB")),
        false => Ok(size),
    }
}

impl<R: Read> Contents<R> {
    /// Reads what follows the compressed bytes and compares all that was said with what was found.
    fn finish(self) -> io::Result<State<R>> {
        let mut input = self.reader.into_inner();
        let compressed = input.position - self.begin;
        let fits = |said: Option<u64>, found: u64| said.is_none_or(|said| said == found);
        if !fits(self.sizes.0, compressed) || !fits(self.sizes.1, self.uncompressed) {
            return damaged("block size");
        }
        input.zeros((4 - compressed % 4) % 4)?;
        self.check.finish(&mut input)?;
        let mut stream = self.stream;
        let check = CHECK_SIZES[usize::from(stream.flags[1])] as u64;
        stream.blocks += 1;
        stream.unpadded = stream.unpadded.wrapping_add(self.header_size + compressed + check);
        stream.uncompressed = stream.uncompressed.wrapping_add(self.uncompressed);
        Ok(State::Block(input, stream))
    }
}

/// Reads the index, whose first byte is read already, and the footer.
fn end_stream<R: Read>(input: &mut Input<R>, stream: &Stream) -> io::Result<()> {
    let mut index = Index { sum: Crc32::new(), size: 1 };
    index.sum.update(&[0]);
    if index.number(input)? != stream.blocks {
        return damaged("index");
    }
    let (mut unpadded, mut uncompressed) = (0_u64, 0_u64);
    for _ in 0..stream.blocks {
        unpadded = unpadded.wrapping_add(index.number(input)?);
        uncompressed = uncompressed.wrapping_add(index.number(input)?);
    }
    if (unpadded, uncompressed) != (stream.unpadded, stream.uncompressed) {
        return damaged("index");
    }
    while !index.size.is_multiple_of(4) {
        if index.byte(input)? != 0 {
            return damaged("index");
        }
    }
    let (size, sum) = (index.size + 4, index.sum.finalize().to_le_bytes());
    if input.array()? != sum {
        return damaged("index");
    }
    let footer: [u8; 12] = input.array()?;
    let backward = u32::from_le_bytes([footer[4], footer[5], footer[6], footer[7]]);
    let fits = Crc32::sum(&footer[4..10]) == footer[..4]
        && (u64::from(backward) + 1) * 4 == size
        && footer[8..10] == stream.flags
        && footer[10..] == FOOTER_MAGIC;
    if fits { Ok(()) } else { damaged("stream footer") }
}

/// Reads the index byte by byte.
struct Index {
    sum: Crc32,
    size: u64,
}

impl Index {
    fn byte<R: Read>(&mut self, input: &mut Input<R>) -> io::Result<u8> {
        let [byte] = input.array()?;
        self.sum.update(&[byte]);
        self.size += 1;
        Ok(byte)
    }

    fn number<R: Read>(&mut self, input: &mut Input<R>) -> io::Result<u64> {
        read_number(|| self.byte(input))
    }
}

impl Check {
    fn new(kind: u8) -> Self {
        match kind {
            0 => Self::None,
            1 => Self::Crc32(Crc32::new()),
            4 => Self::Crc64(!0),
            10 => Self::Sha256(Box::new(Sha256::new(&SHA256))),
            other => Self::Unknown(CHECK_SIZES[usize::from(other & 15)]),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::None | Self::Unknown(_) => {}
            Self::Crc32(sum) => sum.update(bytes),
            Self::Crc64(sum) => *sum = crc64(*sum, bytes),
            Self::Sha256(sum) => sum.update(bytes),
        }
    }

    /// Reads the check and compares it.
    fn finish<R: Read>(self, input: &mut Input<R>) -> io::Result<()> {
        let found: Vec<u8> = match self {
            Self::None => return Ok(()),
            Self::Unknown(size) => return input.exact(&mut vec![0; size]),
            Self::Crc32(sum) => sum.finalize().to_le_bytes().into(),
            Self::Crc64(sum) => (!sum).to_le_bytes().into(),
            Self::Sha256(sum) => sum.finish().as_ref().into(),
        };
        let mut said = vec![0; found.len()];
        input.exact(&mut said)?;
        if said == found { Ok(()) } else { damaged("check") }
    }
}

trait Sum {
    /// The checksum of a few bytes as the format writes it.
    fn sum(bytes: &[u8]) -> [u8; 4];
}

impl Sum for Crc32 {
    fn sum(bytes: &[u8]) -> [u8; 4] {
        crc32fast::hash(bytes).to_le_bytes()
    }
}

/// CRC-64/XZ, reflected.
const CRC64: [u64; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u64;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0xc96c_5795_d787_0f42 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

fn crc64(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| CRC64[usize::from(sum as u8 ^ byte)] ^ sum >> 8)
}

/// The compressed bytes, counted.
struct Input<R> {
    source: R,
    position: u64,
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl<R: Read> Input<R> {
    /// Fills a buffer as far as there are bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match self.fill(buffer)? == buffer.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.exact(&mut bytes)?;
        Ok(bytes)
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        for _ in 0..count {
            if self.array()? != [0] {
                return damaged("padding");
            }
        }
        Ok(())
    }
}

/// Takes a number off the front of bytes.
fn number(bytes: &mut &[u8]) -> io::Result<u64> {
    read_number(|| {
        let (first, rest) = bytes.split_first().ok_or(io::ErrorKind::UnexpectedEof)?;
        *bytes = rest;
        Ok(*first)
    })
}

/// Reads seven bits of a number from each byte, the lowest first, at most nine bytes.
fn read_number(mut next: impl FnMut() -> io::Result<u8>) -> io::Result<u64> {
    let mut value = 0;
    for place in 0..9 {
        let byte = next()?;
        value |= u64::from(byte & 0x7f) << (place * 7);
        if byte & 0x80 == 0 {
            return if byte == 0 && place > 0 { damaged("number") } else { Ok(value) };
        }
    }
    damaged("number")
}

/// Errors of the decoder say nothing of xz.
fn foreign(error: io::Error) -> io::Error {
    match error.raw_os_error().is_some() || error.kind() == io::ErrorKind::UnexpectedEof {
        true => error,
        false => io::Error::new(io::ErrorKind::InvalidData, format!("xz: {error}")),
    }
}

fn damaged<T>(what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("xz: damaged {what}")))
}

fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("xz: {what} are not supported"))
}
