//! Health checks: docker's document of one, the image's under the request's, and what a result does to a state.
//!
//! Source: moby `daemon/health.go`, `daemon/commit.go` `merge`, `daemon/container.go` `validateHealthCheck`.

use std::time::Duration;

use cirro_seams::container::{Health, HealthCheck, HealthResult, HealthStatus, HealthTest};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::EngineError;

const MIN_DURATION: i64 = 1_000_000;
const KEPT_RESULTS: usize = 5;
/// Longest output of a check that is kept.
pub(crate) const MAX_OUTPUT: usize = 4096;

/// Docker's document, in requests and in images.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Document {
    test: Option<Vec<String>>,
    interval: i64,
    timeout: i64,
    retries: i64,
    start_period: i64,
    start_interval: i64,
}

/// Reads docker's document of a health check.
///
/// # Errors
/// [`EngineError::Invalid`] in docker's words.
pub fn parse_health_check(document: &Value) -> Result<HealthCheck, EngineError> {
    let document: Document = serde_json::from_value(document.clone())
        .map_err(|error| EngineError::Invalid(format!("invalid Healthcheck: {error}")))?;
    for (name, value) in [
        ("Interval", document.interval),
        ("Timeout", document.timeout),
        ("StartPeriod", document.start_period),
        ("StartInterval", document.start_interval),
    ] {
        if value != 0 && value < MIN_DURATION {
            let text = format!("{name} in Healthcheck cannot be less than 1ms");
            return Err(EngineError::Invalid(text));
        }
    }
    let set = |value: i64| (value != 0).then_some(value);
    Ok(HealthCheck {
        test: parse_test(document.test.unwrap_or_default())?,
        interval: set(document.interval),
        timeout: set(document.timeout),
        retries: match u32::try_from(document.retries) {
            Ok(retries) => (retries != 0).then_some(retries),
            Err(_) => return Err(EngineError::Invalid("Retries in Healthcheck cannot be negative".into())),
        },
        start_period: set(document.start_period),
        start_interval: set(document.start_interval),
    })
}

fn parse_test(words: Vec<String>) -> Result<HealthTest, EngineError> {
    let mut words = words.into_iter();
    let kind = words.next();
    let rest: Vec<String> = words.collect();
    match (kind.as_deref(), rest.len()) {
        (None | Some(""), _) => Ok(HealthTest::Inherit),
        (Some("NONE"), _) => Ok(HealthTest::None),
        (Some("CMD"), 1..) => Ok(HealthTest::Command(rest)),
        (Some("CMD-SHELL"), 1..) => Ok(HealthTest::Shell(rest.join(" "))),
        (Some("CMD" | "CMD-SHELL"), _) => {
            Err(EngineError::Invalid("the test of the Healthcheck has no command".into()))
        }
        (Some(other), _) => {
            Err(EngineError::Invalid(format!("Unknown healthcheck type '{other}' (expected 'CMD')")))
        }
    }
}

/// Writes docker's document of a health check.
pub fn health_check_document(check: &HealthCheck) -> Value {
    let test = match &check.test {
        HealthTest::Inherit => Vec::new(),
        HealthTest::None => vec!["NONE"],
        HealthTest::Command(words) => {
            std::iter::once("CMD").chain(words.iter().map(String::as_str)).collect()
        }
        HealthTest::Shell(line) => vec!["CMD-SHELL", line.as_str()],
    };
    let mut document = json!({ "Test": test });
    for (name, value) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
        ("Retries", check.retries.map(i64::from)),
    ] {
        if let Some(value) = value {
            document[name] = json!(value);
        }
    }
    document
}

/// Puts a request's check over the image's; an image's that cannot be read counts as none.
pub(crate) fn merge(own: Option<&HealthCheck>, image: Option<&Value>) -> Option<HealthCheck> {
    let image = image.and_then(|document| parse_health_check(document).ok());
    let Some(own) = own else { return image };
    let mut merged = own.clone();
    if let Some(image) = image {
        if merged.test == HealthTest::Inherit {
            merged.test = image.test;
        }
        merged.interval = merged.interval.or(image.interval);
        merged.timeout = merged.timeout.or(image.timeout);
        merged.retries = merged.retries.or(image.retries);
        merged.start_period = merged.start_period.or(image.start_period);
        merged.start_interval = merged.start_interval.or(image.start_interval);
    }
    Some(merged)
}

fn or_default(nanoseconds: Option<i64>, default: Duration) -> Duration {
    nanoseconds.and_then(|value| u64::try_from(value).ok()).map_or(default, Duration::from_nanos)
}

/// Returns how long a check may take.
pub(crate) fn timeout(check: &HealthCheck) -> Duration {
    or_default(check.timeout, Duration::from_secs(30))
}

fn start_period(check: &HealthCheck) -> Duration {
    or_default(check.start_period, Duration::ZERO)
}

/// Returns the wait before the next check of a container that has run this long.
pub(crate) fn wait(check: &HealthCheck, status: HealthStatus, ran: Duration) -> Duration {
    if ran < start_period(check) && status == HealthStatus::Starting {
        return or_default(check.start_interval, Duration::from_secs(5));
    }
    or_default(check.interval, Duration::from_secs(30))
}

