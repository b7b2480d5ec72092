//! `.dockerignore`: which paths of a build context `COPY` and `ADD` do not see.
//!
//! Source: moby/patternmatcher, `patternmatcher.go` (`MatchesOrParentMatches`) and `ignorefile`.

use crate::pattern::{Pattern, Wildcards};

const MAX_RULES: usize = 10_000;

/// The rules of a `.dockerignore`; the last that matches a path or a parent of it wins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ignore(Vec<Rule>);

#[derive(Debug, Clone)]
struct Rule {
    /// Whether it brings back what an earlier rule took.
    exception: bool,
    pattern: Pattern,
}

impl Ignore {
    /// Reads the text of a `.dockerignore`. An error names the line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            // Only a `#` in the first column makes a comment.
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            if rules.len() == MAX_RULES {
                return Err(format!("line {number}: more than {MAX_RULES} patterns"));
            }
            rules.push(Rule::parse(line.trim()).map_err(|error| format!("line {number}: {error}"))?);
        }
        Ok(Self(rules))
    }

    /// Says whether `path`, relative to the context and with `/` between its components, is left out.
    pub(crate) fn ignores(&self, path: &str) -> bool {
        let mut ignored = false;
        for rule in &self.0 {
            // A rule that could only confirm the present answer need not be run.
            if rule.exception == ignored && rule.matches_or_parent(path) {
                ignored = !rule.exception;
            }
        }
        ignored
    }

    /// Says whether there are no rules.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Says whether some rule brings paths back, so that an ignored directory may hold something.
    pub(crate) fn has_exceptions(&self) -> bool {
        self.0.iter().any(|rule| rule.exception)
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, String> {
        let (exception, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest.trim()));
        if rest.is_empty() {
            return Err(format!("illegal exclusion pattern: {text:?}"));
        }
        let pattern = clean(rest);
        let pattern = Pattern::parse(&pattern, Wildcards::DeepPath)
            .map_err(|_| format!("syntax error in pattern {rest:?}"))?;
        Ok(Self { exception, pattern })
    }

    fn matches_or_parent(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        ends.into_iter().any(|end| self.pattern.matches(&path[..end]))
    }
}

/// Cleans a path lexically: no empty, `.` or inner `..` components, no slash at either end.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if !path.starts_with('/') && parts.last().is_none_or(|last| *last == "..") => {
                parts.push("..")
            }
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".into() } else { parts.join("/") }
}

#[cfg(test)]
mod tests;
