//! Short-lived tokens: what their holder may do, signed with a key that only this process has.
//!
//! After a restart clients are sent for new ones, which they do by themselves.
//! Source: distribution, "Token Authentication Specification" and "Scope Documentation".

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use cirro_image::distribution::RepositoryName;
use ring::hmac;
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};

use crate::config::Action;

/// How long a token is good.
pub(crate) const LIFETIME: Duration = Duration::from_secs(300);
const MAX_TOKEN: usize = 16 << 10;
/// Scopes in one token.
const MAX_SCOPES: usize = 32;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// Who; `None` for somebody without a name.
    pub(crate) user: Option<String>,
    /// Whether it was asked for from the loopback.
    pub(crate) loopback: bool,
    /// Until when, seconds since 1970.
    pub(crate) expires: u64,
    /// What.
    pub(crate) access: Vec<Scope>,
}

/// Actions with one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scope {
    pub(crate) repository: RepositoryName,
    pub(crate) actions: Vec<String>,
}

impl Scope {
    /// Reads `repository:<name>:<actions>`; other kinds of resources are not ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (name, actions) = text.strip_prefix("repository:")?.rsplit_once(':')?;
        let actions =
            actions.split(',').filter(|action| !action.is_empty()).take(8).map(str::to_owned).collect();
        Some(Self { repository: name.parse().ok()?, actions })
    }

    /// Reads the `scope` parameters of a request.
    pub(crate) fn parse_all(texts: &[String]) -> Vec<Self> {
        texts.iter().flat_map(|text| text.split(' ')).filter_map(Self::parse).take(MAX_SCOPES).collect()
    }

    /// Whether it has an action; `*` is all of them.
    pub(crate) fn has(&self, action: Action) -> bool {
        self.actions.iter().any(|own| own == "*" || own == action.name())
    }
}

/// Signs and checks tokens.
pub(crate) struct Signer(hmac::Key);

impl Signer {
    pub(crate) fn new() -> Self {
        Self(
            hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
                .expect("the kernel has random bytes"),
        )
    }

    /// Makes a token.
    pub(crate) fn sign(&self, claims: &Claims) -> String {
        let payload = BASE64.encode(serde_json::to_vec(claims).expect("claims have string keys"));
        let signature = BASE64.encode(hmac::sign(&self.0, payload.as_bytes()));
        format!("{payload}.{signature}")
    }

    /// Reads a token that is ours and still good.
    pub(crate) fn check(&self, token: &str) -> Option<Claims> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (payload, signature) = token.split_once('.')?;
        hmac::verify(&self.0, payload.as_bytes(), &BASE64.decode(signature).ok()?).ok()?;
        let claims: Claims = serde_json::from_slice(&BASE64.decode(payload).ok()?).ok()?;
        (claims.expires > seconds(SystemTime::now())).then_some(claims)
    }
}

/// Returns when a token made now ends.
pub(crate) fn expiry() -> u64 {
    seconds(SystemTime::now() + LIFETIME)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(expires: u64) -> Claims {
        let access = vec![Scope::parse("repository:a/b:pull,push").unwrap()];
        Claims { user: Some("ci".into()), loopback: false, expires, access }
    }

    #[test]
    fn a_token_is_good_until_it_ends_and_only_with_its_signature() {
        let signer = Signer::new();
        let token = signer.sign(&claims(expiry()));
        assert_eq!(signer.check(&token).unwrap(), claims(signer.check(&token).unwrap().expires));
        assert!(signer.check(&signer.sign(&claims(1))).is_none());
        assert!(Signer::new().check(&token).is_none());
        let (payload, signature) = token.split_once('.').unwrap();
        assert!(signer.check(&format!("{payload}x.{signature}")).is_none());
        assert!(signer.check("").is_none() && signer.check("a.b").is_none());
    }

    #[test]
    fn scopes_are_read_as_clients_write_them() {
        let scope = Scope::parse("repository:a/b:pull,push").unwrap();
        assert!(scope.has(Action::Pull) && scope.has(Action::Push) && !scope.has(Action::Delete));
        assert!(Scope::parse("repository:a:*").unwrap().has(Action::Delete));
        for text in ["", "repository", "registry:catalog:*", "repository:A:pull"] {
            assert!(Scope::parse(text).is_none(), "{text}");
        }
        let both = ["repository:a:pull repository:b:push".to_owned(), "x".to_owned()];
        assert_eq!(Scope::parse_all(&both).len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn no_scope_and_no_token_makes_it_panic(text in ".{0,80}") {
            let _ = Scope::parse(&text);
            let _ = Signer::new().check(&text);
        }
    }
}
