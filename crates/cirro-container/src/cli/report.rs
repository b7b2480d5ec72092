//! Tells errors as runc does: to the log that the caller named, which callers read back, and to standard error.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::error::CliError;
use super::flags::Parsed;

/// Form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

/// Where errors go.
#[derive(Debug)]
pub(super) struct Report {
    log: Option<PathBuf>,
    format: Format,
}

impl Report {
    pub(super) fn of(parsed: &Parsed) -> Result<Self, CliError> {
        let format = match parsed.value("log-format") {
            None | Some("text") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => return Err(CliError::Usage(format!("invalid log-format: {other}"))),
        };
        Ok(Self { log: parsed.value("log").filter(|path| !path.is_empty()).map(PathBuf::from), format })
    }

    /// Plain text on standard error, for errors before the flags are known.
    pub(super) fn standard() -> Self {
        Self { log: None, format: Format::Text }
    }

    /// Tells a fatal error.
    pub(super) fn error(&self, message: &str) {
        self.line("error", message);
        if self.log.is_some() {
            eprintln!("{message}");
        }
    }

    /// Tells what the caller should know and that stops nothing.
    pub(super) fn warning(&self, message: &str) {
        self.line("warning", message);
    }

    fn line(&self, level: &str, message: &str) {
        let mut time = Vec::new();
        crate::log::clock::write_now(&mut time, true);
        let time = String::from_utf8_lossy(&time);
        let line = match self.format {
            Format::Json => {
                serde_json::json!({ "level": level, "msg": message, "time": time }).to_string() + "\n"
            }
            Format::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
        };
        let Some(path) = &self.log else {
            eprint!("{line}");
            return;
        };
        let file = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("write log {}: {error}", path.display());
        }
    }
}
