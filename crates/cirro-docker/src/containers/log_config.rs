//! `HostConfig.LogConfig`: where a container's output goes and what is noted with each line.
//!
//! Source: moby `daemon/logger/factory.go`, `jsonfilelog/jsonfilelog.go`, `local/local.go`.

use cirro_seams::container::LogConfig;
use cirro_types::parse_byte_size;

use super::request;
use crate::error::ApiError;

const JSON_FILE: &str = "json-file";
const LOCAL: &str = "local";

/// Reads the driver and its options.
pub(super) fn parse(wanted: &request::LogConfig) -> Result<LogConfig, ApiError> {
    let mut log = LogConfig::default();
    let driver = match wanted.kind.as_str() {
        "" | JSON_FILE => JSON_FILE,
        // The same files as json-file's, with dockerd's limits for this driver.
        LOCAL => {
            (log.max_size, log.max_files) = (20 << 20, 5);
            LOCAL
        }
        "none" => {
            log.keep = false;
            return Ok(log);
        }
        other => return Err(ApiError::not_supported(format!("the log driver {other}"))),
    };
    check_mode(wanted)?;
    for (name, value) in &wanted.config {
        match name.as_str() {
            "mode" | "max-buffer-size" => (),
            _ => set(&mut log, driver, name, value)?,
        }
    }
    Ok(log)
}

/// A supervisor writes every line before it reads the next one; a buffer that may lose lines is not there.
fn check_mode(wanted: &request::LogConfig) -> Result<(), ApiError> {
    match wanted.config.get("mode").map_or("", String::as_str) {
        "" | "blocking" if wanted.config.contains_key("max-buffer-size") => Err(ApiError::invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        )),
        "" | "blocking" => Ok(()),
        "non-blocking" => Err(ApiError::not_supported("the log option mode=non-blocking")),
        other => Err(ApiError::invalid(format!("logger: logging mode not supported: {other}"))),
    }
}

fn set(log: &mut LogConfig, driver: &str, name: &str, value: &str) -> Result<(), ApiError> {
    let invalid = || ApiError::invalid(format!("invalid value for log option {name}: {value}"));
    let list = || value.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let text = || Some(value.to_owned()).filter(|text| !text.is_empty());
    let attributes = &mut log.attributes;
    match (name, driver) {
        ("max-size", _) if value == "-1" => log.max_size = 0,
        ("max-size", _) => log.max_size = parse_byte_size(value).ok_or_else(invalid)?,
        ("max-file", _) => {
            log.max_files = value.parse().ok().filter(|files| *files > 0).ok_or_else(invalid)?;
        }
        // How `local` stores what it has is its own affair.
        ("compress", _) => match go_bool(value).ok_or_else(invalid)? {
            true if driver == JSON_FILE => {
                return Err(ApiError::not_supported("the log option compress=true"));
            }
            _ => (),
        },
        ("labels", JSON_FILE) => attributes.labels = list(),
        ("labels-regex", JSON_FILE) => attributes.labels_pattern = text(),
        ("env", JSON_FILE) => attributes.env = list(),
        ("env-regex", JSON_FILE) => attributes.env_pattern = text(),
        ("tag", JSON_FILE) => attributes.tag = text(),
        (_, JSON_FILE) => {
            return Err(ApiError::invalid(format!("unknown log opt '{name}' for json-file log driver")));
        }
        _ => return Err(ApiError::invalid(format!("unknown log opt '{name}' for log driver {driver}"))),
    }
    Ok(())
}

/// Reads a switch as Go's `strconv.ParseBool` does; nothing is off.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(kind: &str, options: &[(&str, &str)]) -> Result<LogConfig, ApiError> {
        let config = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        parse(&request::LogConfig { kind: kind.into(), config: config.collect() })
    }

    #[test]
    fn sizes_have_units() {
        let log = parsed("local", &[("max-size", "1m"), ("max-file", "2"), ("compress", "true")]).unwrap();
        assert_eq!((log.max_size, log.max_files), (1 << 20, 2));
    }

    #[test]
    fn attributes_are_lists_and_patterns() {
        let options =
            [("labels", "a,b"), ("env-regex", "^X"), ("tag", "{{.Name}}"), ("mode", "blocking"), ("env", "")];
        let attributes = parsed("", &options).unwrap().attributes;
        assert_eq!(attributes.labels, ["a", "b"]);
        assert_eq!(attributes.env_pattern.as_deref(), Some("^X"));
        assert_eq!((attributes.tag.as_deref(), attributes.env.len()), (Some("{{.Name}}"), 0));
    }

    #[test]
    fn what_is_not_there_is_refused_in_dockers_words() {
        for (kind, option, status, text) in [
            ("local", ("labels", "a"), 400, "unknown log opt 'labels' for log driver local"),
            ("json-file", ("colour", "a"), 400, "unknown log opt 'colour' for json-file log driver"),
            ("json-file", ("mode", "odd"), 400, "logger: logging mode not supported: odd"),
            (
                "json-file",
                ("mode", "non-blocking"),
                501,
                "the log option mode=non-blocking is not supported yet",
            ),
            ("json-file", ("compress", "true"), 501, "the log option compress=true is not supported yet"),
            (
                "json-file",
                ("max-buffer-size", "1m"),
                400,
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
        ] {
            let error = parsed(kind, &[option]).unwrap_err();
            assert_eq!((error.status.as_u16(), error.message.as_str()), (status, text));
        }
        assert!(!parsed("none", &[("whatever", "x")]).unwrap().keep);
    }
}
