//! `/_ping`: every client's first request, from whose headers it learns the API version.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};

/// Answers `OK`.
pub(crate) async fn get() -> Response {
    (headers(), "OK").into_response()
}

/// Answers with the headers alone.
pub(crate) async fn head() -> Response {
    let mut headers = headers();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.into_response()
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let values = [
        ("Cache-Control", "no-cache, no-store, must-revalidate"),
        ("Pragma", "no-cache"),
        ("Content-Type", "text/plain; charset=utf-8"),
        // BuildKit is preferred; what asks for the classic builder gets that.
        ("Builder-Version", "2"),
        ("Swarm", "inactive"),
    ];
    for (name, value) in values {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}
