//! The `filters` parameter of lists, events and prunes.
//!
//! Two JSON forms are in the field: `{"label":{"a=b":true}}` (what the CLI sends) and `{"label":["a=b"]}`
//! (what docker-py sends).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::error::ApiError;
use crate::query::Params;

/// Parsed filters: a name to the values that fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Reads the parameter and refuses names that are not `known`.
    pub(crate) fn from_params(params: &Params, known: &[&str]) -> Result<Self, ApiError> {
        let filters = Self::of_any_name(params)?;
        match filters.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(ApiError::invalid(format!("invalid filter '{name}'"))),
            None => Ok(filters),
        }
    }

    /// Reads the parameter, whatever names are in it.
    pub(crate) fn of_any_name(params: &Params) -> Result<Self, ApiError> {
        params.text("filters").map_or_else(|| Ok(Self::default()), Self::parse)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let invalid = || ApiError::invalid("invalid filter: want a JSON object of names to values");
        let names: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|_| invalid())?;
        let mut filters = BTreeMap::new();
        for (name, values) in names {
            let values: BTreeSet<String> = match values {
                Value::Object(map) => {
                    map.into_iter().filter(|(_, on)| on != false).map(|(value, _)| value).collect()
                }
                Value::Array(list) => list
                    .into_iter()
                    .map(|value| value.as_str().map(str::to_owned).ok_or_else(invalid))
                    .collect::<Result<_, _>>()?,
                _ => return Err(invalid()),
            };
            if !values.is_empty() {
                filters.insert(name, values);
            }
        }
        Ok(Self(filters))
    }

    /// Returns the values of a filter, none when it was not given.
    pub(crate) fn values(&self, name: &str) -> Option<&BTreeSet<String>> {
        self.0.get(name)
    }

    /// Returns whether the filter was not given or one of its values satisfies `test`.
    pub(crate) fn any(&self, name: &str, test: impl Fn(&str) -> bool) -> bool {
        self.values(name).is_none_or(|values| values.iter().any(|value| test(value)))
    }

    /// Returns whether the filter was not given or one of its values is `actual`.
    pub(crate) fn exact(&self, name: &str, actual: &str) -> bool {
        self.any(name, |value| value == actual)
    }

    /// Reads a filter that is a switch; refuses several or other values.
    pub(crate) fn switch(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(values) = self.values(name) else { return Ok(None) };
        let words: Vec<&str> = values.iter().map(String::as_str).collect();
        match words[..] {
            ["1" | "true" | "True" | "TRUE"] => Ok(Some(true)),
            ["0" | "false" | "False" | "FALSE"] => Ok(Some(false)),
            _ => Err(ApiError::invalid(format!("invalid filter '{name}={}'", words.join(",")))),
        }
    }

    /// Returns whether labels satisfy every `label` filter and none of the `label!` filters.
    pub(crate) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let wanted =
            self.values("label").is_none_or(|values| values.iter().all(|value| has_label(labels, value)));
        let unwanted =
            self.values("label!").is_some_and(|values| values.iter().any(|value| has_label(labels, value)));
        wanted && !unwanted
    }
}

/// Returns whether labels have `NAME` or `NAME=value`.
fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|actual| actual == value),
        None => labels.contains_key(wanted),
    }
}

/// Largest compiled form of a pattern.
const MAX_PATTERN: usize = 1 << 20;

/// Returns whether a name, with a slash before it or without, fits a pattern: a regular expression found anywhere in it.
///
/// One that cannot be read fits what it spells, as with dockerd. The time is linear in the name's length.
pub(crate) fn name_fits(name: &str, pattern: &str) -> bool {
    if name == pattern {
        return true;
    }
    match regex::RegexBuilder::new(pattern).size_limit(MAX_PATTERN).build() {
        Ok(pattern) => pattern.is_match(name) || pattern.is_match(&format!("/{name}")),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(text: &str) -> Filters {
        Filters::parse(text).unwrap()
    }

    #[test]
    fn both_json_forms_mean_the_same() {
        assert_eq!(filters(r#"{"label":{"a=b":true}}"#), filters(r#"{"label":["a=b"]}"#));
        assert!(filters("{}").values("label").is_none());
        assert!(Filters::parse("[1]").is_err());
        assert!(Filters::parse(r#"{"label":[1]}"#).is_err());
    }

    #[test]
    fn an_unknown_filter_is_refused_by_name() {
        let params = Params(vec![("filters".into(), r#"{"colour":["red"]}"#.into())]);
        let error = Filters::from_params(&params, &["label"]).unwrap_err();
        assert_eq!(error.message, "invalid filter 'colour'");
    }

    #[test]
    fn labels_must_all_be_there() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]);
        assert!(filters(r#"{"label":["a=b","c"]}"#).labels(&labels));
        assert!(!filters(r#"{"label":["a=x","c"]}"#).labels(&labels));
        assert!(!filters(r#"{"label!":["c"]}"#).labels(&labels));
    }

    #[test]
    fn names_fit_by_regular_expressions() {
        assert!(name_fits("web-1", "web"));
        assert!(name_fits("web-1", "w.b-[0-9]+"));
        assert!(name_fits("web-1", "^(db|web)-"));
        assert!(name_fits("a[", "a["));
        assert!(!name_fits("web-1", "["));
        assert!(name_fits("web-1", "^/web-1$"));
        assert!(!name_fits("web-1", "^web$"));
        assert!(!name_fits("web-1", "^eb"));
    }
}
