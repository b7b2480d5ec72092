//! Events live an hour after they were last seen.

use std::time::Duration;

use cirro_client::text;
use jiff::Timestamp;
use serde_json::Value;

use super::Life;

const LIFE: Duration = Duration::from_secs(3600);

pub(super) fn life(event: &Value, now: Timestamp) -> Life {
    let times = ["/lastTimestamp", "/series/lastObservedTime", "/eventTime", "/metadata/creationTimestamp"];
    let times = times.iter().filter_map(|pointer| text(event, pointer).parse::<Timestamp>().ok());
    let Some(last) = times.max() else { return Life::Over };
    // A clock that went back makes nothing older than it is.
    let age = now.duration_since(last).unsigned_abs();
    LIFE.checked_sub(age).filter(|left| !left.is_zero()).map_or(Life::Over, Life::Left)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_lives_an_hour_after_it_was_last_seen() {
        let event = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "lastTimestamp": "2026-01-01T00:30:00Z"});
        let at = |time: &str| life(&event, time.parse().unwrap());
        assert_eq!(at("2026-01-01T01:00:00Z"), Life::Left(Duration::from_secs(1800)));
        assert_eq!(at("2026-01-01T01:30:00Z"), Life::Over);
        assert_eq!(life(&json!({}), Timestamp::UNIX_EPOCH), Life::Over);
    }
}
