//! A request with what every handler asks of it.

use std::collections::HashMap;
use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::Query;
use http::{HeaderMap, Method, Request, Uri};

/// Where a request came from, as the server notes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The head of a request.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) peer: Option<SocketAddr>,
    query: HashMap<String, String>,
    /// Every `scope` of a request for a token: it may be repeated.
    pub(crate) scopes: Vec<String>,
}

impl Head {
    /// Takes a request apart.
    pub(crate) fn of(request: Request<Body>) -> (Self, Uri, Body) {
        let (parts, body) = request.into_parts();
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_or_else(|_| Vec::new(), |query| query.0);
        let scopes = pairs.iter().filter(|(key, _)| key == "scope").map(|(_, value)| value.clone()).collect();
        let head = Self {
            method: parts.method,
            headers: parts.headers,
            peer: parts.extensions.get::<Peer>().map(|peer| peer.0),
            query: pairs.into_iter().collect(),
            scopes,
        };
        (head, parts.uri, body)
    }

    /// Returns a parameter of the query.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// Returns a header as text.
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the announced length of the body.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(http::header::CONTENT_LENGTH)?.parse().ok()
    }
}
