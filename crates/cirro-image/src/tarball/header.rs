//! One 512-byte header: old, ustar, star or GNU.

use super::{BLOCK, Kind};
use crate::error::{ImageError, invalid, shown};

/// Which dialect the magic tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Old,
    Ustar,
    Star,
    Gnu,
}

/// A header whose checksum is right.
pub(crate) struct Header<'a> {
    bytes: &'a [u8; BLOCK],
    format: Format,
    /// The type flag.
    pub(crate) flag: u8,
}

impl<'a> Header<'a> {
    pub(crate) fn parse(bytes: &'a [u8; BLOCK]) -> Result<Self, ImageError> {
        if !checksum_fits(bytes) {
            return invalid("tar: invalid header: wrong checksum");
        }
        let format = match (&bytes[257..265], &bytes[508..512]) {
            (b"ustar  \0", _) => Format::Gnu,
            (magic, b"tar\0") if magic.starts_with(b"ustar\0") => Format::Star,
            (magic, _) if magic.starts_with(b"ustar\0") => Format::Ustar,
            _ => Format::Old,
        };
        Ok(Self { bytes, format, flag: bytes[156] })
    }

    pub(crate) fn name(&self) -> Vec<u8> {
        let name = text(&self.bytes[0..100]);
        let prefix = match self.format {
            Format::Ustar => text(&self.bytes[345..500]),
            Format::Star => text(&self.bytes[345..476]),
            // GNU keeps times and sparse maps there.
            Format::Old | Format::Gnu => &[],
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, name].join(&b'/') }
    }

    pub(crate) fn link(&self) -> Vec<u8> {
        text(&self.bytes[157..257]).to_vec()
    }

    pub(crate) fn kind(&self, name: &[u8]) -> Result<Kind, ImageError> {
        Ok(match self.flag {
            // Before POSIX a directory was a file whose name ends in a slash.
            0 if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' if self.format == Format::Gnu => Kind::File,
            flag => {
                return invalid(format!("tar: entry `{}` has the unknown type {flag:#04x}", shown(name)));
            }
        })
    }

    /// Whether it has a map of the old GNU form.
    pub(crate) fn is_sparse(&self) -> bool {
        self.flag == b'S'
    }

    pub(crate) fn bytes(&self) -> &'a [u8; BLOCK] {
        self.bytes
    }

    pub(crate) fn mode(&self) -> Result<u32, ImageError> {
        // Some writers put the file type above the permissions.
        Ok((number(&self.bytes[100..108])? & 0o7777) as u32)
    }

    pub(crate) fn uid(&self) -> Result<u64, ImageError> {
        not_negative(number(&self.bytes[108..116])?)
    }

    pub(crate) fn gid(&self) -> Result<u64, ImageError> {
        not_negative(number(&self.bytes[116..124])?)
    }

    pub(crate) fn size(&self) -> Result<u64, ImageError> {
        not_negative(number(&self.bytes[124..136])?)
    }

    pub(crate) fn seconds(&self) -> Result<i64, ImageError> {
        number(&self.bytes[136..148])
    }

    pub(crate) fn device(&self) -> Result<(u32, u32), ImageError> {
        let part = |range: std::ops::Range<usize>| {
            u32::try_from(number(&self.bytes[range])?)
                .map_err(|_| ImageError::Invalid("tar: device number is out of range".into()))
        };
        Ok((part(329..337)?, part(337..345)?))
    }
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// Early tars summed signed bytes; both sums are accepted everywhere.
fn checksum_fits(bytes: &[u8; BLOCK]) -> bool {
    let Ok(stated) = number(&bytes[148..156]) else { return false };
    // The field itself counts as spaces.
    let rest = || bytes[..148].iter().chain(&bytes[156..]);
    let spaces = 8 * i64::from(b' ');
    let unsigned = spaces + rest().map(|byte| i64::from(*byte)).sum::<i64>();
    let signed = spaces + rest().map(|byte| i64::from(*byte as i8)).sum::<i64>();
    stated == unsigned || stated == signed
}

/// Reads a number: octal text, or big-endian two's complement when the first bit is set.
pub(crate) fn number(field: &[u8]) -> Result<i64, ImageError> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        return binary(field);
    }
    let trimmed = text(trim_start(field));
    let digits = match trimmed.iter().rposition(|byte| *byte != b' ') {
        Some(last) => &trimmed[..=last],
        None => return Ok(0),
    };
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' if value >> 60 == 0 => Ok(value * 8 + i64::from(digit - b'0')),
        _ => invalid(format!("tar: invalid number `{}`", shown(field))),
    })
}

fn trim_start(field: &[u8]) -> &[u8] {
    let start = field.iter().position(|byte| !matches!(byte, b' ' | 0)).unwrap_or(field.len());
    &field[start..]
}

fn binary(field: &[u8]) -> Result<i64, ImageError> {
    let negative = field[0] & 0x40 != 0;
    let fill = if negative { 0xff } else { 0 };
    let mut value = if negative { -1i64 } else { 0 };
    for (index, byte) in field.iter().enumerate() {
        let byte = if index == 0 { (byte & 0x3f) | (fill & 0xc0) } else { *byte };
        if value >> 55 != 0 && value >> 55 != -1 {
            return invalid("tar: number is out of range");
        }
        value = (value << 8) | i64::from(byte);
    }
    Ok(value)
}

fn not_negative(value: i64) -> Result<u64, ImageError> {
    u64::try_from(value).map_err(|_| ImageError::Invalid("tar: negative number".into()))
}
