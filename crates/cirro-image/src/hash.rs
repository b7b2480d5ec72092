//! SHA-256 as data passes.

use cirro_types::Digest;

/// A computation that is fed piece by piece.
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(sha2::Digest::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest::from_bytes(sha2::Digest::finalize(self.0).into())
    }
}
