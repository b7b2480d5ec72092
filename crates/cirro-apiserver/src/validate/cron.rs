//! Schedules of cron jobs, in the five fields or the short words of robfig's cron.

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// One field of a schedule.
struct Field {
    low: u32,
    high: u32,
    /// Names of the values, the first one for the lowest.
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { low: 0, high: 59, names: &[] },
    Field { low: 0, high: 23, names: &[] },
    Field { low: 1, high: 31, names: &[] },
    Field { low: 1, high: 12, names: &MONTHS },
    Field { low: 0, high: 6, names: &DAYS },
];

/// Says what is wrong with a schedule.
pub(crate) fn check(schedule: &str) -> Result<(), String> {
    // A zone before the fields is another check's.
    let rest = match schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ=")) {
        Some(rest) => rest.split_once(' ').map(|(_, rest)| rest).unwrap_or_default(),
        None => schedule,
    };
    if let Some(word) = rest.strip_prefix('@') {
        return descriptor(word, rest);
    }
    let parts: Vec<&str> = rest.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    }
    for (part, field) in parts.iter().zip(&FIELDS) {
        part.split(',').try_for_each(|range| field.check(range))?;
    }
    Ok(())
}

fn descriptor(word: &str, text: &str) -> Result<(), String> {
    let words = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
    let duration = |text: &str| {
        !text.is_empty() && text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with(['s', 'm', 'h'])
    };
    if words.contains(&word) || word.strip_prefix("every ").is_some_and(duration) {
        return Ok(());
    }
    Err(format!("unrecognized descriptor: {text}"))
}

impl Field {
    fn check(&self, range: &str) -> Result<(), String> {
        let (base, step) = match range.split_once('/') {
            Some((base, step)) => (base, Some(step)),
            None => (range, None),
        };
        if let Some(step) = step
            && self.number(step)? == 0
        {
            return Err(format!("step of range should be a positive number: {range}"));
        }
        if base == "*" || base == "?" {
            return Ok(());
        }
        let (low, high) = match base.split_once('-') {
            Some((low, high)) => (self.value(low)?, self.value(high)?),
            None => (self.value(base)?, self.value(base)?),
        };
        match () {
            () if low < self.low => {
                Err(format!("beginning of range ({low}) below minimum ({}): {range}", self.low))
            }
            () if high > self.high => {
                Err(format!("end of range ({high}) above maximum ({}): {range}", self.high))
            }
            () if low > high => {
                Err(format!("beginning of range ({low}) beyond end of range ({high}): {range}"))
            }
            () => Ok(()),
        }
    }

    fn value(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_lowercase();
        match self.names.iter().position(|name| *name == lower) {
            Some(at) => Ok(self.low + at as u32),
            None => self.number(text),
        }
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        text.parse().map_err(|_| {
            format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_of_cron_are_good() {
        for good in ["* * * * *", "*/5 0-6 1,15 jan-mar MON", "@hourly", "@every 5m", "0 0 ? * 6"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn nonsense_is_told() {
        for (bad, why) in [
            ("x", "expected exactly 5 fields, found 1: [x]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(check(bad), Err(why.to_owned()), "{bad}");
        }
    }
}
