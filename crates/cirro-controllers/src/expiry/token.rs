//! Bootstrap tokens live until the time that they name.
//!
//! Source: `pkg/controller/bootstrap/tokencleaner.go`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cirro_client::{namespace, text};
use jiff::Timestamp;
use serde_json::Value;

use super::Life;

pub(super) fn life(secret: &Value, now: Timestamp) -> Life {
    if text(secret, "/type") != "bootstrap.kubernetes.io/token" || namespace(secret) != "kube-system" {
        return Life::Endless;
    }
    let encoded = text(secret, "/data/expiration");
    if encoded.is_empty() {
        return Life::Endless;
    }
    let end = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    // A time that cannot be read is over, as it is for who would use the token.
    match end.and_then(|end| end.trim().parse::<Timestamp>().ok()) {
        Some(end) => Life::until(end, now),
        None => Life::Over,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_end_when_they_say() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let token = |end: &str| {
            json!({"type": "bootstrap.kubernetes.io/token", "metadata": {"namespace": "kube-system"},
                "data": {"expiration": STANDARD.encode(end)}})
        };
        assert_eq!(life(&token("2025-12-31T23:59:59Z"), now), Life::Over);
        assert!(matches!(life(&token("2026-01-01T00:01:00Z"), now), Life::Left(_)));
        assert_eq!(life(&token("soon"), now), Life::Over);
        assert_eq!(life(&json!({"type": "Opaque"}), now), Life::Endless);
    }
}
