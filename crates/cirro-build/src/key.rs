//! Content keys: a digest over everything that decides what a step makes.
//!
//! Every field is written with its length before it, so that no two different inputs give the same bytes.

use std::io::Read;

use cirro_types::Digest;
use sha2::{Digest as _, Sha256};

// Contents are hashed with BLAKE3: nobody else sees these digests, every byte that is copied passes here before it is known
// whether its layer is there, and SHA-256 is about six times slower where the processor has no instructions for it.

/// Changes when what a step does with the same input changes, so that old layers are not taken for it.
const VERSION: &[u8] = b"cirro-build 2";

/// Bytes read of a file at a time.
const BUFFER_BYTES: usize = 128 << 10;

/// A key being computed.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    fields: Sha256,
    /// Made with the first file and kept for the next.
    buffer: Vec<u8>,
}

impl Key {
    /// Starts the key of a step of this kind.
    pub(crate) fn new(kind: &str) -> Self {
        let mut key = Self { fields: Sha256::new(), buffer: Vec::new() };
        key.field(VERSION);
        key.field(kind.as_bytes());
        key
    }

    /// Adds a field.
    pub(crate) fn field(&mut self, bytes: &[u8]) {
        self.fields.update((bytes.len() as u64).to_le_bytes());
        self.fields.update(bytes);
    }

    /// Adds a number.
    pub(crate) fn number(&mut self, number: u64) {
        self.field(&number.to_le_bytes());
    }

    /// Adds a list.
    pub(crate) fn list<T: AsRef<[u8]>>(&mut self, items: impl IntoIterator<Item = T>) {
        let items: Vec<T> = items.into_iter().collect();
        self.number(items.len() as u64);
        items.iter().for_each(|item| self.field(item.as_ref()));
    }

    /// Adds the digest of what `reader` gives; returns it.
    pub(crate) fn content(&mut self, mut reader: impl Read) -> std::io::Result<[u8; 32]> {
        let mut content = blake3::Hasher::new();
        self.buffer.resize(BUFFER_BYTES, 0);
        loop {
            match reader.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(length) => {
                    content.update(&self.buffer[..length]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let digest = *content.finalize().as_bytes();
        self.field(&digest);
        Ok(digest)
    }

    /// Ends the key.
    pub(crate) fn finish(self) -> Digest {
        Digest::from_bytes(self.fields.finalize().into())
    }
}
