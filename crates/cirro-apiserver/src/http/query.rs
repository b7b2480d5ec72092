//! Query parameters.

use axum::extract::Query as Pairs;
use axum::http::Uri;
use cirro_seams::api::ApiError;

use crate::error;

/// The parameters of a request, in order.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// What becomes of members that the schema does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// They are dropped silently.
    Ignore,
    /// They are dropped with a warning.
    Warn,
    /// The request is refused.
    Strict,
}

impl Query {
    /// Reads the parameters of a URI.
    pub(crate) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let pairs = Pairs::<Vec<(String, String)>>::try_from_uri(uri);
        pairs.map(|Pairs(pairs)| Self(pairs)).map_err(|why| error::bad_request(why.to_string()))
    }

    /// Returns a parameter; empty when it is absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// Returns a parameter that may be given many times.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// Replaces a parameter.
    pub(crate) fn set(&mut self, name: &str, values: impl IntoIterator<Item = String>) {
        self.0.retain(|(key, _)| key != name);
        self.0.extend(values.into_iter().map(|value| (name.to_owned(), value)));
    }

    /// Whether a parameter is set to true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1" | "True" | "TRUE" | "t")
    }

    /// Returns a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => {
                let refuse = |_| error::bad_request(format!("unable to decode parameter {name}: {text:?}"));
                text.parse().map(Some).map_err(refuse)
            }
        }
    }

    /// Whether nothing is to be kept.
    pub(crate) fn dry_run(&self) -> Result<bool, ApiError> {
        match self.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(error::unprocessable(format!(
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
        }
    }

    /// Returns what becomes of unknown members: warnings when the client does not say.
    pub(crate) fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        match self.get("fieldValidation") {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(error::unprocessable(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}
