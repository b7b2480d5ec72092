//! Wall-clock times as docker writes them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns nanoseconds since 1970.
pub(crate) fn nanoseconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Returns the time as RFC 3339 with nanoseconds, in UTC.
pub(crate) fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

/// Returns the seconds between two RFC 3339 times; nothing when one is malformed or they run backwards.
pub(crate) fn seconds_between(from: &str, to: &str) -> Option<f64> {
    let from: jiff::Timestamp = from.parse().ok()?;
    let to: jiff::Timestamp = to.parse().ok()?;
    let seconds = to.duration_since(from).as_secs_f64();
    (seconds >= 0.0).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_has_nine_digits_and_is_in_utc() {
        let now = now();
        assert!(now.ends_with('Z') && now.len() == "2024-01-01T00:00:00.000000000Z".len(), "{now}");
    }

    #[test]
    fn times_that_run_backwards_have_no_distance() {
        assert_eq!(seconds_between("2024-01-01T00:00:00Z", "2024-01-01T00:00:01.5Z"), Some(1.5));
        assert_eq!(seconds_between("2024-01-01T00:00:01Z", "2024-01-01T00:00:00Z"), None);
        assert_eq!(seconds_between("soon", "2024-01-01T00:00:00Z"), None);
    }
}
