//! One line of a json-file log, written and read.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::clock::write_now;

/// A line (or a piece of one) of a json-file log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// Whether it is from stderr.
    pub stderr: bool,
    /// The bytes, line end included when there was one.
    pub line: Bytes,
    /// What was noted with it.
    pub attributes: BTreeMap<String, String>,
}

/// Appends one entry in docker's form, escaped as Go's encoder does it. `attributes` is a JSON object, or nothing.
pub(super) fn write_entry(text: &mut Vec<u8>, line: &[u8], stderr: bool, attributes: &str) {
    text.extend_from_slice(b"{\"log\":\"");
    escape(text, line);
    text.extend_from_slice(if stderr { b"\",\"stream\":\"stderr\"" } else { b"\",\"stream\":\"stdout\"" });
    if !attributes.is_empty() {
        text.extend_from_slice(b",\"attrs\":");
        text.extend_from_slice(attributes.as_bytes());
    }
    text.extend_from_slice(b",\"time\":\"");
    write_now(text, true);
    text.extend_from_slice(b"\"}\n");
}

fn escape(text: &mut Vec<u8>, line: &[u8]) {
    for chunk in line.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => text.extend_from_slice(b"\\\""),
                '\\' => text.extend_from_slice(b"\\\\"),
                '\n' => text.extend_from_slice(b"\\n"),
                '\r' => text.extend_from_slice(b"\\r"),
                '\t' => text.extend_from_slice(b"\\t"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escape_code(text, character),
                character if character < ' ' => escape_code(text, character),
                character => text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            // JSON cannot carry bytes that are no text.
            text.extend_from_slice(b"\\ufffd");
        }
    }
}

fn escape_code(text: &mut Vec<u8>, character: char) {
    text.extend_from_slice(format!("\\u{:04x}", character as u32).as_bytes());
}

#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    log: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    stream: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    time: std::borrow::Cow<'a, str>,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// Reads one line of the file; `None` for one that is torn or foreign.
pub(super) fn read_entry(line: &[u8]) -> Option<LogEntry> {
    let stored: Stored<'_> = serde_json::from_slice(line).ok()?;
    Some(LogEntry {
        time: nine_digits(&stored.time),
        stderr: stored.stream == "stderr",
        line: Bytes::from(stored.log.into_owned()),
        attributes: stored.attrs,
    })
}

/// Fills the fraction of a second up to nine digits, as docker prints times.
fn nine_digits(time: &str) -> String {
    let Some(body) = time.strip_suffix('Z') else { return time.to_owned() };
    let (seconds, fraction) = body.split_once('.').unwrap_or((body, ""));
    format!("{seconds}.{fraction:0<9}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_dockers_form_and_reads_back() {
        let mut text = Vec::new();
        write_entry(&mut text, b"a \"b\" <c>\t\x01\xff\n", true, "");
        let text = String::from_utf8(text).expect("text");
        let head =
            "{\"log\":\"a \\\"b\\\" \\u003cc\\u003e\\t\\u0001\\ufffd\\n\",\"stream\":\"stderr\",\"time\":\"2";
        assert!(text.starts_with(head), "{text}");
        assert!(text.ends_with("Z\"}\n"));
        let entry = read_entry(text.trim_end().as_bytes()).expect("entry");
        assert_eq!(entry.line, "a \"b\" <c>\t\u{1}\u{fffd}\n".as_bytes());
        assert!(entry.stderr);
        assert_eq!(entry.time.len(), 30);
    }

    #[test]
    fn attributes_stand_before_the_time_and_read_back() {
        let mut text = Vec::new();
        write_entry(&mut text, b"x\n", false, r#"{"tag":"t"}"#);
        let head = b"{\"log\":\"x\\n\",\"stream\":\"stdout\",\"attrs\":{\"tag\":\"t\"},\"time\":\"";
        assert!(text.starts_with(head));
        let entry = read_entry(text.trim_ascii_end()).expect("entry");
        assert_eq!(entry.attributes, BTreeMap::from([("tag".to_owned(), "t".to_owned())]));
    }

    #[test]
    fn torn_lines_are_no_entries() {
        assert_eq!(read_entry(b"{\"log\":\"a"), None);
    }
}
