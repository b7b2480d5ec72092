//! The keys that leave a terminal without ending what runs in it.

use bytes::{Bytes, BytesMut};

use crate::error::ApiError;

/// A sequence of keys being looked for in stdin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them came last.
    matched: usize,
}

const MAX_KEYS: usize = 64;

impl DetachKeys {
    /// Parses `ctrl-p,ctrl-q`; that is also the default.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or("ctrl-p,ctrl-q");
        let invalid = || ApiError::invalid(format!("Invalid detach keys ({text}) provided"));
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        let keys = keys.filter(|keys| keys.len() <= MAX_KEYS).ok_or_else(invalid)?;
        Ok(Self { keys, matched: 0 })
    }

    /// Takes a piece of stdin: returns what goes on to the process, and whether the sequence was completed.
    /// The keys of a sequence that breaks off go on after all.
    pub(crate) fn scan(&mut self, piece: Bytes) -> (Bytes, bool) {
        if self.matched == 0 && !piece.contains(&self.keys[0]) {
            return (piece, false);
        }
        let mut on = BytesMut::with_capacity(piece.len() + self.keys.len());
        for byte in piece {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (on.freeze(), true);
                }
                continue;
            }
            on.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0]);
            if self.matched == 0 {
                on.extend_from_slice(&[byte]);
            }
        }
        (on.freeze(), false)
    }
}

/// One key: a character, `ctrl-` and a letter or one of `@[\]^_`, or `DEL`.
fn key(text: &str) -> Option<u8> {
    if text == "DEL" {
        return Some(127);
    }
    let (control, character) = match text.strip_prefix("ctrl-") {
        Some(character) => (true, character),
        None => (false, text),
    };
    match character.as_bytes() {
        [byte] if !control && byte.is_ascii() => Some(*byte),
        [byte] if byte.is_ascii_lowercase() || matches!(byte, b'@' | b'['..=b'_') => Some(byte & 0x1f),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(keys: &mut DetachKeys, piece: &'static [u8]) -> (Vec<u8>, bool) {
        let (on, detach) = keys.scan(Bytes::from_static(piece));
        (on.to_vec(), detach)
    }

    #[test]
    fn keys_are_parsed_as_docker_writes_them() {
        assert_eq!(DetachKeys::parse(None).unwrap().keys, [16, 17]);
        assert_eq!(
            DetachKeys::parse(Some("ctrl-@,a,ctrl-[,ctrl-\\,DEL")).unwrap().keys,
            [0, b'a', 27, 28, 127]
        );
        for text in ["ctrl-", "ab", "ctrl-1", ",", "ctrl-P"] {
            assert!(DetachKeys::parse(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn the_sequence_detaches_even_in_two_pieces() {
        let mut keys = DetachKeys::parse(None).unwrap();
        assert_eq!(scan(&mut keys, b"ls\n\x10"), (b"ls\n".to_vec(), false));
        assert_eq!(scan(&mut keys, b"\x11rest"), (Vec::new(), true));
    }

    #[test]
    fn a_sequence_that_breaks_off_reaches_the_process() {
        let mut keys = DetachKeys::parse(None).unwrap();
        assert_eq!(scan(&mut keys, b"\x10x"), (b"\x10x".to_vec(), false));
        assert_eq!(scan(&mut keys, b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(scan(&mut keys, b"\x11"), (Vec::new(), true));
    }
}
