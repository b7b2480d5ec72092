//! The records of a PAX extended header.
//!
//! Source: POSIX.1-2017 `pax`, "pax Extended Header"; `SCHILY.xattr.` from star, as all container tools write it.

use super::{Time, sparse};
use crate::error::{ImageError, invalid, shown};

const SPARSE: &[u8] = b"GNU.sparse.";
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What of a PAX header matters here.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) time: Option<Time>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: sparse::Records,
}

impl Records {
    pub(crate) fn parse(mut bytes: &[u8]) -> Result<Self, ImageError> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let Some((key, value, rest)) = split_record(bytes) else {
                return invalid("tar: invalid PAX record");
            };
            records.take(key, value)?;
            bytes = rest;
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), ImageError> {
        if let Some(name) = key.strip_prefix(XATTR) {
            if name.contains(&0) {
                return invalid("tar: PAX record with a NUL in its name");
            }
            self.xattrs.retain(|(known, _)| known != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(SPARSE) {
            return self.sparse.take(name, value);
        }
        // An empty value takes an earlier record back.
        let present = !value.is_empty();
        match key {
            b"path" => self.path = present.then(|| value.to_vec()),
            b"linkpath" => self.link = present.then(|| value.to_vec()),
            b"size" => self.size = present.then(|| decimal(value)).transpose()?,
            b"uid" => self.uid = present.then(|| decimal(value)).transpose()?,
            b"gid" => self.gid = present.then(|| decimal(value)).transpose()?,
            b"mtime" => self.time = present.then(|| time(value)).transpose()?,
            _ => {}
        }
        Ok(())
    }
}

/// Splits `LENGTH key=value\n` off the front.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    if length <= space + 1 || length > bytes.len() {
        return None;
    }
    let (record, rest) = bytes.split_at(length);
    let record = record[space + 1..].strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&record[..equals], &record[equals + 1..], rest))
}

/// Writes one record; its length counts its own digits.
pub(crate) fn write_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Writes the record of an extended attribute.
pub(crate) fn write_xattr(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    write_record(out, &[XATTR, name].concat(), value);
}

fn decimal(value: &[u8]) -> Result<u64, ImageError> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|number| i64::try_from(*number).is_ok())
        .ok_or_else(|| ImageError::Invalid(format!("tar: invalid PAX number `{}`", shown(value))))
}

/// Reads `[-]seconds[.fraction]`; digits beyond nanoseconds are cut off.
fn time(value: &[u8]) -> Result<Time, ImageError> {
    let wrong = || ImageError::Invalid(format!("tar: invalid PAX time `{}`", shown(value)));
    let text = std::str::from_utf8(value).map_err(|_| wrong())?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    let nanoseconds: u32 = format!("{fraction:0<9}")[..9].parse().map_err(|_| wrong())?;
    Ok(match (negative, nanoseconds) {
        (false, nanoseconds) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, nanoseconds) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// Writes a time as `mtime` takes it.
pub(crate) fn format_time(time: Time) -> String {
    let (sign, seconds, nanoseconds) = match time {
        Time { seconds, nanoseconds: 0 } if seconds < 0 => ("-", seconds.unsigned_abs(), 0),
        Time { seconds, nanoseconds } if seconds < 0 => {
            ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
        }
        Time { seconds, nanoseconds } => ("", seconds.unsigned_abs(), nanoseconds),
    };
    let fraction = format!("{nanoseconds:09}");
    let text = format!("{sign}{seconds}.{}", fraction.trim_end_matches('0'));
    text.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_that_were_written_are_read(
            path in prop::collection::vec(1u8.., 1..300),
            value in prop::collection::vec(any::<u8>(), 0..300),
            seconds in -4_000_000_000i64..4_000_000_000, nanoseconds in 0u32..1_000_000_000,
        ) {
            let time = Time { seconds, nanoseconds };
            let mut bytes = Vec::new();
            write_record(&mut bytes, b"path", &path);
            write_xattr(&mut bytes, b"user.x", &value);
            write_record(&mut bytes, b"mtime", format_time(time).as_bytes());
            let records = Records::parse(&bytes).unwrap();
            prop_assert_eq!(records.path.unwrap(), path);
            prop_assert_eq!(records.xattrs, vec![(b"user.x".to_vec(), value)]);
            prop_assert_eq!(records.time.unwrap(), time);
        }

        #[test]
        fn nothing_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            drop(Records::parse(&bytes));
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for bytes in [&b"5 a=b\n"[..], b"9999 a=b\n", b"6 =bc\n", b"0 a=b\n", b"6 a=b\n6", b"-1 a=b\n"] {
            assert!(Records::parse(bytes).is_err(), "{}", shown(bytes));
        }
    }
}
