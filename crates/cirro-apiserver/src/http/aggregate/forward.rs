//! One request to an aggregated server: who asks is said in its head, the answer comes back as it is.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{HOST, HeaderName};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use cirro_seams::api::ApiError;
use http_body::Body as _;
use http_body_util::Limited;

use super::connect::Failure;
use super::{Aggregator, Remote};
use crate::auth::User;
use crate::decode::MAX_BODY;
use crate::error;
use crate::http::answer;
use crate::http::proxy::{forget_identity, is_upgrade, send, strip};
use crate::http::write::body_too_large;
use crate::storage::Storage;

/// How long an answer may take to begin; what it then streams may take longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest head that says who asks.
const MAX_IDENTITY: usize = 64 * 1024;

impl Aggregator {
    /// Carries a user's request to a remote one, and its answer back.
    ///
    /// # Errors
    /// 400 for paths and users that cannot be told, 413 for too large bodies.
    pub(in crate::http) async fn forward(
        &self,
        storage: &Storage,
        user: &User,
        remote: &Remote,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        if !remote.available {
            return Ok(unavailable("service unavailable"));
        }
        let request = prepared(user, remote, request)?;
        let exchange = async {
            let (stream, _) = self.shared.connect(storage, remote).await?;
            send(stream, request).await.map_err(Failure::Unreachable)
        };
        let answered = tokio::time::timeout(PATIENCE, exchange).await;
        match answered.unwrap_or_else(|_| Err(Failure::Unreachable("timed out waiting for an answer".into())))
        {
            Ok(response) => Ok(response),
            // What the client sent was more than it had said.
            Err(Failure::Unreachable(why)) if why.contains("length limit exceeded") => Err(body_too_large()),
            Err(failure) => {
                remote.look.notify_one();
                Ok(match failure {
                    Failure::Nowhere(why) => {
                        tracing::debug!(service = remote.name, why, "an aggregated server cannot be found");
                        unavailable("service unavailable")
                    }
                    Failure::Unreachable(why) => {
                        tracing::debug!(service = remote.name, why, "an aggregated server cannot be reached");
                        unavailable(&format!("error trying to reach service: {why}"))
                    }
                })
            }
        }
    }
}

/// Answers as upstream's aggregator does: in plain text.
fn unavailable(why: &str) -> Response<Body> {
    let mut response = answer::text(format!("{why}\n"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// Turns a request to us into one to the remote server.
fn prepared(user: &User, remote: &Remote, request: Request<Body>) -> Result<Request<Body>, ApiError> {
    let path = request.uri().path();
    // What we authorise and what the other server reads must be the same path.
    if path.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(error::bad_request("the path must not have relative elements"));
    }
    let target = request.uri().path_and_query().map_or(path, PathAndQuery::as_str).to_owned();
    let target = PathAndQuery::try_from(target).map_err(|why| error::bad_request(why.to_string()))?;
    if request.body().size_hint().lower() > MAX_BODY as u64 {
        return Err(body_too_large());
    }
    let upgrades = is_upgrade(request.headers());
    let mut request = match upgrades {
        // The connection goes with the request.
        true => request,
        false => request.map(|body| Body::new(Limited::new(body, MAX_BODY))),
    };
    *request.uri_mut() = Uri::from(target);
    let headers = request.headers_mut();
    forget_identity(headers);
    // Now: what the client says of its connection must not take away what we add.
    strip(headers, upgrades);
    identify(headers, user)?;
    let host = HeaderValue::try_from(remote.service.host());
    headers.insert(HOST, host.map_err(|why| error::internal(why.to_string()))?);
    Ok(request)
}

/// Says who asks.
fn identify(headers: &mut HeaderMap, user: &User) -> Result<(), ApiError> {
    let mut size = 0;
    let mut add = |name: &str, value: &str| {
        size += name.len() + value.len();
        let name = HeaderName::try_from(name).map_err(|why| error::bad_request(why.to_string()))?;
        let value = HeaderValue::from_bytes(value.as_bytes());
        headers.append(name, value.map_err(|why| error::bad_request(why.to_string()))?);
        Ok::<_, ApiError>(())
    };
    add("x-remote-user", &user.name)?;
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid)?;
    }
    for group in &user.groups {
        add("x-remote-group", group)?;
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escaped(key));
        for value in values {
            add(&name, value)?;
        }
    }
    if size > MAX_IDENTITY {
        return Err(error::bad_request("the user's groups and extra values are too long to be told"));
    }
    Ok(())
}

/// Writes a key so that it can be part of a header's name.
fn escaped(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
        if plain {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_told_by_us_alone() {
        let user = User {
            name: "jane".into(),
            uid: "7".into(),
            groups: vec!["a".into(), "b".into()],
            extra: [("example.com/Key".to_owned(), vec!["1".to_owned(), "2".to_owned()])].into(),
        };
        let mut headers = HeaderMap::new();
        for name in ["x-remote-user", "x-remote-group", "x-remote-extra-other", "authorization"] {
            headers.insert(name, HeaderValue::from_static("forged"));
        }
        forget_identity(&mut headers);
        identify(&mut headers, &user).unwrap();
        let all = |name: &str| {
            headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-uid"), ["7"]);
        assert_eq!(all("x-remote-group"), ["a", "b"]);
        assert_eq!(all("x-remote-extra-example.com%2fkey"), ["1", "2"]);
        assert!(!headers.contains_key("authorization") && !headers.contains_key("x-remote-extra-other"));
    }

    #[test]
    fn a_name_that_no_header_can_carry_is_refused() {
        let user = User { name: "a\nx-remote-group: system:masters".into(), ..User::default() };
        assert_eq!(identify(&mut HeaderMap::new(), &user).unwrap_err().code, 400);
    }
}