/// Returns the argument vector of a check; none when nothing is to be run.
pub(crate) fn command(check: &HealthCheck, shell: &[String]) -> Option<Vec<String>> {
    match &check.test {
        HealthTest::Inherit | HealthTest::None => None,
        HealthTest::Command(words) => Some(words.clone()),
        HealthTest::Shell(line) => {
            let default = ["/bin/sh".to_owned(), "-c".to_owned()];
            let shell = if shell.is_empty() { &default[..] } else { shell };
            Some(shell.iter().cloned().chain([line.clone()]).collect())
        }
    }
}

/// The state of a container that has just been started.
pub(crate) fn fresh() -> Health {
    Health { status: HealthStatus::Starting, failing_streak: 0, log: Vec::new() }
}

/// Takes a result in; `ran` is how long the container had run when the check began. Whether the status has changed.
pub(crate) fn take_in(health: &mut Health, check: &HealthCheck, result: HealthResult, ran: Duration) -> bool {
    let before = health.status;
    let failed = result.exit_code != 0;
    if health.log.len() >= KEPT_RESULTS {
        health.log.drain(..=health.log.len() - KEPT_RESULTS);
    }
    health.log.push(result);
    if !failed {
        health.failing_streak = 0;
        health.status = HealthStatus::Healthy;
    } else if health.status != HealthStatus::Starting || ran >= start_period(check) {
        health.failing_streak += 1;
        if health.failing_streak >= check.retries.unwrap_or(3) {
            health.status = HealthStatus::Unhealthy;
        }
    }
    health.status != before
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn result(exit_code: i32) -> HealthResult {
        HealthResult { start: String::new(), end: String::new(), exit_code, output: String::new() }
    }

    #[test]
    fn documents_are_read_and_written() {
        let document = json!({"Test": ["CMD-SHELL", "true"], "Interval": SECOND, "Retries": 2});
        let check = parse_health_check(&document).unwrap();
        assert_eq!(check.test, HealthTest::Shell("true".into()));
        assert_eq!(health_check_document(&check), document);
        assert_eq!(command(&check, &[]).unwrap(), ["/bin/sh", "-c", "true"]);
        assert_eq!(command(&check, &["/bin/ash".into(), "-ec".into()]).unwrap(), ["/bin/ash", "-ec", "true"]);
        let none = parse_health_check(&json!({"Test": ["NONE"]})).unwrap();
        assert_eq!(command(&none, &[]), None);
    }

    #[test]
    fn impossible_checks_are_refused_in_dockers_words() {
        let refusal = |document: Value| parse_health_check(&document).unwrap_err().to_string();
        assert_eq!(refusal(json!({"Interval": 5})), "Interval in Healthcheck cannot be less than 1ms");
        assert_eq!(
            refusal(json!({"StartInterval": -1})),
            "StartInterval in Healthcheck cannot be less than 1ms"
        );
        assert_eq!(refusal(json!({"Retries": -1})), "Retries in Healthcheck cannot be negative");
        assert_eq!(refusal(json!({"Test": ["GUESS"]})), "Unknown healthcheck type 'GUESS' (expected 'CMD')");
        assert!(parse_health_check(&json!({"Test": ["CMD"]})).is_err());
    }

    #[test]
    fn a_request_goes_over_the_image_member_by_member() {
        let image = json!({"Test": ["CMD", "check"], "Interval": 7 * SECOND, "Retries": 9});
        assert_eq!(merge(None, Some(&image)).unwrap().retries, Some(9));
        let own = HealthCheck { retries: Some(1), ..HealthCheck::default() };
        let merged = merge(Some(&own), Some(&image)).unwrap();
        assert_eq!(merged.test, HealthTest::Command(vec!["check".into()]));
        assert_eq!((merged.retries, merged.interval), (Some(1), Some(7 * SECOND)));
        let off = HealthCheck { test: HealthTest::None, ..HealthCheck::default() };
        assert_eq!(merge(Some(&off), Some(&image)).unwrap().test, HealthTest::None);
        assert_eq!(merge(None, Some(&json!({"Test": 5}))), None);
        assert_eq!(merge(None, None), None);
    }

    #[test]
    fn failures_count_in_a_row_and_not_in_the_start_period() {
        let check = HealthCheck {
            retries: Some(2),
            start_period: Some(10 * SECOND),
            start_interval: Some(SECOND),
            ..HealthCheck::default()
        };
        let mut health = fresh();
        let (early, late) = (Duration::from_secs(1), Duration::from_secs(11));
        for _ in 0..3 {
            assert!(!take_in(&mut health, &check, result(1), early));
        }
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Starting, 0));
        assert_eq!(wait(&check, health.status, early), Duration::from_secs(1));
        assert_eq!(wait(&check, health.status, late), Duration::from_secs(30));
        assert!(!take_in(&mut health, &check, result(-1), late));
        assert!(take_in(&mut health, &check, result(1), late));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Unhealthy, 2));
        assert!(take_in(&mut health, &check, result(0), late));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Healthy, 0));
        // Once it was healthy the start period is over.
        assert!(!take_in(&mut health, &check, result(1), early));
        assert_eq!((health.failing_streak, health.log.len()), (1, KEPT_RESULTS));
    }
}
