//! Random identities and the time as objects carry them.

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};

/// Letters of generated names: no vowels and no look-alikes, as upstream's.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

/// Returns a new random uid (UUID version 4).
pub(crate) fn uid() -> String {
    let mut bytes: [u8; 16] = random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

/// Returns the five letters that are put after `metadata.generateName`.
pub(crate) fn suffix() -> String {
    random::<5>().iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// Returns a random number below `bound`, which is not 0.
pub(crate) fn below(bound: u32) -> u32 {
    u32::from_le_bytes(random()) % bound
}

/// Returns the present time as `metadata.creationTimestamp` has it: whole seconds, UTC.
pub(crate) fn now() -> String {
    seconds(Timestamp::now())
}

/// Writes a time in whole seconds.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Writes a time in microseconds (`MicroTime`).
pub(crate) fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_version_4_and_differ() {
        let (one, other) = (uid(), uid());
        assert_ne!(one, other);
        assert_eq!((one.len(), &one[14..15]), (36, "4"));
        assert!(matches!(&one[19..20], "8" | "9" | "a" | "b"));
    }

    #[test]
    fn times_have_upstreams_form() {
        let time: Timestamp = "2024-02-29T01:02:03.004005006Z".parse().unwrap();
        assert_eq!(seconds(time), "2024-02-29T01:02:03Z");
        assert_eq!(micros(time), "2024-02-29T01:02:03.004005Z");
    }
}
