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
            (log.max_size, log.max_files, log.compress) = (20 << 20, 5, true);
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
    if log.compress && log.max_files < 2 {
        let default = !wanted.config.contains_key("compress");
        let text = "compress cannot be true when max-file is less than 2 or max-size is not set";
        if !default {
            return Err(ApiError::invalid(text));
        }
        log.compress = false;
    }
    Ok(log)
}

/// A log is a file, which takes a line at once or loses it (when the disk is full): no workload waits for it in either mode, and
/// there is nothing that a buffer would have to hold.
fn check_mode(wanted: &request::LogConfig) -> Result<(), ApiError> {
    match wanted.config.get("mode").map_or("", String::as_str) {
        "" | "blocking" if wanted.config.contains_key("max-buffer-size") => Err(ApiError::invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        )),
        "" | "blocking" => Ok(()),
        "non-blocking" => match wanted.config.get("max-buffer-size") {
            Some(size) if parse_byte_size(size).is_none() => Err(ApiError::invalid(format!(
                "error parsing option max-buffer-size: invalid size: '{size}'"
            ))),
            _ => Ok(()),
        },
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
        ("compress", _) => log.compress = go_bool(value).ok_or_else(invalid)?,
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
        assert_eq!((log.max_size, log.max_files, log.compress), (1 << 20, 2, true));
        assert!(!parsed("json-file", &[]).unwrap().compress);
        assert!(!parsed("local", &[("max-file", "1")]).unwrap().compress);
        assert!(parsed("json-file", &[("compress", "true")]).unwrap().compress);
        parsed("json-file", &[("mode", "non-blocking"), ("max-buffer-size", "4m")]).unwrap();
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
            ("json-file", ("compress", "odd"), 400, "invalid value for log option compress: odd"),
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
        let one_file = parsed("json-file", &[("max-file", "1"), ("compress", "true")]).unwrap_err();
        assert!(one_file.message.starts_with("compress cannot be true when max-file is less than 2"));
        let odd = parsed("json-file", &[("mode", "non-blocking"), ("max-buffer-size", "much")]).unwrap_err();
        assert!(odd.message.starts_with("error parsing option max-buffer-size"));
        assert!(!parsed("none", &[("whatever", "x")]).unwrap().keep);
    }
}
