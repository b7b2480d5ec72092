//! API versions: the `/v1.NN` prefix and what is refused about it.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};

use crate::error::ApiError;

/// The oldest minor version (of major version 1) that is served.
pub(crate) const MIN_MINOR: u32 = 41;
/// The newest minor version that is served.
pub(crate) const MAX_MINOR: u32 = 51;

/// The API version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ApiVersion {
    /// Minor version; the major one is always 1.
    pub(crate) minor: u32,
}

impl ApiVersion {
    /// The newest version: what a path without a prefix means.
    pub(crate) const NEWEST: Self = Self { minor: MAX_MINOR };
}

impl<S: Send + Sync> FromRequestParts<S> for ApiVersion {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or(Self::NEWEST))
    }
}

/// Takes the version prefix off a URI.
///
/// # Errors
/// 400 with docker's text when the version is not served.
pub(crate) fn strip(uri: &Uri) -> Result<(ApiVersion, Uri), ApiError> {
    let Some((version, rest)) = split(uri.path()) else {
        return Ok((ApiVersion::NEWEST, uri.clone()));
    };
    let served = check(version)?;
    let path = match uri.query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    let path = PathAndQuery::try_from(path).map_err(|_| ApiError::invalid("invalid path"))?;
    Ok((served, Uri::from(path)))
}

/// Splits `/v1.50/rest` into `1.50` and `/rest`.
fn split(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v")?;
    let (version, _) = rest.split_once('/')?;
    let digits = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    digits.then(|| (version, &rest[version.len()..]))
}

fn check(version: &str) -> Result<ApiVersion, ApiError> {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let number = |text: &str| -> Result<u32, ApiError> {
        let digits = text.split('.').next().unwrap_or_default();
        digits.parse().map_err(|_| ApiError::invalid(format!("invalid API version {version}")))
    };
    let asked = (number(major)?, number(minor)?);
    if asked > (1, MAX_MINOR) {
        return Err(ApiError::invalid(format!(
            "client version {version} is too new. Maximum supported API version is 1.{MAX_MINOR}"
        )));
    }
    if asked < (1, MIN_MINOR) {
        return Err(ApiError::invalid(format!(
            "client version {version} is too old. Minimum supported API version is 1.{MIN_MINOR}, \
             please upgrade your client to a newer version"
        )));
    }
    Ok(ApiVersion { minor: asked.1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(path: &str) -> Result<(u32, String), String> {
        match strip(&path.parse().unwrap()) {
            Ok((version, uri)) => Ok((version.minor, uri.to_string())),
            Err(error) => Err(error.message),
        }
    }

    #[test]
    fn the_prefix_is_taken_off_and_the_query_stays() {
        assert_eq!(stripped("/v1.44/containers/json?all=1"), Ok((44, "/containers/json?all=1".into())));
        assert_eq!(stripped("/containers/json"), Ok((MAX_MINOR, "/containers/json".into())));
        assert_eq!(stripped("/volumes/v1.44/x"), Ok((MAX_MINOR, "/volumes/v1.44/x".into())));
    }

    #[test]
    fn versions_that_are_not_served_get_dockers_text() {
        assert_eq!(
            stripped("/v1.99/info"),
            Err("client version 1.99 is too new. Maximum supported API version is 1.51".into())
        );
        assert!(stripped("/v2.0/info").unwrap_err().contains("too new"));
        assert!(
            stripped("/v1.24/info").unwrap_err().contains("too old. Minimum supported API version is 1.41")
        );
        assert!(stripped("/v1/info").unwrap_err().contains("too old"));
        assert!(stripped("/v1.99999999999/info").unwrap_err().contains("invalid API version"));
    }
}
