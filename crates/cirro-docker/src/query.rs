//! Query parameters as dockerd reads them.

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;

use crate::error::ApiError;

/// The query of a request, in the order it was written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(pub(crate) Vec<(String, String)>);

impl Params {
    /// Returns the first value of `name`, empty values included.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the first value of `name` unless it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Returns every value of `name`.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Reads a switch: everything is true but nothing, `0`, `no`, `false` and `none`.
    ///
    /// Source: moby `api/server/httputils/form.go`, `BoolValue`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// Reads a switch that has a default of its own when the parameter is missing.
    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        match self.get(name) {
            None => default,
            Some(value) => {
                !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
            }
        }
    }

    /// Reads a number, absent when the parameter is missing or empty.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        match self.text(name) {
            None => Ok(None),
            Some(value) => match value.trim().parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => {
                    Err(ApiError::invalid(format!("invalid value for {name}: `{value}` is not a number")))
                }
            },
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|error| ApiError::invalid(format!("invalid query: {error}")))?;
        Ok(Self(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn switches_are_read_as_dockerd_reads_them() {
        for (value, expected) in [
            ("1", true),
            ("true", true),
            ("yes", true),
            ("0", false),
            ("False", false),
            ("none", false),
            ("", false),
        ] {
            assert_eq!(params(&[("force", value)]).flag("force"), expected, "{value}");
        }
        assert!(!params(&[]).flag("force"));
        assert!(params(&[]).flag_or("stream", true));
    }

    #[test]
    fn a_number_that_is_none_is_refused_by_name() {
        let error = params(&[("t", "soon")]).number::<i64>("t").unwrap_err();
        assert_eq!(error.message, "invalid value for t: `soon` is not a number");
        assert_eq!(params(&[("t", "-1")]).number::<i64>("t"), Ok(Some(-1)));
        assert_eq!(params(&[("t", "")]).number::<i64>("t"), Ok(None));
    }
}
