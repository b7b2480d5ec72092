//! How a whole answer is written down: indented, as YAML, compressed, or not at all when the client has it already.
//!
//! Everything else writes compact JSON; this is the last step before the connection. Streams pass untouched.

use std::io::Write as _;

use axum::body::Body;
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue,
    IF_NONE_MATCH, USER_AGENT, VARY,
};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::{answer, negotiate};
use crate::error;

mod pretty;
mod yaml;

/// Answers above this are compressed when the client takes that (upstream's threshold).
const COMPRESS_ABOVE: u64 = 128 << 10;
/// Answers above this are neither indented nor written as YAML: both are for people.
const READABLE: u64 = 4 << 20;
/// What people read answers with; upstream indents for the same.
const READERS: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

/// What a request said about the writing of its answer.
pub(super) struct Wishes {
    get: bool,
    gzip: bool,
    yaml: bool,
    pretty: bool,
    known: Option<String>,
}

impl Wishes {
    /// Reads the head of a request.
    pub(super) fn of(request: &Request<Body>) -> Self {
        let headers = request.headers();
        Self {
            get: request.method() == Method::GET,
            gzip: words(headers, ACCEPT_ENCODING).any(|one| one == "gzip"),
            yaml: negotiate::yaml_first(headers),
            pretty: pretty_wanted(request.uri(), headers),
            known: headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).map(str::to_owned),
        }
    }

    /// Writes an answer the way that was asked for.
    pub(super) async fn grant(self, response: Response<Body>) -> Response<Body> {
        if self.has(&response) {
            return not_modified(response);
        }
        // Another server's, written down already.
        if response.headers().contains_key(CONTENT_ENCODING) {
            return response;
        }
        let Some(size) = response.body().size_hint().exact() else {
            return if self.yaml && is_json(&response) { streams_are_json() } else { response };
        };
        let rewrites = (self.yaml || self.pretty) && size <= READABLE && is_json(&response);
        let compresses =
            self.gzip && self.get && size > COMPRESS_ABOVE && response.status() == StatusCode::OK;
        if !rewrites && !compresses {
            return response;
        }
        let (mut head, body) = response.into_parts();
        let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        head.headers.remove(CONTENT_LENGTH);
        if rewrites && self.yaml {
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
        }
        if compresses {
            head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            head.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        let written = tokio::task::spawn_blocking(move || {
            let bytes = if rewrites { self.rewrite(bytes) } else { bytes };
            if compresses { compressed(&bytes) } else { bytes }
        });
        Response::from_parts(head, Body::from(written.await.expect("writing an answer does not panic")))
    }

    /// Whether the client has the document that this answer brings.
    fn has(&self, response: &Response<Body>) -> bool {
        let (Some(known), Some(tag)) = (&self.known, response.headers().get(ETAG)) else { return false };
        let Ok(tag) = tag.to_str() else { return false };
        self.get && response.status() == StatusCode::OK && known.split(',').any(|one| one.trim() == tag)
    }

    fn rewrite(&self, bytes: Bytes) -> Bytes {
        if !self.yaml {
            return pretty::indented(&bytes).into();
        }
        match serde_json::from_slice(&bytes) {
            Ok(value) => yaml::text(&value).into(),
            Err(_) => bytes,
        }
    }
}

fn words(headers: &HeaderMap, name: axum::http::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn pretty_wanted(uri: &Uri, headers: &HeaderMap) -> bool {
    let query = uri.query().unwrap_or_default();
    if let Some(said) = query.split('&').find_map(|pair| pair.strip_prefix("pretty=")) {
        return matches!(said, "1" | "t" | "T" | "true" | "True" | "TRUE");
    }
    if words(headers, ACCEPT).any(|one| one.split(';').any(|part| part.trim() == "pretty=1")) {
        return true;
    }
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    READERS.iter().any(|reader| agent.starts_with(reader))
}

fn is_json(response: &Response<Body>) -> bool {
    let media_type = response.headers().get(CONTENT_TYPE);
    media_type.is_some_and(|media_type| media_type.as_bytes() == b"application/json")
}

fn streams_are_json() -> Response<Body> {
    answer::refusal(&error::not_acceptable())
}

fn not_modified(response: Response<Body>) -> Response<Body> {
    let (mut head, _) = response.into_parts();
    head.status = StatusCode::NOT_MODIFIED;
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(CONTENT_TYPE);
    Response::from_parts(head, Body::empty())
}

fn compressed(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it").into()
}
