//! Simple JSONPath, as printer columns and the scale subresource of definitions use it.
//!
//! `.a.b`, `['a.b']`, `.a\.b`, `[0]`, `[-1]`, `[*]`, `.*`, and filters `[?(@.type=="Ready")]` with `==` and `!=`.
//!
//! Source: client-go `util/jsonpath`.

use serde_json::Value;

/// Longest path.
const MAX_LENGTH: usize = 1024;
/// Most values that a path may find.
const MAX_FOUND: usize = 1000;

/// A path.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Member(String),
    Index(i64),
    All,
    /// Elements whose value at the path equals, or does not equal, another one.
    Filter(Vec<Step>, bool, Value),
}

impl Step {
    fn member(&self) -> Option<&str> {
        match self {
            Self::Member(name) => Some(name),
            _ => None,
        }
    }
}

impl JsonPath {
    /// Reads a path, with or without braces around it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("must be no more than {MAX_LENGTH} bytes"));
        }
        let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
        steps(inner.strip_prefix('$').unwrap_or(inner)).map(Self)
    }

    /// Returns the first value that the path finds.
    pub(crate) fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.find(value).into_iter().next()
    }

    /// Returns what the path finds.
    pub(crate) fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        walk(&self.0, value)
    }

    /// Returns the members of a path of members only.
    pub(crate) fn members(&self) -> Option<Vec<&str>> {
        self.0.iter().map(Step::member).collect()
    }
}

fn walk<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in steps {
        found = found.into_iter().flat_map(|value| one(step, value)).take(MAX_FOUND).collect();
    }
    found
}

fn one<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Member(name), _) => value.get(name).into_iter().collect(),
        (Step::Index(index), Value::Array(items)) => {
            let at = if *index < 0 { *index + items.len() as i64 } else { *index };
            usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
        }
        (Step::All, Value::Array(items)) => items.iter().collect(),
        (Step::All, Value::Object(members)) => members.values().collect(),
        (Step::Filter(path, equal, wanted), Value::Array(items)) => {
            let matches = |item: &&Value| (walk(path, item).first() == Some(&wanted)) == *equal;
            items.iter().filter(matches).collect()
        }
        _ => Vec::new(),
    }
}

fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut rest = text;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = closing(after).ok_or("unterminated array")?;
            steps.push(bracket(&after[..end])?);
            rest = &after[end + 1..];
        } else {
            let after = rest
                .strip_prefix('.')
                .ok_or_else(|| format!("unexpected path string, expected a leading '.': {rest}"))?;
            let (name, left) = word(after);
            match name.as_str() {
                "" if left.starts_with('[') || (left.is_empty() && steps.is_empty()) => {}
                "" => return Err("empty member".into()),
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Member(name)),
            }
            rest = left;
        }
    }
    Ok(steps)
}

/// Finds the bracket that closes, outside of quotes.
fn closing(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0);
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Takes a member's name; a backslash lets the next letter be part of it.
fn word(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            '.' | '[' => return (name, &text[at..]),
            _ => name.push(letter),
        }
    }
    (name, "")
}

fn bracket(text: &str) -> Result<Step, String> {
    let text = text.trim();
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = quoted(text) {
        return Ok(Step::Member(name.to_owned()));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (path, equal, wanted) = match (filter.split_once("=="), filter.split_once("!=")) {
            (Some((path, wanted)), _) => (path, true, wanted),
            (None, Some((path, wanted))) => (path, false, wanted),
            (None, None) => return Err(format!("unrecognized filter: {filter}")),
        };
        let path = path.trim().strip_prefix('@').ok_or_else(|| format!("unrecognized filter: {filter}"))?;
        return Ok(Step::Filter(steps(path)?, equal, literal(wanted.trim())?));
    }
    text.parse().map(Step::Index).map_err(|_| format!("invalid array index {text}"))
}

fn quoted(text: &str) -> Option<&str> {
    ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}

fn literal(text: &str) -> Result<Value, String> {
    match quoted(text) {
        Some(text) => Ok(text.into()),
        None => serde_json::from_str(text).map_err(|_| format!("unrecognized value {text}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(path: &str, value: &Value) -> Vec<Value> {
        JsonPath::parse(path).unwrap().find(value).into_iter().cloned().collect()
    }

    #[test]
    fn paths_find_what_they_name() {
        let value = json!({"spec": {"a.b": 1, "list": [{"type": "Ready", "status": "True"}, {"type": "x", "status": "no"}]}});
        for (path, wanted) in [
            (".spec['a.b']", vec![json!(1)]),
            (r"{.spec.a\.b}", vec![json!(1)]),
            (r#".spec.list[?(@.type=="Ready")].status"#, vec![json!("True")]),
            (".spec.list[?(@.type!='Ready')].status", vec![json!("no")]),
            (".spec.list[-1].type", vec![json!("x")]),
            (".spec.list[*].type", vec![json!("Ready"), json!("x")]),
            (".nothing.here[3]", vec![]),
        ] {
            assert_eq!(found(path, &value), wanted, "{path}");
        }
        assert_eq!(JsonPath::parse(".spec.replicas").unwrap().members().unwrap(), ["spec", "replicas"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["spec", ".a[", ".a[x]", ".a..b", ".a[?(b)]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
