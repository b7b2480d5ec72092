//! `GET /containers/{name}/logs`.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use cirro_container::{LogEntry, LogQuery};
use futures_util::StreamExt;

use crate::Face;
use crate::error::ApiError;
use crate::frame::{Stream, Wanted};
use crate::line_stream;
use crate::query::Params;
use crate::time;
use crate::version::ApiVersion;

/// Streams a container's log.
pub(crate) async fn logs(
    State(face): State<Face>,
    Path(name): Path<String>,
    version: ApiVersion,
    params: Params,
) -> Result<Response, ApiError> {
    let wanted_streams = (params.flag("stdout"), params.flag("stderr"));
    if wanted_streams == (false, false) {
        return Err(ApiError::invalid("Bad parameters: you must choose at least one stream"));
    }
    let query = query(&params)?;
    let container = face.engine.container(&name)?;
    if !container.spec.log.keep {
        let message = "configured logging driver does not support reading".into();
        return Err(ApiError { status: http::StatusCode::NOT_IMPLEMENTED, message });
    }
    let wanted = Wanted { tty: container.spec.tty, stdout: wanted_streams.0, stderr: wanted_streams.1 };
    let style = Style { timestamps: params.flag("timestamps"), details: params.flag("details") };
    let entries = face.engine.container_logs(&container.id, query).await?;
    let pieces = line_stream::received(entries).filter_map(move |entry| {
        let stream = if entry.stderr { Stream::Stderr } else { Stream::Stdout };
        std::future::ready(wanted.encode_stream(stream, style.apply(entry)).map(Ok))
    });
    Ok(line_stream::flowing(&face, wanted.content_type(version.minor), pieces))
}

fn query(params: &Params) -> Result<LogQuery, ApiError> {
    let moment = |name: &str| Ok::<_, ApiError>(time::moment(name, params.get(name))?.map(time::system_time));
    // `all`, nothing and what is no number all mean everything, as in dockerd.
    let tail = params.text("tail").and_then(|tail| tail.parse().ok());
    Ok(LogQuery { tail, since: moment("since")?, until: moment("until")?, follow: params.flag("follow") })
}

/// What is put before each line.
#[derive(Debug, Clone, Copy)]
struct Style {
    timestamps: bool,
    details: bool,
}

impl Style {
    fn apply(self, entry: LogEntry) -> Bytes {
        if !self.timestamps && !self.details {
            return entry.line;
        }
        let mut line = BytesMut::with_capacity(entry.line.len() + 40);
        if self.timestamps {
            line.extend_from_slice(time::fixed_nanoseconds(&entry.time).as_bytes());
            line.extend_from_slice(b" ");
        }
        if self.details {
            line.extend_from_slice(details(&entry.attributes).as_bytes());
            line.extend_from_slice(b" ");
        }
        line.extend_from_slice(&entry.line);
        line.freeze()
    }
}

/// Writes what was noted with a line, as Go writes a query's parts.
fn details(attributes: &BTreeMap<String, String>) -> String {
    let pairs = attributes.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
    pairs.collect::<Vec<_>>().join(",")
}

/// Source: Go `net/url`, `QueryEscape`.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            b' ' => escaped.push('+'),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_details_stand_before_the_line() {
        let mut entry = LogEntry {
            time: "2024-05-01T10:00:00.5Z".into(),
            stderr: false,
            line: "hello\n".into(),
            attributes: BTreeMap::new(),
        };
        let styled = |timestamps, details| Style { timestamps, details }.apply(entry.clone());
        assert_eq!(styled(false, false), "hello\n");
        assert_eq!(styled(true, false), "2024-05-01T10:00:00.500000000Z hello\n");
        assert_eq!(styled(true, true), "2024-05-01T10:00:00.500000000Z  hello\n");
        entry.attributes =
            [("tag", "a b"), ("os", "x/é")].map(|(name, value)| (name.into(), value.into())).into();
        let style = Style { timestamps: false, details: true };
        assert_eq!(style.apply(entry), "os=x%2F%C3%A9,tag=a+b hello\n");
    }

    #[test]
    fn a_tail_that_is_no_number_means_everything() {
        let tail = |text: &str| query(&Params(vec![("tail".into(), text.into())])).unwrap().tail;
        assert_eq!((tail("all"), tail(""), tail("5"), tail("-1")), (None, None, Some(5), None));
    }
}
