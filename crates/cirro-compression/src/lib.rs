//! Recognises and undoes the compression of archives and layers, in this process: no program is run for it, least of all one
//! of an image (CVE-2026-41567).
//!
//! The compressed bytes are counted, so that who writes what comes out can stop a bomb by its ratio; what a decoder
//! keeps in memory is bounded here.

mod xz;

use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// zstd windows up to 128 MiB, what `zstd -22` makes; `--long=31` would take 2 GiB of memory.
const MAX_ZSTD_WINDOW_LOG: u32 = 27;
const BUFFER: usize = 128 << 10;
/// Bytes by which the compression is recognised.
const HEAD: u64 = 6;

/// Counts the compressed bytes that were read.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Returns the bytes read so far.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Counted<R> {
    inner: R,
    gauge: Gauge,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.gauge.0.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, or in a way that is not known.
    None,
    /// gzip; concatenated members are one stream.
    Gzip,
    /// Zstandard; frames and skippable frames are one stream.
    Zstd,
    /// bzip2; concatenated streams are one.
    Bzip2,
    /// xz with LZMA2 alone; concatenated streams are one.
    Xz,
}

impl Compression {
    /// Recognises a stream by its first bytes.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::None,
        }
    }
}

/// Opens a stream that may be compressed in any of the ways of [`Compression`].
///
/// # Errors
/// When the first bytes cannot be read. Damaged streams fail while they are read.
pub fn decompress<'a, R: Read + 'a>(source: R) -> io::Result<(Box<dyn Read + 'a>, Gauge)> {
    let gauge = Gauge::default();
    let mut counted = Counted { inner: source, gauge: gauge.clone() };
    let mut head = Vec::with_capacity(HEAD as usize);
    (&mut counted).take(HEAD).read_to_end(&mut head)?;
    let compression = Compression::of(&head);
    let whole = Cursor::new(head).chain(counted);
    let buffered = |whole| BufReader::with_capacity(BUFFER, whole);
    let reader: Box<dyn Read + 'a> = match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(whole))),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(whole))),
        Compression::Xz => Box::new(xz::XzReader::new(buffered(whole))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered(whole))?;
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    };
    Ok((reader, gauge))
}

#[cfg(test)]
mod tests;
