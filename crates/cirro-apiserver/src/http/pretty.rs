//! JSON with line breaks, for people: when asked by `pretty`, and for the tools that people use by hand.
//!
//! Source: apiserver `pkg/endpoints/handlers/negotiation/negotiate.go`, `isPrettyPrint`.

use axum::body::{Body, HttpBody as _};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT};
use axum::http::{Request, Response};
use http_body_util::BodyExt as _;

use super::answer;
use super::query::Query;
use crate::error;

/// Tools that show answers as they come.
const TOOLS: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];
/// A longer answer goes out as it is.
const MAX_BYTES: u64 = 16 << 20;

/// Whether the answer is for a person.
pub(super) fn is_wanted(request: &Request<Body>) -> bool {
    if request.uri().query().is_some_and(|query| query.contains("pretty")) {
        match Query::parse(request.uri()).unwrap_or_default().get("pretty") {
            "" => {}
            given => return matches!(given, "1" | "t" | "T" | "true" | "TRUE" | "True"),
        }
    }
    let agent = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok());
    agent.is_some_and(|agent| TOOLS.iter().any(|tool| agent.starts_with(tool)))
}

/// Breaks the lines of an answer that is one whole JSON document.
pub(super) async fn broken(response: Response<Body>) -> Response<Body> {
    let is_json = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|media_type| media_type.as_bytes().starts_with(b"application/json"));
    let whole = response.body().size_hint().exact().is_some_and(|length| length <= MAX_BYTES);
    if !is_json || !whole {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => {
            parts.headers.remove(CONTENT_LENGTH);
            Response::from_parts(parts, Body::from(indented(&body.to_bytes())))
        }
        Err(source) => answer::refusal(&error::internal(source.to_string())),
    }
}

/// Indents a JSON text by two, as Go's encoder does; what is in strings stays.
fn indented(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    for (at, &byte) in text.iter().enumerate() {
        if in_string {
            out.push(byte);
            in_string = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b'"' => {
                in_string = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                if !matches!(text.get(at + 1), Some(b'}' | b']')) {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                if !matches!(out.last(), Some(b'{' | b'[')) {
                    depth = depth.saturating_sub(1);
                    line(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b' ' | b'\n' | b'\r' | b'\t' => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_outside_strings_only() {
        let text = r#"{"a":[1,{"b":"x,\"{}:[]\\"}],"c":{},"d":[]}"#;
        let pretty = String::from_utf8(indented(text.as_bytes())).unwrap();
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(pretty, serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(indented(pretty.as_bytes()), pretty.as_bytes());
    }

    #[test]
    fn people_are_known_by_their_tools() {
        let request = |uri: &str, agent: &str| {
            let request = Request::builder().uri(uri).header(USER_AGENT, agent);
            is_wanted(&request.body(Body::empty()).unwrap())
        };
        assert!(request("/api", "curl/7.88.1") && request("/api?pretty=true", "kubectl/v1.33"));
        assert!(!request("/api?pretty=false", "curl/7.88.1") && !request("/api", "kubectl/v1.33"));
    }
}
