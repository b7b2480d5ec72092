//! Files with holes: the four ways in which GNU tar writes where the data of a file lies.
//!
//! | form | where the map is |
//! | --- | --- |
//! | old GNU (`S`) | in the header, and in blocks after it |
//! | PAX 0.0 | records `GNU.sparse.offset` and `GNU.sparse.numbytes`, many times |
//! | PAX 0.1 | the record `GNU.sparse.map` |
//! | PAX 1.0 | decimal lines before the data |
//!
//! What Go's `archive/tar` refuses of a map is refused: one that is out of order, overlaps, leaves the file, or speaks of more or
//! fewer bytes than there are.
//!
//! Source: GNU tar manual, "Storing Sparse Files".

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::header::number;
use super::{BLOCK, Chunks, Sink, TarStream};
use crate::error::{ImageError, invalid, shown};

/// Pieces of one file; more than any file system keeps without pain.
const MAX_SEGMENTS: usize = 1 << 20;
/// Decimal digits of one number of a map.
const MAX_DIGITS: usize = 20;

/// Where the data of a file lies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Map {
    /// Bytes of the file with its holes.
    pub(crate) size: u64,
    /// Offset and length, in order.
    segments: Vec<(u64, u64)>,
}

impl Map {
    /// Checks a map against the bytes of data that there are.
    fn checked(size: u64, segments: Vec<(u64, u64)>, data: u64) -> Result<Self, ImageError> {
        let mut end = 0u64;
        let mut sum = 0u64;
        for (offset, length) in &segments {
            let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
            let Some(next) = next else { return invalid("tar: the map of a sparse entry makes no sense") };
            end = next;
            sum += length;
        }
        if sum != data || i64::try_from(size).is_err() {
            return invalid("tar: a sparse entry has more or fewer bytes than its map says");
        }
        Ok(Self { size, segments })
    }
}

/// Writes data into a file with holes, piece by piece.
pub(crate) struct Writer<'a> {
    segments: std::slice::Iter<'a, (u64, u64)>,
    /// What is left of the present segment.
    present: (u64, u64),
}

impl<'a> Writer<'a> {
    pub(crate) fn new(map: &'a Map) -> Self {
        Self { segments: map.segments.iter(), present: (0, 0) }
    }

    /// Writes the next bytes of the data to where they belong.
    pub(crate) fn write(&mut self, file: &File, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            while self.present.1 == 0 {
                // The sum of all lengths is that of the data.
                self.present = *self.segments.next().ok_or(std::io::ErrorKind::InvalidData)?;
            }
            let (offset, left) = self.present;
            let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (now, rest) = bytes.split_at(count);
            file.write_all_at(now, offset)?;
            self.present = (offset + count as u64, left - count as u64);
            bytes = rest;
        }
        Ok(())
    }
}

/// The `GNU.sparse.` records of a PAX header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    any: bool,
    major: Option<u64>,
    minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    size: Option<u64>,
    real_size: Option<u64>,
    numbers: Vec<u64>,
}

impl Records {
    /// Takes a record by its name after the prefix.
    pub(crate) fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), ImageError> {
        self.any = true;
        match name {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" => self.name = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"realsize" => self.real_size = Some(decimal(value)?),
            b"map" => {
                for text in value.split(|byte| *byte == b',') {
                    self.push(decimal(text)?)?;
                }
            }
            b"offset" if self.numbers.len().is_multiple_of(2) => self.push(decimal(value)?)?,
            b"numbytes" if !self.numbers.len().is_multiple_of(2) => self.push(decimal(value)?)?,
            b"offset" | b"numbytes" => return invalid("tar: the map of a sparse entry is out of order"),
            // The number of pieces, which is seen anyway.
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, number: u64) -> Result<(), ImageError> {
        self.numbers.push(number);
        check_count(self.numbers.len() / 2)
    }

    /// Whether the entry is a sparse one, and whether its map is before the data.
    pub(crate) fn form(&self) -> Result<Option<Form>, ImageError> {
        match (self.any, self.major, self.minor) {
            (false, ..) => Ok(None),
            (_, Some(1), Some(0)) => Ok(Some(Form::BeforeData)),
            (_, None, None) | (_, Some(0), Some(0 | 1)) => Ok(Some(Form::InRecords)),
            _ => invalid("tar: a sparse entry of an unknown version"),
        }
    }

    /// Returns the map that the records have.
    pub(crate) fn map(&self, data: u64) -> Result<Map, ImageError> {
        if !self.numbers.len().is_multiple_of(2) {
            return invalid("tar: the map of a sparse entry is cut off");
        }
        let segments = self.numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Map::checked(self.file_size()?, segments, data)
    }

    fn file_size(&self) -> Result<u64, ImageError> {
        self.size
            .or(self.real_size)
            .ok_or_else(|| ImageError::Invalid("tar: a sparse entry without a size".into()))
    }
}

