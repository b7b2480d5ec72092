//! Times as docker writes them: Go's RFC 3339, seconds with a fraction, and words for people.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use crate::error::ApiError;

/// Go's zero time, which stands for "never" in docker's JSON.
pub(crate) const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

const NANOSECONDS: i64 = 1_000_000_000;

/// Parses an RFC 3339 time; none when it is malformed.
pub(crate) fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Returns seconds since 1970 of an RFC 3339 time; 0 when it is malformed.
pub(crate) fn unix_seconds(text: &str) -> i64 {
    parse_rfc3339(text).map_or(0, Timestamp::as_second)
}

/// Writes a time with exactly nine digits of fraction, as `docker logs -t` shows it.
pub(crate) fn fixed_nanoseconds(text: &str) -> String {
    match parse_rfc3339(text) {
        Some(time) => format!("{time:.9}"),
        None => text.to_owned(),
    }
}

/// Writes seconds since 1970 as RFC 3339.
pub(crate) fn rfc3339_of_seconds(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| ZERO_TIME.to_owned(), |time| time.to_string())
}

/// Returns now in nanoseconds since 1970.
pub(crate) fn now_nanoseconds() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Reads a `since` or `until` (`1136073600`, `1136073600.000000001` or RFC 3339) as nanoseconds since 1970;
/// none when it is absent, empty or 0.
pub(crate) fn moment(name: &str, text: Option<&str>) -> Result<Option<i64>, ApiError> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty() && *text != "0") else {
        return Ok(None);
    };
    let invalid = || ApiError::invalid(format!("invalid value for {name}: `{text}` is not a timestamp"));
    if let Some(time) = parse_rfc3339(text) {
        return i64::try_from(time.as_nanosecond()).map(Some).map_err(|_| invalid());
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| invalid())?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let nanoseconds: i64 =
        if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().map_err(|_| invalid())? };
    let whole = seconds.checked_mul(NANOSECONDS).and_then(|whole| whole.checked_add(nanoseconds));
    whole.map(Some).ok_or_else(invalid)
}

/// Reads the `until` of a prune: a moment, or how long ago in Go's words (`24h`, `1h30m`).
pub(crate) fn prune_until(text: Option<&str>) -> Result<Option<i64>, ApiError> {
    match text.and_then(go_duration) {
        Some(ago) => Ok(Some(now_nanoseconds().saturating_sub(ago))),
        None => moment("until", text),
    }
}

/// Parses a duration of Go in nanoseconds; whole numbers with `h`, `m`, `s` and `ms` only.
fn go_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = rest.split_at(digits);
        let unit_length = unit.len() - unit.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, next) = unit.split_at(unit_length);
        let nanoseconds = match unit {
            "h" => 3600 * NANOSECONDS,
            "m" => 60 * NANOSECONDS,
            "s" => NANOSECONDS,
            "ms" => NANOSECONDS / 1000,
            _ => return None,
        };
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(nanoseconds)?)?;
        rest = next;
    }
    (!text.is_empty()).then_some(total)
}

/// Turns nanoseconds since 1970 into a system time.
pub(crate) fn system_time(nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    let time = match nanoseconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(distance),
        _ => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Says how long ago an RFC 3339 time was: `5 minutes`.
pub(crate) fn since_then(text: &str) -> String {
    let seconds = parse_rfc3339(text).map_or(0, |time| Timestamp::now().duration_since(time).as_secs());
    human_duration(seconds)
}

/// Says how long a time is.
///
/// Source: docker/go-units `duration.go`, `HumanDuration`.
pub(crate) fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (..1, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, ..48) => format!("{hours} hours"),
        (_, _, ..336) => format!("{} days", hours / 24),
        (_, _, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_come_as_seconds_with_a_fraction_or_as_rfc_3339() {
        assert_eq!(moment("since", Some("1136073600.000000001")), Ok(Some(1_136_073_600_000_000_001)));
        assert_eq!(moment("since", Some("12.5")), Ok(Some(12_500_000_000)));
        assert_eq!(moment("since", Some("2006-01-01T00:00:00Z")), Ok(Some(1_136_073_600_000_000_000)));
        assert_eq!(moment("since", Some("0")), Ok(None));
        assert_eq!(moment("since", None), Ok(None));
        for text in ["yesterday", "1.x", "1.0000000001", "99999999999999999999"] {
            assert!(moment("since", Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_prune_takes_durations_too() {
        assert_eq!(go_duration("1h30m"), Some(5400 * NANOSECONDS));
        assert_eq!(go_duration("500ms"), Some(NANOSECONDS / 2));
        for text in ["", "h", "5", "5d", "1h-", "99999999999999h"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
        assert_eq!(prune_until(Some("12")), Ok(Some(12 * NANOSECONDS)));
        assert!(prune_until(Some("24h")).unwrap().unwrap() < now_nanoseconds());
    }

    #[test]
    fn durations_are_said_as_docker_says_them() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (3000, "50 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3 * 86400, "3 days"),
            (15 * 86400, "2 weeks"),
            (90 * 86400, "3 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), words);
        }
    }

    #[test]
    fn log_times_have_nine_digits() {
        assert_eq!(fixed_nanoseconds("2024-05-01T10:00:00.12Z"), "2024-05-01T10:00:00.120000000Z");
    }
}
