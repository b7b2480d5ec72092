//! Digests of what a registry holds: SHA-256 and SHA-512.
//!
//! The image library itself knows SHA-256 alone ([`Digest`]); a registry's clients may choose.
//! Source: OCI image-spec v1.1, `descriptor.md`, "Digests".

use std::fmt;
use std::str::FromStr;

use cirro_types::Digest;
use ring::digest::{Context, SHA256, SHA512};
use serde::{Deserialize, Serialize};

/// How a digest was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, what everybody uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Returns its name as digests have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl FromStr for Algorithm {
    type Err = InvalidBlobDigest;

    fn from_str(text: &str) -> Result<Self, InvalidBlobDigest> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(InvalidBlobDigest::new(text)),
        }
    }
}

/// A digest of either algorithm. Parsed before it ever becomes a part of a path or key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BlobDigest {
    algorithm: Algorithm,
    hex: Box<str>,
}

/// A string that is not a digest, or one of an algorithm that is not supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest `{0}`: want sha256 or sha512 and lower-case hexadecimal digits")]
pub struct InvalidBlobDigest(String);

impl InvalidBlobDigest {
    fn new(text: &str) -> Self {
        Self(text.chars().take(160).collect())
    }
}

impl BlobDigest {
    /// Computes a digest.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = BlobHasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns how it was computed.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// Returns it as the image library's digest, if it is one.
    pub fn as_sha256(&self) -> Option<Digest> {
        self.to_string().parse().ok()
    }
}

impl From<Digest> for BlobDigest {
    fn from(digest: Digest) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: digest.hex().into() }
    }
}

impl fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl fmt::Debug for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlobDigest {
    type Err = InvalidBlobDigest;

    fn from_str(text: &str) -> Result<Self, InvalidBlobDigest> {
        let invalid = || InvalidBlobDigest::new(text);
        let (algorithm, hex) = text.split_once(':').ok_or_else(invalid)?;
        let algorithm: Algorithm = algorithm.parse().map_err(|_| invalid())?;
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if hex.len() != algorithm.digits() || !hex.bytes().all(is_digit) {
            return Err(invalid());
        }
        Ok(Self { algorithm, hex: hex.into() })
    }
}

impl From<BlobDigest> for String {
    fn from(digest: BlobDigest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for BlobDigest {
    type Error = InvalidBlobDigest;

    fn try_from(text: String) -> Result<Self, InvalidBlobDigest> {
        text.parse()
    }
}

/// A computation that is fed piece by piece.
#[derive(Clone)]
pub(crate) struct BlobHasher {
    algorithm: Algorithm,
    context: Context,
}

impl BlobHasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let context = Context::new(match algorithm {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        });
        Self { algorithm, context }
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub(crate) fn finish(self) -> BlobDigest {
        let hex = hex::encode(self.context.finish().as_ref()).into();
        BlobDigest { algorithm: self.algorithm, hex }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_both_algorithms_print_as_they_were_parsed() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = BlobDigest::of(algorithm, b"abc");
            assert_eq!(digest.to_string().parse::<BlobDigest>().unwrap(), digest);
        }
        let sha256 = BlobDigest::of(Algorithm::Sha256, b"abc");
        assert_eq!(sha256.as_sha256(), Some(Digest::of(b"abc")));
        assert_eq!(BlobDigest::of(Algorithm::Sha512, b"abc").as_sha256(), None);
    }

    #[test]
    fn paths_and_other_algorithms_are_no_digests() {
        let upper = format!("sha256:{}", "A".repeat(64));
        let short = format!("sha512:{}", "a".repeat(64));
        for text in ["", "sha256", "sha256:", "sha256:../../etc/passwd", "md5:00", &upper, &short] {
            assert!(text.parse::<BlobDigest>().is_err(), "{text}");
        }
    }
}
