//! Requests to what pods, services and nodes serve: `.../proxy/PATH`.
//!
//! ```text
//! name of the path ─▶ locate: an address ─▶ the node's seam: a connection ─▶ forward: the request, the answer
//! ```
//! Source: `pkg/registry/core/{pod,service,node}`, apimachinery `util/proxy`.

mod forward;
mod locate;
mod node;
mod tls;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, LOCATION};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use cirro_seams::api::ApiError;

use super::Call;
use crate::error;

pub(in crate::http) use forward::{is_upgrade, send, strip};
pub(in crate::http) use locate::reachable;
pub(in crate::http) use tls::Unverified;

/// What a request is to be answered by.
enum Location {
    /// A server at an address.
    Address(std::net::SocketAddr, Scheme),
    /// The kubelet of a node.
    Kubelet(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Call {
    /// Carries a request to a server behind an object, and its answer back.
    pub(super) async fn proxy(&self, mut request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let location = self.locate().await?;
        let (prefix, rest) = split(request.uri());
        if rest.is_empty() && !forward::is_upgrade(request.headers()) {
            return Ok(with_slash(request.uri()));
        }
        let (address, scheme) = match location {
            Location::Kubelet(name) => return self.kubelet(&name, &rest, request.method()).await,
            Location::Address(address, scheme) => (address, scheme),
        };
        prepare(&mut request, &prefix, &rest)?;
        let host = host_of(request.headers());
        let reach = |why: String| error::unavailable(format!("error trying to reach service: {why}"));
        let stream =
            self.server.node_streams()?.connect(address).await.map_err(|why| reach(why.to_string()))?;
        let sent = match scheme {
            Scheme::Http => forward::send(stream, request).await,
            Scheme::Https => match tls::connect(stream, address.ip()).await {
                Ok(stream) => forward::send(stream, request).await,
                Err(why) => Err(why),
            },
        };
        let mut response = sent.map_err(reach)?;
        rewrite_location(response.headers_mut(), &prefix, &address.to_string(), &host);
        Ok(response)
    }
}

/// Splits a path after the word `proxy`: what is before goes to us, what is after to the server behind.
fn split(uri: &Uri) -> (String, String) {
    let path = uri.path();
    // `/api/v1/namespaces/X/pods/Y/proxy` has seven words, `/api/v1/nodes/Y/proxy` five; Y may be called proxy too.
    let words = if path.split('/').nth(3) == Some("namespaces") { 7 } else { 5 };
    let end = path.split('/').take(words + 1).map(|word| word.len() + 1).sum::<usize>().saturating_sub(1);
    let (prefix, rest) = path.split_at(end.min(path.len()));
    (prefix.to_owned(), rest.to_owned())
}

/// Returns what a path says to the server behind, without the slash that begins it.
pub(in crate::http) fn behind(uri: &Uri) -> String {
    split(uri).1.trim_start_matches('/').to_owned()
}

/// Sends a client to the same path with a slash at its end, so that relative references work.
fn with_slash(uri: &Uri) -> Response<Body> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Turns a request to us into one to the server behind: its path, and nothing that says who asks.
fn prepare(request: &mut Request<Body>, prefix: &str, rest: &str) -> Result<(), ApiError> {
    let rest = if rest.is_empty() { "/" } else { rest };
    let target = match request.uri().query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    let target = PathAndQuery::try_from(target).map_err(|why| error::bad_request(why.to_string()))?;
    *request.uri_mut() = Uri::from(target);
    let headers = request.headers_mut();
    forget_identity(headers);
    if let Ok(value) = HeaderValue::from_str(&format!("{prefix}{rest}")) {
        headers.insert("x-forwarded-uri", value);
    }
    Ok(())
}

/// Takes out what proves or claims to be somebody.
pub(in crate::http) fn forget_identity(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    // Some servers take an underscore for a dash.
    let claims = |name: &str| {
        let name = name.replace('_', "-");
        name.starts_with("impersonate-") || name.starts_with("x-remote-")
    };
    let names: Vec<_> = headers.keys().filter(|name| claims(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn host_of(headers: &HeaderMap) -> String {
    headers.get("host").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// Puts our part of the path before a redirect to the same server.
fn rewrite_location(headers: &mut HeaderMap, prefix: &str, server: &str, host: &str) {
    let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else { return };
    let Some(rewritten) = rewritten(location, prefix, server, host) else { return };
    if let Ok(value) = HeaderValue::from_str(&rewritten) {
        headers.insert(LOCATION, value);
    }
}

fn rewritten(location: &str, prefix: &str, server: &str, host: &str) -> Option<String> {
    let path = match location.split_once("://") {
        None if location.starts_with("//") => return None,
        None => location,
        Some((_, rest)) => {
            let (of, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let default_port = server.strip_suffix(":80").or(server.strip_suffix(":443")).unwrap_or(server);
            if of != server && of != host && of != default_port {
                return None;
            }
            if path.is_empty() { "/" } else { path }
        }
    };
    if !path.starts_with('/') || path.starts_with(prefix) {
        return None;
    }
    Some(format!("{prefix}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_cut_after_our_word() {
        let cut = |text: &str| split(&text.parse().unwrap());
        let pod = "/api/v1/namespaces/x/pods/proxy/proxy";
        assert_eq!(cut(&format!("{pod}/a/proxy/b?c=d")), (pod.into(), "/a/proxy/b".into()));
        assert_eq!(cut(pod), (pod.into(), String::new()));
        let node = "/api/v1/nodes/n:80/proxy";
        assert_eq!(cut(&format!("{node}/")), (node.into(), "/".into()));
    }

    #[test]
    fn redirects_to_the_same_server_stay_with_us() {
        let rewrite = |location| rewritten(location, "/p/proxy", "10.0.0.1:80", "api:6443");
        assert_eq!(rewrite("/login?next=1"), Some("/p/proxy/login?next=1".into()));
        assert_eq!(rewrite("http://10.0.0.1:80/x"), Some("/p/proxy/x".into()));
        assert_eq!(rewrite("http://10.0.0.1"), Some("/p/proxy/".into()));
        assert_eq!(rewrite("https://api:6443/x"), Some("/p/proxy/x".into()));
        assert_eq!(rewrite("http://elsewhere/x"), None);
        assert_eq!(rewrite("//elsewhere/x"), None);
        assert_eq!(rewrite("next"), None);
        assert_eq!(rewrite("/p/proxy/x"), None);
    }

    #[test]
    fn nobody_behind_learns_who_asks() {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "impersonate-user", "x-remote-group", "x_remote_user", "accept"] {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        forget_identity(&mut headers);
        assert_eq!(headers.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn an_empty_path_gets_its_slash() {
        let response = with_slash(&"/api/v1/nodes/n/proxy?a=b".parse().unwrap());
        assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
        assert_eq!(response.headers()[LOCATION], "/api/v1/nodes/n/proxy/?a=b");
    }
}
