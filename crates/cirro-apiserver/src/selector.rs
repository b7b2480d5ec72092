//! Label and field selectors.
//!
//! Source: apimachinery `labels/selector.go` and `fields/selector.go`.

use cirro_seams::api::ApiError;
use serde_json::Value;

use crate::error;
use crate::json;
use crate::registry::Kind;

/// Longest selector that is read.
const MAX_LENGTH: usize = 64 * 1024;

/// What a list or a watch is narrowed to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Selector {
    labels: Vec<LabelTerm>,
    fields: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq)]
struct LabelTerm {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

#[derive(Debug, Clone, PartialEq)]
struct FieldTerm {
    path: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// Reads the two query parameters for a kind.
    pub(crate) fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, ApiError> {
        if labels.len().max(fields.len()) > MAX_LENGTH {
            return Err(error::bad_request("selector is too long"));
        }
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(kind, fields)? })
    }

    /// Whether everything matches.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object matches.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = json::object(object, "metadata.labels");
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        self.labels.iter().all(|term| term.test.holds(label(&term.key)))
            && self.fields.iter().all(|term| (field(object, &term.path) == term.value) == term.equal)
    }
}

fn field(object: &Value, path: &str) -> String {
    match json::at(object, path) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Self::NotIn(values) => !value.is_some_and(|value| values.iter().any(|one| one == value)),
            Self::Above(bound) => number().is_some_and(|value| value > *bound),
            Self::Below(bound) => number().is_some_and(|value| value < *bound),
        }
    }
}

fn unparsable(text: &str, why: &str) -> ApiError {
    error::bad_request(format!("unable to parse requirement: {why}: {text:?}"))
}

fn parse_labels(text: &str) -> Result<Vec<LabelTerm>, ApiError> {
    split_outside_parentheses(text)
        .into_iter()
        .map(str::trim)
        .filter(|term| !term.is_empty())
        .map(parse_label_term)
        .collect()
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut terms, mut depth, mut start) = (Vec::new(), 0i32, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn parse_label_term(term: &str) -> Result<LabelTerm, ApiError> {
    let (key, test) = if let Some(key) = term.strip_prefix('!') {
        (key, Test::Absent)
    } else if let Some((key, value)) = term.split_once("!=") {
        (key, Test::NotIn(vec![label_value(term, value)?]))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, Test::In(vec![label_value(term, value)?]))
    } else if let Some((key, values)) = set_term(term, "notin") {
        (key, Test::NotIn(label_values(term, values)?))
    } else if let Some((key, values)) = set_term(term, "in") {
        (key, Test::In(label_values(term, values)?))
    } else if let Some((key, bound)) = term.split_once('>') {
        (key, Test::Above(bound.trim().parse().map_err(|_| unparsable(term, "not a number"))?))
    } else if let Some((key, bound)) = term.split_once('<') {
        (key, Test::Below(bound.trim().parse().map_err(|_| unparsable(term, "not a number"))?))
    } else {
        (term, Test::Exists)
    };
    let key = key.trim();
    if !crate::validate::is_qualified_name(key) {
        return Err(unparsable(term, "invalid label key"));
    }
    Ok(LabelTerm { key: key.to_owned(), test })
}

/// Splits `key in (a, b)` into the key and `a, b`.
fn set_term<'a>(term: &'a str, operator: &str) -> Option<(&'a str, &'a str)> {
    let (head, rest) = term.split_once('(')?;
    let key = head.trim_end().strip_suffix(operator)?;
    key.ends_with(char::is_whitespace).then_some(())?;
    Some((key, rest.trim_end().strip_suffix(')')?))
}

fn label_values(term: &str, values: &str) -> Result<Vec<String>, ApiError> {
    values.split(',').map(|value| label_value(term, value)).collect()
}

fn label_value(term: &str, value: &str) -> Result<String, ApiError> {
    let value = value.trim();
    if !crate::validate::is_label_value(value) {
        return Err(unparsable(term, "invalid label value"));
    }
    Ok(value.to_owned())
}

fn parse_fields(kind: &Kind, text: &str) -> Result<Vec<FieldTerm>, ApiError> {
    let terms = split_fields(text);
    terms.iter().filter(|term| !term.is_empty()).map(|term| parse_field_term(kind, term)).collect()
}

/// Splits at commas that are not escaped by a backslash.
fn split_fields(text: &str) -> Vec<String> {
    let (mut terms, mut term, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            ',' if !escaped => terms.push(std::mem::take(&mut term)),
            _ => term.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    terms.push(term);
    terms
}

fn parse_field_term(kind: &Kind, term: &str) -> Result<FieldTerm, ApiError> {
    let (label, value, equal) = if let Some((label, value)) = term.split_once("!=") {
        (label, value, false)
    } else if let Some((label, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (label, value, true)
    } else {
        return Err(error::bad_request(format!("invalid selector: '{term}'; can't understand '{term}'")));
    };
    let path = match label {
        "metadata.name" | "metadata.namespace" => label,
        _ => {
            let known = kind.selectable.iter().find(|field| field.label == label);
            &known.ok_or_else(|| error::bad_request(format!("field label not supported: {label}")))?.path
        }
    };
    let value = unescape(value);
    Ok(FieldTerm { path: path.to_owned(), value, equal })
}

fn unescape(value: &str) -> String {
    let (mut text, mut escaped) = (String::with_capacity(value.len()), false);
    for c in value.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            text.push(c);
            escaped = false;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind() -> Kind {
        Kind::namespaced("", "v1", "Pod", "pods").selectable(&["spec.nodeName"])
    }

    fn matches(labels: &str, fields: &str) -> bool {
        let object = json!({"metadata": {"name": "web,1", "labels": {"app": "web", "n": "5", "e": ""}},
            "spec": {"nodeName": "n1"}});
        Selector::parse(&kind(), labels, fields).unwrap().matches(&object)
    }

    #[test]
    fn label_terms_hold_as_upstream_says() {
        for labels in [
            "",
            "app",
            "app=web",
            "app==web",
            "app!=db",
            "x!=db",
            "!x",
            "app in (web, db)",
            "e=",
            "app notin (db,x)",
            "x notin (db)",
            "n>4",
            "n<6",
            "app=web,n in (4,5),!y",
            "e in (,a)",
        ] {
            assert!(matches(labels, ""), "{labels}");
        }
        for labels in ["x", "app=db", "!app", "app in (db)", "app notin (web)", "n>5", "x>1", "app=web,x"] {
            assert!(!matches(labels, ""), "{labels}");
        }
    }

    #[test]
    fn field_terms_hold_as_upstream_says() {
        for fields in ["spec.nodeName=n1", "spec.nodeName!=", "metadata.name=web\\,1", "metadata.namespace="]
        {
            assert!(matches("", fields), "{fields}");
        }
        assert!(!matches("", "spec.nodeName!=n1,metadata.name=web\\,1"));
    }

    #[test]
    fn nonsense_is_refused() {
        for (labels, fields) in
            [("a=b=c d", ""), ("-a", ""), ("a>x", ""), ("", "spec.other=1"), ("", "metadata.name")]
        {
            assert_eq!(Selector::parse(&kind(), labels, fields).unwrap_err().code, 400, "{labels}{fields}");
        }
    }
}
