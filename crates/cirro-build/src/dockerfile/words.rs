//! The words of one logical line: keyword, flags, quoted words, JSON arrays, `name=value` pairs.
//!
//! Quotes and escapes stay in the words; they go when the word is expanded.

use super::instruction::Flag;

/// Splits off the first word.
pub(crate) fn keyword(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// Splits `text` at white space outside of quotes; quotes and escapes stay in the words.
pub(crate) fn split(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = word_end(rest, escape);
        words.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    words
}

/// Returns where the first word of `text` ends.
fn word_end(text: &str, escape: char) -> usize {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return at,
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            // Nothing is escaped inside of single quotes.
            _ if c == escape && quote != Some('\'') => {
                chars.next();
            }
            _ => {}
        }
    }
    text.len()
}

/// Takes the leading `--name=value` words off `text`; a lone `--` ends them.
pub(crate) fn flags(text: &str, escape: char) -> (Vec<Flag>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let end = word_end(rest, escape);
        let word = unquote(&rest[2..end], escape);
        rest = rest[end..].trim_start();
        if word.is_empty() {
            break;
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        flags.push(Flag { name, value });
    }
    (flags, rest)
}

fn unquote(word: &str, escape: char) -> String {
    let mut plain = String::new();
    let mut quote = None;
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            // A dollar stays escaped: the value is expanded later.
            _ if c == escape && quote != Some('\'') => match chars.next() {
                Some('$') => plain.extend([c, '$']),
                Some(next) => plain.push(next),
                None => {}
            },
            _ => plain.push(c),
        }
    }
    plain
}

/// Reads `text` as a JSON array of strings.
///
/// `None` if it is not a JSON array, which makes it the shell form; an error if it is one of other things.
pub(crate) fn json(text: &str) -> Option<Result<Vec<String>, String>> {
    if !text.trim_start().starts_with('[') {
        return None;
    }
    let values: Vec<serde_json::Value> = serde_json::from_str(text.trim()).ok()?;
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err("when using JSON array syntax, arrays must be comprised of strings only".to_owned()),
    });
    Some(strings.collect())
}

/// Reads `name=value ...`, or the old form `name value`.
pub(crate) fn pairs(text: &str, keyword: &str, escape: char) -> Result<Vec<(String, String)>, String> {
    let words = split(text, escape);
    let Some(first) = words.first() else {
        return Err(format!("{keyword} requires at least one argument"));
    };
    if !first.contains('=') {
        let (name, value) = self::keyword(text);
        if value.is_empty() {
            return Err(format!("{keyword} must have two arguments"));
        }
        return Ok(vec![(name.to_owned(), value.to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some(("", _)) => Err(format!("{keyword} names can not be blank")),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value")),
    };
    words.iter().map(pair).collect()
}
