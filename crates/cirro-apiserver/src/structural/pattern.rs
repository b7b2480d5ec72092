//! Compiled patterns, kept while schemas use them.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use regex::{Regex, RegexBuilder};

/// Most memory that a compiled pattern may have.
const MAX_PATTERN: usize = 1024 * 1024;
/// Most patterns that are kept; then all are forgotten.
const MAX_KEPT: usize = 512;

static KEPT: LazyLock<Mutex<HashMap<String, Option<Regex>>>> = LazyLock::new(Mutex::default);

/// Whether a text matches a pattern; `None` for what is no pattern.
pub(crate) fn matches(pattern: &str, text: &str) -> Option<bool> {
    compiled(pattern).map(|regex| regex.is_match(text))
}

/// Returns a pattern compiled; `None` for what is no pattern.
pub(crate) fn compiled(pattern: &str) -> Option<Regex> {
    let mut kept = KEPT.lock().expect("no panic while it is held");
    if let Some(found) = kept.get(pattern) {
        return found.clone();
    }
    if kept.len() >= MAX_KEPT {
        kept.clear();
    }
    let built = RegexBuilder::new(pattern).size_limit(MAX_PATTERN).build().ok();
    kept.insert(pattern.to_owned(), built.clone());
    built
}
