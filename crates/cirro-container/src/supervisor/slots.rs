//! A small document that is replaced often, whole or not at all.
//!
//! Two files take turns: a write goes over the older one and ends with a checksum that covers it, so a reader always
//! finds the last write that was finished. (Renaming a new file over the old one does the same, but a run directory that
//! is on a disk pays for it: ext4 sends the new file's blocks on their way before each such rename, 0.3 to 10 ms.)

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

const FILES: [&str; 2] = ["state.0", "state.1"];
/// Sequence, length of the document, checksum of both and the document.
const HEAD: usize = 16;
/// No record is anywhere near.
const LONGEST: u64 = 16 << 20;
/// A reader in another process can meet both files in the middle of a write.
const TRIES: u32 = 8;

/// How many writes a document has seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    sequence: Cell<u64>,
}

impl Slots {
    /// Replaces the document in `directory`.
    pub(super) fn save(&self, directory: &Path, document: &[u8]) -> io::Result<()> {
        let sequence = self.sequence.get() + 1;
        let mut bytes = Vec::with_capacity(HEAD + document.len());
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(document.len()).map_err(io::Error::other)?.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(document);
        let sum = checksum(&bytes);
        bytes[12..HEAD].copy_from_slice(&sum);
        // Not shortened first: that would cost as much as the rename. What lies beyond the length is not looked at.
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).open(path(directory, sequence))?;
        file.write_all_at(&bytes, 0)?;
        self.sequence.set(sequence);
        Ok(())
    }

    /// Reads what was written last, if anything was.
    pub(super) fn load(directory: &Path) -> io::Result<Option<(Self, Vec<u8>)>> {
        for _ in 0..TRIES {
            let mut written = false;
            let mut newest = None;
            for turn in 0..2 {
                match read(&path(directory, turn)) {
                    Ok(found) => {
                        written = true;
                        newest = newest.max(found);
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            if let Some((sequence, document)) = newest {
                return Ok(Some((Self { sequence: Cell::new(sequence) }, document)));
            }
            if !written {
                return Ok(None);
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "no write was finished"))
    }
}

fn path(directory: &Path, sequence: u64) -> std::path::PathBuf {
    directory.join(FILES[usize::from(sequence % 2 == 1)])
}

/// Covers everything but its own place.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[HEAD..]);
    hasher.finalize().to_le_bytes()
}

/// Returns nothing for a write that was not finished.
fn read(path: &Path) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    let Some(head) = bytes.get(..HEAD) else { return Ok(None) };
    let sequence = u64::from_le_bytes(head[..8].try_into().expect("8 bytes"));
    let length = u32::from_le_bytes(head[8..12].try_into().expect("4 bytes")) as usize;
    let sum: [u8; 4] = head[12..].try_into().expect("4 bytes");
    if bytes.len() - HEAD < length {
        return Ok(None);
    }
    bytes.truncate(HEAD + length);
    let whole = checksum(&bytes) == sum;
    Ok(whole.then(|| (sequence, bytes.split_off(HEAD))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(directory: &Path) -> Option<Vec<u8>> {
        Slots::load(directory).unwrap().map(|(_, document)| document)
    }

    #[test]
    fn the_last_write_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(loaded(directory.path()), None);
        let slots = Slots::default();
        for document in ["first", "a longer second", "", "fourth"] {
            slots.save(directory.path(), document.as_bytes()).unwrap();
            assert_eq!(loaded(directory.path()).unwrap(), document.as_bytes());
        }
        let (slots, _) = Slots::load(directory.path()).unwrap().unwrap();
        slots.save(directory.path(), b"by another").unwrap();
        assert_eq!(loaded(directory.path()).unwrap(), b"by another");
    }

    #[test]
    fn a_write_that_was_cut_off_at_any_byte_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let slots = Slots::default();
        for document in ["one", "two", "three, which is cut off"] {
            slots.save(directory.path(), document.as_bytes()).unwrap();
        }
        let newest = path(directory.path(), 3);
        let whole = std::fs::read(&newest).unwrap();
        // What was there before, as far as the new write has not come.
        let mut before = whole.clone();
        before.fill(b'x');
        for cut in 0..whole.len() {
            let torn = [&whole[..cut], &before[cut..]].concat();
            std::fs::write(&newest, torn).unwrap();
            assert_eq!(loaded(directory.path()).unwrap(), b"two", "cut at {cut}");
            std::fs::write(&newest, &whole[..cut]).unwrap();
            assert_eq!(loaded(directory.path()).unwrap(), b"two", "short at {cut}");
        }
    }

    #[test]
    fn nothing_that_was_finished_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILES[0]), b"rubbish that is no record").unwrap();
        assert!(Slots::load(directory.path()).is_err());
    }
}
