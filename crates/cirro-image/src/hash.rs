//! SHA-256 as data passes.
//!
//! Every byte of a layer goes through here, so it is ring's assembly, which is in the binary for TLS anyway: where the
//! processor has no SHA instructions it was measured at about twice the speed of the portable code of `sha2`.

use cirro_types::Digest;
use ring::digest::{Context, SHA256};

/// A computation that is fed piece by piece.
pub(crate) struct Hasher(Context);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        let digest = self.0.finish();
        Digest::from_bytes(digest.as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }
}
