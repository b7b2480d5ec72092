//! Times as the log and the API write them.

use std::io::Write;

/// Now, as RFC 3339 in UTC with nine digits of nanoseconds.
pub(crate) fn now() -> String {
    let mut text = Vec::with_capacity(30);
    write_now(&mut text, false);
    String::from_utf8(text).expect("digits and punctuation")
}

/// Appends the time; `trimmed` leaves trailing zeros of the fraction out, as Go's RFC3339Nano does.
pub(crate) fn write_now(text: &mut Vec<u8>, trimmed: bool) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    write_time(text, now.tv_sec, now.tv_nsec as u32, trimmed);
}

fn write_time(text: &mut Vec<u8>, seconds: i64, nanoseconds: u32, trimmed: bool) {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let _ = write!(text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if !trimmed || nanoseconds > 0 {
        let _ = write!(text, ".{nanoseconds:09}");
        while trimmed && text.last() == Some(&b'0') {
            text.pop();
        }
    }
    text.push(b'Z');
}

/// Days since 1970-01-01 to a date of the Gregorian calendar.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seconds: i64, nanoseconds: u32, trimmed: bool) -> String {
        let mut bytes = Vec::new();
        write_time(&mut bytes, seconds, nanoseconds, trimmed);
        String::from_utf8(bytes).expect("ascii")
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        assert_eq!(text(0, 0, true), "1970-01-01T00:00:00Z");
        assert_eq!(text(1_709_208_000, 120_000_000, true), "2024-02-29T12:00:00.12Z");
        assert_eq!(text(1_709_208_000, 120_000_000, false), "2024-02-29T12:00:00.120000000Z");
        assert_eq!(text(951_782_400, 1, true), "2000-02-29T00:00:00.000000001Z");
    }

    #[test]
    fn dates_agree_with_a_calendar_library() {
        for days in (-200_000..200_000).step_by(97) {
            let theirs = jiff::civil::date(1970, 1, 1) + jiff::Span::new().days(days);
            let (year, month, day) = civil(days);
            assert_eq!((year as i16, month as i8, day as i8), (theirs.year(), theirs.month(), theirs.day()));
        }
    }
}
