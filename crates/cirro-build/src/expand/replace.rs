//! `${name/pattern/replacement}`: the first match, or every match, gives way to a text.
//!
//! A match is the leftmost, and of those the longest, as BuildKit's regular expressions find it.

use super::MAX_BYTES;
use crate::pattern::{Pattern, Wildcards};

/// Characters of a value in which a pattern with wildcards is looked for: the work grows with their square.
const MAX_SEARCHED: usize = 4096;

/// Returns `value` with matches of `pattern` replaced.
pub(super) fn replaced(value: &str, pattern: &str, replacement: &str, every: bool) -> Result<String, String> {
    let wrong = |why: &str| format!("invalid pattern ({pattern}) in substitution{why}");
    let parsed = Pattern::parse(pattern, Wildcards::Shell).map_err(|_| wrong(""))?;
    if let Some(text) = parsed.as_text().filter(|text| !text.is_empty()) {
        if value.matches(&text).count().saturating_mul(replacement.len()) > MAX_BYTES {
            return Err(format!("more than {MAX_BYTES} bytes"));
        }
        return Ok(if every {
            value.replace(&text, replacement)
        } else {
            value.replacen(&text, replacement, 1)
        });
    }
    if value.len() > MAX_SEARCHED {
        return Err(wrong(&format!(": the value has more than {MAX_SEARCHED} bytes")));
    }
    let mut out = String::new();
    let mut rest = value;
    // An empty match does not follow a match.
    let mut after_match = false;
    loop {
        if out.len() > MAX_BYTES {
            return Err(format!("more than {MAX_BYTES} bytes"));
        }
        match longest(&parsed, rest) {
            Some(length) if length > 0 || !after_match => {
                out.push_str(replacement);
                rest = &rest[length..];
                if !every {
                    return Ok(out + rest);
                }
                after_match = length > 0;
                if length > 0 {
                    continue;
                }
            }
            _ => after_match = false,
        }
        let Some(first) = rest.chars().next() else { return Ok(out) };
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
}

/// Returns the length of the longest match that begins with `text`.
fn longest(pattern: &Pattern, text: &str) -> Option<usize> {
    let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    ends.rev().find(|end| pattern.matches(&text[..*end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leftmost_longest_match_gives_way() {
        for (value, pattern, replacement, every, result) in [
            ("foobarfoo", "foo", "x", false, "xbarfoo"),
            ("foobarfoo", "foo", "x", true, "xbarx"),
            ("foobarfoo", "o?", "-", true, "f-barf-"),
            ("foobarfoo", "b*", "", false, "foo"),
            ("foobarfoo", "*o", "z", false, "z"),
            ("a.b.c", ".", "_", true, "a_b_c"),
            ("a/b", "\\/", ":", false, "a:b"),
            ("abc", "x", "y", true, "abc"),
            ("abc", "*", "z", true, "z"),
            ("", "*", "z", true, "z"),
            ("", "a", "z", true, ""),
            ("gr\u{fc}n", "?n", "", false, "gr"),
        ] {
            assert_eq!(
                replaced(value, pattern, replacement, every).as_deref(),
                Ok(result),
                "{value}/{pattern}"
            );
        }
        assert!(replaced("abc", "", "x", false).is_ok());
        assert!(replaced("abc", "\\", "x", false).is_err());
        assert!(replaced(&"a".repeat(MAX_SEARCHED + 1), "a*", "x", true).is_err());
        assert!(replaced(&"a".repeat(MAX_SEARCHED + 1), "a", "x", true).is_ok());
    }
}