/// Where a PAX entry has its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    InRecords,
    BeforeData,
}

impl<C: Chunks> TarStream<C> {
    /// Reads the map of an old GNU entry: `header`, and the blocks after it.
    pub(super) fn old_map(
        &mut self,
        header: &[u8; BLOCK],
        data: u64,
        sink: &mut dyn Sink,
    ) -> Result<Map, ImageError> {
        let size = positive(&header[483..495])?;
        let mut segments = Vec::new();
        take_segments(&header[386..482], &mut segments)?;
        let mut more = header[482] != 0;
        while more {
            let Some(block) = self.block(sink)? else { return invalid("tar: unexpected end of data") };
            take_segments(&block[..504], &mut segments)?;
            more = block[504] != 0;
        }
        Map::checked(size, segments, data)
    }

    /// Reads the map that is before the data of the entry that has just begun.
    pub(super) fn map_before_data(
        &mut self,
        records: &Records,
        sink: &mut dyn Sink,
    ) -> Result<Map, ImageError> {
        let mut lines = Lines { block: [0; BLOCK], at: BLOCK };
        let count = lines.next(self, sink)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        check_count(count)?;
        let mut segments = Vec::new();
        for _ in 0..count {
            let offset = lines.next(self, sink)?;
            segments.push((offset, lines.next(self, sink)?));
        }
        Map::checked(records.file_size()?, segments, self.remaining)
    }

    /// Reads a block of the present entry's contents.
    fn content_block(&mut self, sink: &mut dyn Sink) -> Result<[u8; BLOCK], ImageError> {
        if self.remaining < BLOCK as u64 {
            return invalid("tar: the map of a sparse entry is cut off");
        }
        self.remaining -= BLOCK as u64;
        self.block(sink)?.ok_or_else(|| ImageError::Invalid("tar: unexpected end of data".into()))
    }
}

/// Decimal lines in whole blocks.
struct Lines {
    block: [u8; BLOCK],
    at: usize,
}

impl Lines {
    fn next<C: Chunks>(&mut self, stream: &mut TarStream<C>, sink: &mut dyn Sink) -> Result<u64, ImageError> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                (self.block, self.at) = (stream.content_block(sink)?, 0);
            }
            let byte = self.block[self.at];
            self.at += 1;
            if byte == b'\n' {
                return decimal(&digits);
            }
            digits.push(byte);
            if digits.len() > MAX_DIGITS {
                return invalid("tar: the map of a sparse entry makes no sense");
            }
        }
    }
}

/// Reads pairs of numbers of twelve bytes; an empty one is the last.
fn take_segments(bytes: &[u8], segments: &mut Vec<(u64, u64)>) -> Result<(), ImageError> {
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 || pair[12] == 0 {
            return Ok(());
        }
        segments.push((positive(&pair[..12])?, positive(&pair[12..])?));
        check_count(segments.len())?;
    }
    Ok(())
}

fn positive(field: &[u8]) -> Result<u64, ImageError> {
    u64::try_from(number(field)?).map_err(|_| ImageError::Invalid("tar: negative number".into()))
}

fn check_count(count: usize) -> Result<(), ImageError> {
    match count <= MAX_SEGMENTS {
        true => Ok(()),
        false => invalid(format!("tar: a sparse entry of more than {MAX_SEGMENTS} pieces")),
    }
}

fn decimal(value: &[u8]) -> Result<u64, ImageError> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| {
            ImageError::Invalid(format!("tar: invalid number `{}` of a sparse entry", shown(value)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_make_no_sense_are_refused() {
        Map::checked(100, vec![(0, 10), (10, 5), (100, 0)], 15).unwrap();
        for (size, segments, data) in [
            (100, vec![(10, 5), (0, 5)], 10),
            (100, vec![(0, 10), (5, 10)], 20),
            (100, vec![(90, 11)], 11),
            (100, vec![(0, 10)], 11),
            (100, vec![(0, 10)], 9),
            (u64::MAX, vec![(u64::MAX, 1)], 1),
            (u64::MAX, vec![], 0),
        ] {
            assert!(Map::checked(size, segments.clone(), data).is_err(), "{size} {segments:?} {data}");
        }
    }

    #[test]
    fn data_goes_where_the_map_says_however_it_is_cut() {
        let map = Map::checked(30, vec![(2, 3), (5, 0), (10, 4)], 7).unwrap();
        for cut in 1..8 {
            let file = tempfile::tempfile().unwrap();
            file.set_len(map.size).unwrap();
            let mut writer = Writer::new(&map);
            for piece in b"abcdefg".chunks(cut) {
                writer.write(&file, piece).unwrap();
            }
            let mut bytes = [0; 30];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes[..15], b"\0\0abc\0\0\0\0\0defg\0");
            assert!(writer.write(&file, b"h").is_err());
        }
    }
}
