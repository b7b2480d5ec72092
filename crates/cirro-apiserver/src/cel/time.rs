//! Durations and timestamps.

use jiff::{SignedDuration, Timestamp};

use super::eval::{Found, fail};
use super::value::Cel;

pub(super) const NAMES: [&str; 10] = [
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];

/// Reads a duration as Go writes it: `1h30m`, `1.5s`, `-2ms`.
pub(super) fn duration(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut nanos = 0i128;
    if rest.is_empty() || rest.len() > 64 {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, after) = rest.split_at(digits);
        let letters = after.chars().take_while(|letter| letter.is_alphabetic()).map(char::len_utf8).sum();
        let (unit, left) = after.split_at(letters);
        let unit: i128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        nanos = nanos.checked_add(whole.checked_mul(unit)?)?;
        if !fraction.is_empty() {
            let fraction = &fraction[..fraction.len().min(18)];
            nanos += fraction.parse::<i128>().ok()? * unit / 10i128.pow(fraction.len() as u32);
        }
        rest = left;
    }
    (nanos <= i128::from(i64::MAX)).then_some(if negative { -nanos } else { nanos })
}

/// Writes a duration in seconds, as CEL does.
pub(super) fn written(nanos: i128) -> String {
    let text = format!(
        "{}{}.{:09}",
        if nanos < 0 { "-" } else { "" },
        nanos.abs() / 1_000_000_000,
        nanos.abs() % 1_000_000_000
    );
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Adds and subtracts times and durations.
pub(super) fn arithmetic(operator: &str, one: &Cel, other: &Cel) -> Option<Found> {
    let moved = |time: &Timestamp, nanos: i128| {
        let span = i64::try_from(nanos).ok().map(SignedDuration::from_nanos);
        match span.and_then(|span| time.checked_add(span).ok()) {
            Some(time) => Some(Ok(Cel::Timestamp(time))),
            None => Some(fail("range")),
        }
    };
    match (operator, one, other) {
        ("+", Cel::Duration(one), Cel::Duration(other)) => Some(Ok(Cel::Duration(one + other))),
        ("-", Cel::Duration(one), Cel::Duration(other)) => Some(Ok(Cel::Duration(one - other))),
        ("+", Cel::Timestamp(time), Cel::Duration(nanos))
        | ("+", Cel::Duration(nanos), Cel::Timestamp(time)) => moved(time, *nanos),
        ("-", Cel::Timestamp(time), Cel::Duration(nanos)) => moved(time, -nanos),
        ("-", Cel::Timestamp(one), Cel::Timestamp(other)) => {
            Some(Ok(Cel::Duration(one.as_nanosecond() - other.as_nanosecond())))
        }
        _ => None,
    }
}

/// Calls a function of times; `None` when it is none.
pub(super) fn call(target: Option<&Cel>, name: &str, args: &[Cel]) -> Option<Found> {
    match (target, name, args) {
        (None, "duration", [Cel::Duration(_)]) | (None, "timestamp", [Cel::Timestamp(_)]) => {
            Some(Ok(args[0].clone()))
        }
        (None, "duration", [Cel::Text(text)]) => Some(match duration(text) {
            Some(nanos) => Ok(Cel::Duration(nanos)),
            None => fail(format!("time: invalid duration {text:?}")),
        }),
        (None, "timestamp", [Cel::Text(text)]) => Some(match text.parse() {
            Ok(time) => Ok(Cel::Timestamp(time)),
            Err(_) => fail(format!("parsing time {text:?}")),
        }),
        (None, "timestamp", [Cel::Int(seconds)]) => Some(match Timestamp::from_second(*seconds) {
            Ok(time) => Ok(Cel::Timestamp(time)),
            Err(_) => fail("range"),
        }),
        (Some(Cel::Duration(nanos)), _, []) => {
            let unit = match name {
                "getHours" => 3_600_000_000_000,
                "getMinutes" => 60_000_000_000,
                "getSeconds" => 1_000_000_000,
                "getMilliseconds" => return Some(Ok(Cel::Int((nanos / 1_000_000 % 1000) as i64))),
                _ => return None,
            };
            Some(Ok(Cel::Int((nanos / unit) as i64)))
        }
        (Some(Cel::Timestamp(time)), _, []) => part(time, name),
        _ => None,
    }
}

/// Returns a part of a time in UTC.
fn part(time: &Timestamp, name: &str) -> Option<Found> {
    let time = time.to_zoned(jiff::tz::TimeZone::UTC);
    Some(Ok(Cel::Int(match name {
        "getFullYear" => time.year().into(),
        "getMonth" => i64::from(time.month()) - 1,
        "getDate" => time.day().into(),
        "getDayOfMonth" => i64::from(time.day()) - 1,
        "getDayOfWeek" => time.weekday().to_sunday_zero_offset().into(),
        "getDayOfYear" => i64::from(time.day_of_year()) - 1,
        "getHours" => time.hour().into(),
        "getMinutes" => time.minute().into(),
        "getSeconds" => time.second().into(),
        "getMilliseconds" => time.millisecond().into(),
        _ => return None,
    })))
}
