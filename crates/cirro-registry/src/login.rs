//! Passwords: kept as PBKDF2 hashes, compared in constant time, and not computed anew for every request.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD as BASE64, URL_SAFE_NO_PAD as BASE64_URL};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{hmac, pbkdf2};

const SCHEME: &str = "pbkdf2-sha256";
/// What OWASP advises for PBKDF2 with SHA-256.
const ITERATIONS: u32 = 600_000;
const MAX_ITERATIONS: u32 = 10_000_000;
const BYTES: usize = 32;
/// How long a password that was right is known to be.
const REMEMBERED: Duration = Duration::from_secs(300);
const MAX_REMEMBERED: usize = 1024;
/// Longest identity token that is looked at.
const MAX_IDENTITY: usize = 4096;

/// Hashes a password for the configuration file.
pub fn hash_password(password: &str) -> String {
    let mut salt = [0; 16];
    SystemRandom::new().fill(&mut salt).expect("the kernel has random bytes");
    let mut hash = [0; BYTES];
    let iterations = NonZeroU32::new(ITERATIONS).expect("it is not zero");
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut hash);
    format!("{SCHEME}:{ITERATIONS}:{}:{}", BASE64.encode(salt), BASE64.encode(hash))
}

/// Whether a text is what [`hash_password`] gives.
pub(crate) fn is_hash(text: &str) -> bool {
    parse(text).is_some()
}

fn parse(text: &str) -> Option<(NonZeroU32, Vec<u8>, Vec<u8>)> {
    let mut parts = text.split(':');
    let (scheme, iterations) = (parts.next()?, parts.next()?.parse::<NonZeroU32>().ok()?);
    let (salt, hash) = (BASE64.decode(parts.next()?).ok()?, BASE64.decode(parts.next()?).ok()?);
    let is_sound = scheme == SCHEME
        && parts.next().is_none()
        && hash.len() == BYTES
        && iterations.get() <= MAX_ITERATIONS;
    is_sound.then_some((iterations, salt, hash))
}

/// Checks passwords.
pub(crate) struct Passwords {
    hashes: HashMap<String, String>,
    /// Proofs of passwords that were right, under a key that only this process has.
    remembered: Mutex<HashMap<Vec<u8>, Instant>>,
    key: hmac::Key,
    /// Compared against when there is no such user, so that the answer takes as long.
    nobody: String,
}

impl Passwords {
    pub(crate) fn new(hashes: HashMap<String, String>) -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("the kernel has random bytes");
        let iterations = hashes.values().filter_map(|hash| parse(hash)).map(|parsed| parsed.0.get()).max();
        let iterations = iterations.unwrap_or(ITERATIONS);
        let nobody =
            format!("{SCHEME}:{iterations}:{}:{}", BASE64.encode([0; 16]), BASE64.encode([0; BYTES]));
        Self { hashes, remembered: Mutex::default(), key, nobody }
    }

    /// Whether there is anybody.
    pub(crate) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Makes what a user may show instead of the password, until that changes; `None` when there is no such user.
    ///
    /// Its key is the password's hash, so nothing is kept and a restart forgets nothing.
    pub(crate) fn identity_token(&self, name: &str) -> Option<String> {
        let proof = BASE64_URL.encode(hmac::sign(&self.identity_key(name)?, name.as_bytes()));
        Some(format!("{}.{proof}", BASE64_URL.encode(name)))
    }

    /// Returns whose identity token it is, if it is one of ours and still good.
    pub(crate) fn check_identity(&self, token: &str) -> Option<String> {
        let (name, proof) = token.split_once('.').filter(|_| token.len() <= MAX_IDENTITY)?;
        let name = String::from_utf8(BASE64_URL.decode(name).ok()?).ok()?;
        let proof = BASE64_URL.decode(proof).ok()?;
        hmac::verify(&self.identity_key(&name)?, name.as_bytes(), &proof).ok()?;
        Some(name)
    }

    fn identity_key(&self, name: &str) -> Option<hmac::Key> {
        let hash = self.hashes.get(name)?;
        Some(hmac::Key::new(hmac::HMAC_SHA256, format!("cirro identity token {hash}").as_bytes()))
    }

    /// Whether a name and password fit. Blocks for a fifth of a second the first time.
    pub(crate) fn check(&self, name: &str, password: &str) -> bool {
        let proof =
            hmac::sign(&self.key, format!("{}:{name}{password}", name.len()).as_bytes()).as_ref().to_vec();
        let lock = || self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().get(&proof).is_some_and(|since| since.elapsed() < REMEMBERED) {
            return true;
        }
        let known = self.hashes.get(name);
        let Some((iterations, salt, hash)) = parse(known.unwrap_or(&self.nobody)) else { return false };
        let fits =
            pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &hash).is_ok();
        let right = fits && known.is_some();
        if right {
            let mut remembered = lock();
            remembered.retain(|_, since| since.elapsed() < REMEMBERED);
            if remembered.len() < MAX_REMEMBERED {
                remembered.insert(proof, Instant::now());
            }
        }
        right
    }
}

/// Reads an `Authorization: Basic` header's credentials.
pub(crate) fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, credentials) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || credentials.len() > 4096 {
        return None;
    }
    let padding = |c| c == '=' || c == ' ';
    let text = String::from_utf8(BASE64.decode(credentials.trim().trim_end_matches(padding)).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `secret`, cheap.
    const HASH: &str = "pbkdf2-sha256:1:BwcHBwcHBwcHBwcHBwcHBw:cxxer4Iqi9zTqJVHRecZxAoVB12ZzXwJ813RD6ATZS0";

    #[test]
    fn only_the_right_password_of_a_known_user_fits() {
        let passwords = Passwords::new([("ci".to_owned(), HASH.to_owned())].into());
        assert!(passwords.check("ci", "secret") && passwords.check("ci", "secret"));
        assert!(
            !passwords.check("ci", "Secret") && !passwords.check("c", "isecret") && !passwords.check("x", "")
        );
        assert!(is_hash(HASH) && !is_hash("x") && !is_hash("pbkdf2-sha256:0:AA:AA"));
    }

    #[test]
    fn an_identity_token_is_good_until_the_password_changes() {
        let of = |hash: &str| Passwords::new([("ci".to_owned(), hash.to_owned())].into());
        let token = of(HASH).identity_token("ci").unwrap();
        // Made anew by another process, and known there.
        assert_eq!(of(HASH).check_identity(&token).as_deref(), Some("ci"));
        assert_eq!(of(&HASH.replace(":1:", ":2:")).check_identity(&token), None);
        assert_eq!(of(HASH).identity_token("eve"), None);
        let (name, proof) = token.split_once('.').unwrap();
        for forged in
            [String::new(), name.to_owned(), format!("{name}."), format!("ZXZl.{proof}"), format!("{token}x")]
        {
            assert_eq!(of(HASH).check_identity(&forged), None, "{forged}");
        }
    }

    #[test]
    fn credentials_are_read_with_and_without_padding() {
        let pair = Some(("a".to_owned(), "b:c".to_owned()));
        assert_eq!(basic("Basic YTpiOmM="), pair);
        assert_eq!(basic("basic YTpiOmM"), pair);
        for text in ["", "Basic", "Basic ???", "Bearer YTpiOmM=", "Basic YQ=="] {
            assert_eq!(basic(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic(text in ".{0,60}") {
            let _ = basic(&text);
            let _ = is_hash(&text);
        }
    }
}
