//! How a record lies on disk: a CRC-32C over key, format and body, one over the key alone, the
//! body's format, the body.
//!
//! The key is part of the sum, so that a value under a wrong key is found out. Its own sum tells
//! whether the key that a damaged record was found under is the one that it was written under.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Record, StoreError};

const FORMAT: u8 = 1;
const HEAD: usize = 9;
const OBJECT_HEAD: usize = 24;

/// Frames a body that is stored under `key`.
pub(crate) fn seal(key: &str, body: &[u8]) -> Vec<u8> {
    seal_parts(key, &[body])
}

/// Returns the body of a frame that was found under `key`.
///
/// # Errors
/// [`StoreError::Damaged`] if the frame is not what was written there.
pub(crate) fn unseal<'a>(key: &str, frame: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let damaged = || StoreError::Damaged(key.to_owned());
    let (sum, rest) = frame.split_first_chunk::<4>().ok_or_else(damaged)?;
    if checksum(key, rest) != u32::from_le_bytes(*sum) {
        return Err(damaged());
    }
    match rest.get(HEAD - 5..) {
        Some([FORMAT, body @ ..]) => Ok(body),
        _ => Err(damaged()),
    }
}

/// Whether a damaged frame that was found under `key` was written under it.
pub(crate) fn was_under(key: &str, frame: &[u8]) -> bool {
    frame.get(4..8) == Some(&checksum(key, b"").to_le_bytes())
}

/// Frames an object's record.
pub(crate) fn seal_object(record: &Record) -> Vec<u8> {
    let numbers = [record.revision, record.create_revision, record.version].map(u64::to_le_bytes);
    seal_parts(&record.key, &[numbers.as_flattened(), &record.value])
}

/// Returns the object's record in a frame that was found under `key`, with its value where `copy` puts it.
pub(crate) fn unseal_object(
    key: &str,
    frame: &[u8],
    copy: impl FnOnce(&[u8]) -> Bytes,
) -> Result<Record, StoreError> {
    let body = unseal(key, frame)?;
    let damaged = || StoreError::Damaged(key.to_owned());
    let (numbers, value) = body.split_at_checked(OBJECT_HEAD).ok_or_else(damaged)?;
    let mut numbers = numbers.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    let mut next = || numbers.next().ok_or_else(damaged);
    Ok(Record {
        revision: next()?,
        create_revision: next()?,
        version: next()?,
        key: Arc::from(key),
        value: copy(value),
    })
}

fn seal_parts(key: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + parts.iter().map(|part| part.len()).sum::<usize>());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&checksum(key, b"").to_le_bytes());
    frame.push(FORMAT);
    for part in parts {
        frame.extend_from_slice(part);
    }
    let sum = checksum(key, &frame[4..]);
    frame[..4].copy_from_slice(&sum.to_le_bytes());
    frame
}

fn checksum(key: &str, rest: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&(key.len() as u64).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(sum, key.as_bytes()), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_frame_is_found() {
        let record = Record {
            key: "/a/b".into(),
            value: Bytes::from_static(b"value"),
            revision: 9,
            create_revision: 7,
            version: 2,
        };
        let frame = seal_object(&record);
        assert_eq!(unseal_object("/a/b", &frame, Bytes::copy_from_slice).unwrap(), record);
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(unseal_object("/a/b", &flipped, Bytes::copy_from_slice), Err(StoreError::Damaged(key)) if key == "/a/b")
            );
        }
    }

    #[test]
    fn a_frame_under_another_key_or_cut_short_is_damaged() {
        let frame = seal("k", b"body");
        assert_eq!(unseal("k", &frame).unwrap(), b"body");
        assert!(unseal("l", &frame).is_err());
        for length in 0..frame.len() {
            assert!(unseal("k", &frame[..length]).is_err());
        }
        assert!(was_under("k", &frame) && !was_under("l", &frame) && !was_under("k", b""));
    }
}
