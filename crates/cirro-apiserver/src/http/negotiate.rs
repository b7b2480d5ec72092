//! What form the client wants its answer in.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use cirro_seams::api::ApiError;

use crate::error;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

/// The form of an answer; how it is written down is `encode`'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accept {
    /// The objects as they are.
    Json,
    /// A Table of this version of `meta.k8s.io`.
    Table(&'static str),
    /// `PartialObjectMetadata` or a list of them.
    Metadata,
    /// Only protobuf, which this server does not write: a refusal unless the answer is a stream.
    Foreign,
}

impl Accept {
    /// Chooses the first form in `Accept` that there is.
    pub(crate) fn parse(headers: &HeaderMap) -> Result<Self, ApiError> {
        let wanted: Vec<&str> = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .collect();
        if wanted.is_empty() {
            return Ok(Self::Json);
        }
        Ok(wanted.iter().find_map(|wanted| form(wanted)).unwrap_or(Self::Foreign))
    }

    /// Refuses what this server does not write.
    pub(crate) fn writable(self) -> Result<Self, ApiError> {
        if self == Self::Foreign { Err(error::not_acceptable()) } else { Ok(self) }
    }
}

/// Refuses who takes an object in another form only, such as a Table, where there is none.
pub(crate) fn plain(headers: &HeaderMap) -> Result<(), ApiError> {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let forms: Vec<_> =
        accepts.flat_map(|value| value.split(',')).map(|wanted| form(wanted.trim())).collect();
    match forms.is_empty() || forms.contains(&Some(Accept::Json)) {
        true => Ok(()),
        false => Err(error::not_acceptable()),
    }
}

fn form(wanted: &str) -> Option<Accept> {
    let mut parts = wanted.split(';').map(str::trim);
    let media = parts.next()?;
    if !matches!(media, JSON | YAML | "application/*" | "*/*") {
        return None;
    }
    let parameters: Vec<_> = parts.collect();
    let parameter = |name: &str| parameters.iter().find_map(|one| one.strip_prefix(name));
    match (parameter("as="), parameter("g="), parameter("v=")) {
        (None, _, _) => Some(Accept::Json),
        (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Some(Accept::Table("meta.k8s.io/v1")),
        (Some("Table"), Some("meta.k8s.io"), Some("v1beta1")) => Some(Accept::Table("meta.k8s.io/v1beta1")),
        (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
            Some(Accept::Metadata)
        }
        _ => None,
    }
}

/// Whether the first form that there is shall be written as YAML.
pub(crate) fn yaml_first(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut accepts = accepts.flat_map(|value| value.split(',')).map(str::trim);
    let first = accepts.find(|wanted| form(wanted).is_some());
    first.is_some_and(|first| first.split(';').next().is_some_and(|media| media.trim() == YAML))
}

/// Whether a form of the aggregated discovery is wanted before plain JSON; returns its version.
pub(crate) fn aggregated_discovery(headers: &HeaderMap) -> Option<&'static str> {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for wanted in accepts.flat_map(|value| value.split(',')) {
        let has = |part: &str| wanted.split(';').any(|one| one.trim() == part);
        if has("as=APIGroupDiscoveryList") && has("g=apidiscovery.k8s.io") {
            match () {
                () if has("v=v2") => return Some("v2"),
                () if has("v=v2beta1") => return Some("v2beta1"),
                () => {}
            }
        } else if matches!(form(wanted.trim()), Some(Accept::Json)) {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(accept: &'static str) -> Accept {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        Accept::parse(&headers).unwrap()
    }

    #[test]
    fn the_first_form_that_there_is_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(parse(kubectl), Accept::Table("meta.k8s.io/v1"));
        assert_eq!(parse("application/vnd.kubernetes.protobuf,application/json"), Accept::Json);
        assert_eq!(parse("application/json;as=Other;v=v1;g=meta.k8s.io, */*"), Accept::Json);
        assert_eq!(parse("application/vnd.kubernetes.protobuf"), Accept::Foreign);
        assert_eq!(parse("text/html, application/yaml"), Accept::Json);
        assert_eq!(
            parse("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
            Accept::Metadata
        );
    }

    #[test]
    fn aggregated_discovery_is_given_to_those_who_ask() {
        let asks = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            aggregated_discovery(&headers)
        };
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(asks(kubectl), Some("v2"));
        assert_eq!(asks("application/json"), None);
    }
}
