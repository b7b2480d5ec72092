//! Signing requests live an hour after they were decided, or a day undecided.
//!
//! Source: `pkg/controller/certificates/cleaner/cleaner.go`.

use cirro_client::text;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::Life;

const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

pub(super) fn life(request: &Value, now: Timestamp) -> Life {
    let conditions = request.pointer("/status/conditions").and_then(Value::as_array);
    let conditions = conditions.map(Vec::as_slice).unwrap_or_default();
    let (since, allowed) = match conditions.iter().filter_map(decided).min() {
        Some(since) => (Some(since), DECIDED),
        None if conditions.is_empty() => {
            (text(request, "/metadata/creationTimestamp").parse::<Timestamp>().ok(), PENDING)
        }
        None => (None, PENDING),
    };
    match since.and_then(|since| since.checked_add(allowed).ok()) {
        Some(end) => Life::until(end, now),
        None => Life::Endless,
    }
}

fn decided(condition: &Value) -> Option<Timestamp> {
    let decides = matches!(text(condition, "/type"), "Approved" | "Denied" | "Failed");
    let time = ["/lastUpdateTime", "/lastTransitionTime"].into_iter().map(|path| text(condition, path));
    decides.then(|| time.into_iter().find_map(|time| time.parse().ok()))?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn requests_go_when_nobody_waits_for_them_any_more() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let pending = |made: &str| life(&json!({"metadata": {"creationTimestamp": made}, "status": {}}), now);
        assert_eq!(pending("2026-01-01T00:00:00Z"), Life::Over);
        assert_eq!(pending("2026-01-01T12:00:00Z"), Life::Left(Duration::from_secs(12 * 3600)));
        let decided = |word: &str, at: &str| {
            life(&json!({"status": {"conditions": [{"type": word, "lastUpdateTime": at}]}}), now)
        };
        assert_eq!(decided("Approved", "2026-01-01T23:30:00Z"), Life::Left(Duration::from_secs(1800)));
        assert_eq!(decided("Denied", "2026-01-01T22:30:00Z"), Life::Over);
    }
}
