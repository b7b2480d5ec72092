//! Recognises and undoes the compression of archives and layers.
//!
//! The compressed bytes are counted, so that who writes what comes out can stop a bomb by its ratio.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// zstd windows up to 128 MiB, what `zstd -22` makes; `--long=31` would take 2 GiB of memory.
const MAX_ZSTD_WINDOW_LOG: u32 = 27;
const BUFFER: usize = 128 << 10;

/// Counts the compressed bytes that were read.
#[derive(Clone, Default)]
pub(crate) struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Returns the bytes read so far.
    pub(crate) fn read(&self) -> u64 {
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

/// Opens a stream that may be plain, gzip (concatenated members too) or zstd (skippable frames too).
pub(crate) fn decompress<'a, R: Read + 'a>(source: R) -> io::Result<(Box<dyn Read + 'a>, Gauge)> {
    let gauge = Gauge::default();
    let mut counted = Counted { inner: source, gauge: gauge.clone() };
    let mut head = Vec::with_capacity(6);
    (&mut counted).take(6).read_to_end(&mut head)?;
    let kind = sniff(&head)?;
    let whole = Cursor::new(head).chain(counted);
    let reader: Box<dyn Read + 'a> = match kind {
        Kind::Plain => Box::new(whole),
        Kind::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BUFFER, whole))),
        Kind::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(BUFFER, whole))?;
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    };
    Ok((reader, gauge))
}

enum Kind {
    Plain,
    Gzip,
    Zstd,
}

fn sniff(head: &[u8]) -> io::Result<Kind> {
    let unsupported = |name| {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{name} compression is not supported: want plain, gzip or zstd"),
        ))
    };
    match head {
        [0x1f, 0x8b, ..] => Ok(Kind::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Kind::Zstd),
        [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => unsupported("xz"),
        _ => Ok(Kind::Plain),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(bytes)?.0.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_bytes_pass_however_short() {
        assert_eq!(all(b"").unwrap(), b"");
        assert_eq!(all(b"abc").unwrap(), b"abc");
    }

    #[test]
    fn concatenated_gzip_members_are_one_stream() {
        assert_eq!(all(&[gzip(b"one "), gzip(b"two")].concat()).unwrap(), b"one two");
    }

    #[test]
    fn zstd_frames_and_skippable_frames_are_one_stream() {
        let skippable = [0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
        let frame = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let stream = [&skippable[..], &frame(b"one "), &skippable, &frame(b"two")].concat();
        assert_eq!(all(&stream).unwrap(), b"one two");
    }

    #[test]
    fn a_damaged_or_foreign_stream_is_an_error() {
        let mut damaged = gzip(b"some bytes that are long enough");
        let middle = damaged.len() / 2;
        damaged.truncate(middle);
        assert!(all(&damaged).is_err());
        assert!(all(b"BZh91AY").unwrap_err().to_string().contains("bzip2"));
    }
}
