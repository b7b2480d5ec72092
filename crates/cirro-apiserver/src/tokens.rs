//! Tokens of service accounts: JWTs signed by a key in the data directory.
//!
//! A token is as good as what it names: it is checked against the account, and against the pod, secret or
//! node that it is bound to, as they are now. `review` does that; this file signs and reads.
//!
//! Source: RFC 7515 and 7519; `pkg/serviceaccount/claims.go`, `pkg/serviceaccount/openidmetadata.go`.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::KeyPair;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde_json::{Value, json};

use crate::pki::{self, PkiError};

pub(crate) mod request;
pub(crate) mod review;

/// Who signs, as tokens and the discovery document say, and whom tokens are for when nothing else is said.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Where the keys are, below the issuer.
const KEYS_PATH: &str = "/openid/v1/jwks";
const KEY_FILE: &str = "sa.key";
/// Longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;

/// The key that signs tokens.
pub(crate) struct Tokens {
    key: EcdsaKeyPair,
    id: String,
}

impl Tokens {
    /// Opens the key in `directory`, or makes it (mode 0600). Without a directory it lives as long as this.
    pub(crate) fn open(directory: Option<&Path>) -> Result<Self, PkiError> {
        let path = directory.map(|directory| directory.join(KEY_FILE));
        let present = match &path {
            Some(path) => pki::read(path)?,
            None => None,
        };
        let pair = match present {
            Some(pem) => KeyPair::from_pem(&pem).map_err(PkiError::Make)?,
            None => {
                let pair = KeyPair::generate().map_err(PkiError::Make)?;
                if let Some(path) = &path {
                    pki::write(path, &pair.serialize_pem(), 0o600)?;
                }
                pair
            }
        };
        let der = pair.serialize_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &SystemRandom::new());
        let key = key.map_err(|why| PkiError::Tls(format!("the key of tokens: {why}")))?;
        let id = ring::digest::digest(&ring::digest::SHA256, key.public_key().as_ref());
        Ok(Self { id: URL_SAFE_NO_PAD.encode(id), key })
    }

    /// Signs claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.id});
        let [header, claims] = [&header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.expect("the kernel gives random bytes");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Returns the claims of a token that this key signed.
    pub(crate) fn verified(&self, token: &str) -> Option<Value> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        // The algorithm is ours to choose, never the token's.
        if header["alg"] != "ES256" || header["kid"] != self.id.as_str() {
            return None;
        }
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref());
        public.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// Returns the document at `/openid/v1/jwks`.
    pub(crate) fn keys(&self) -> Value {
        // A point that is not compressed: 4, then both coordinates of 32 bytes.
        let point = self.key.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": x, "y": y}]})
    }
}

/// Returns the document at `/.well-known/openid-configuration`.
pub(crate) fn configuration() -> Value {
    json!({"issuer": ISSUER, "jwks_uri": format!("{ISSUER}{KEYS_PATH}"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_good_only_as_they_were_signed() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(Some(directory.path())).unwrap();
        let token = tokens.sign(&json!({"sub": "x"}));
        assert_eq!(tokens.verified(&token).unwrap()["sub"], "x");
        // The key survives a restart; another one's tokens are nothing.
        assert!(Tokens::open(Some(directory.path())).unwrap().verified(&token).is_some());
        assert!(Tokens::open(None).unwrap().verified(&token).is_none());
        let parts: Vec<_> = token.split('.').collect();
        let forged = URL_SAFE_NO_PAD.encode(r#"{"sub":"root"}"#);
        assert!(tokens.verified(&format!("{}.{forged}.{}", parts[0], parts[2])).is_none());
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert!(tokens.verified(&format!("{none}.{}.", parts[1])).is_none());
        for broken in ["", "a", "a.b", "a.b.c", "..", &token[1..], &token[..token.len() - 1]] {
            assert!(tokens.verified(broken).is_none(), "{broken}");
        }
    }

    #[test]
    fn the_published_key_is_the_one_that_signs() {
        let tokens = Tokens::open(None).unwrap();
        let keys = tokens.keys();
        let key = &keys["keys"][0];
        let mut point = vec![4];
        for member in ["x", "y"] {
            point.extend(URL_SAFE_NO_PAD.decode(key[member].as_str().unwrap()).unwrap());
        }
        assert_eq!(point, tokens.key.public_key().as_ref());
        assert_eq!(configuration()["jwks_uri"], format!("{ISSUER}/openid/v1/jwks"));
    }
}
