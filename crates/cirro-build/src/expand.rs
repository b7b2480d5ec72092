//! Expansion of variables, quotes and escapes in a Dockerfile's words.
//!
//! Source: BuildKit, `frontend/dockerfile/shell`.

mod replace;

use std::iter::Peekable;
use std::str::Chars;

use crate::pattern::{Pattern, Wildcards};

/// Depth of `${a:-${b:-...}}`.
const MAX_DEPTH: usize = 32;
/// Bytes that one expansion may grow to.
const MAX_BYTES: usize = 1 << 20;

/// Values of variables by name.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How a Dockerfile's words are expanded: its escape token and the variables in force.
#[derive(Clone, Copy)]
pub(crate) struct Expander<'a> {
    pub(crate) escape: char,
    pub(crate) lookup: Lookup<'a>,
}

impl Expander<'_> {
    /// Expands `text` to one word; quotes and escapes go, spaces stay.
    pub(crate) fn word(&self, text: &str) -> Result<String, String> {
        Ok(self.expand(text, Quotes::Processed)?.text)
    }

    /// Expands `text` and splits it at the spaces that are not quoted, those of variables' values too.
    pub(crate) fn words(&self, text: &str) -> Result<Vec<String>, String> {
        Ok(self.expand(text, Quotes::Processed)?.into_words())
    }

    /// Expands a here-document: quotes are plain characters, an escape only guards a dollar or itself.
    pub(crate) fn document(&self, text: &str) -> Result<String, String> {
        Ok(self.expand(text, Quotes::Plain)?.text)
    }

    fn expand(&self, text: &str, quotes: Quotes) -> Result<Expanded, String> {
        let mut scanner = Scanner { chars: text.chars().peekable(), expander: *self, quotes, depth: 0 };
        scanner.until(None, Escapes::Taken).map_err(|error| format!("failed to process {text:?}: {error}"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Processed,
    Plain,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    /// The escape goes, the next character stays.
    Taken,
    /// Both stay: the text is a pattern.
    Kept,
}

/// The result, as one text and as words.
#[derive(Default)]
struct Expanded {
    text: String,
    words: Vec<String>,
    word: String,
    in_word: bool,
}

impl Expanded {
    /// Adds a character that splits words if it is a space.
    fn push(&mut self, c: char) {
        self.text.push(c);
        if !c.is_whitespace() {
            self.word.push(c);
            self.in_word = true;
        } else if self.in_word && !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
            self.in_word = false;
        }
    }

    /// Adds quoted text: it belongs to the word, spaces and all.
    fn push_quoted(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
        self.in_word = true;
    }

    fn into_words(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

struct Scanner<'t, 'e> {
    chars: Peekable<Chars<'t>>,
    expander: Expander<'e>,
    quotes: Quotes,
    depth: usize,
}

impl Scanner<'_, '_> {
    fn until(&mut self, stop: Option<char>, escapes: Escapes) -> Result<Expanded, String> {
        let mut out = Expanded::default();
        while let Some(c) = self.chars.next() {
            if Some(c) == stop {
                return Ok(out);
            }
            match c {
                '\'' if self.quotes == Quotes::Processed => out.push_quoted(&self.single_quoted()?),
                '"' if self.quotes == Quotes::Processed => out.push_quoted(&self.double_quoted(escapes)?),
                '$' => self.variable()?.chars().for_each(|c| out.push(c)),
                c if c == self.expander.escape => self.escaped(escapes, &mut out),
                c => out.push(c),
            }
            if out.text.len() > MAX_BYTES {
                return Err(format!("more than {MAX_BYTES} bytes"));
            }
        }
        match stop {
            None => Ok(out),
            Some('}') => Err("syntax error: missing '}'".into()),
            Some('/') => Err("syntax error: missing '/' in ${}".into()),
            Some(stop) => Err(format!("unexpected end of statement while looking for matching {stop}")),
        }
    }

    fn escaped(&mut self, escapes: Escapes, out: &mut Expanded) {
        let escape = self.expander.escape;
        let next = self.chars.peek().copied();
        if self.quotes == Quotes::Plain && !matches!(next, Some(c) if c == '$' || c == escape) {
            out.push(escape);
            return;
        }
        if escapes == Escapes::Kept {
            out.push_quoted(escape.encode_utf8(&mut [0; 4]));
        }
        if let Some(c) = self.chars.next() {
            out.push_quoted(c.encode_utf8(&mut [0; 4]));
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        for c in self.chars.by_ref() {
            if c == '\'' {
                return Ok(text);
            }
            text.push(c);
        }
        Err("unexpected end of statement while looking for matching single-quote".into())
    }

    fn double_quoted(&mut self, escapes: Escapes) -> Result<String, String> {
        let mut text = String::new();
        while let Some(c) = self.chars.next() {
            match c {
                '"' => return Ok(text),
                '$' => text.push_str(&self.variable()?),
                c if c == self.expander.escape => {
                    if escapes == Escapes::Kept {
                        text.push(c);
                    }
                    match self.chars.peek().copied() {
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == c => {
                            text.push(next);
                            self.chars.next();
                        }
                        Some(_) => text.push(c),
                    }
                }
                c => text.push(c),
            }
            if text.len() > MAX_BYTES {
                return Err(format!("more than {MAX_BYTES} bytes"));
            }
        }
        Err("unexpected end of statement while looking for matching double-quote".into())
    }

    /// Reads what follows a dollar.
    fn variable(&mut self) -> Result<String, String> {
        if self.chars.peek() != Some(&'{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".into() } else { self.value(&name).unwrap_or_default() });
        }
        self.chars.next();
        match self.chars.peek() {
            None => return Err("syntax error: missing '}'".into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            Some(_) => {}
        }
        let name = self.name();
        let value = self.value(&name);
        match self.chars.next() {
            None => Err("syntax error: missing '}'".into()),
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => {
                let modifier = self.chars.next();
                // With the colon, an empty value counts as none.
                let full = value.filter(|value| !value.is_empty());
                match modifier {
                    Some(modifier @ ('-' | '+' | '?')) => self.modified(&name, full, modifier, "empty"),
                    other => Err(unsupported(&format!(":{}", other.map(String::from).unwrap_or_default()))),
                }
            }
            Some(modifier @ ('-' | '+' | '?')) => self.modified(&name, value, modifier, "unset"),
            Some(side @ ('#' | '%')) => self.trimmed(value.unwrap_or_default(), side),
            Some('/') => self.replaced(&value.unwrap_or_default()),
            Some(other) => Err(unsupported(&other.to_string())),
        }
    }

    fn modified(
        &mut self,
        name: &str,
        value: Option<String>,
        modifier: char,
        lacking: &str,
    ) -> Result<String, String> {
        let word = self.nested('}', Escapes::Taken)?;
        match (modifier, value) {
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('?', None) if word.is_empty() => Err(format!("{name}: is not allowed to be {lacking}")),
            ('?', None) => Err(format!("{name}: {word}")),
            (_, Some(value)) => Ok(value),
            (_, None) => Err(unsupported(&modifier.to_string())),
        }
    }

    /// `${name#pattern}` and its three kin: the shortest or longest match goes from the start or the end.
    fn trimmed(&mut self, value: String, side: char) -> Result<String, String> {
        let word = self.nested('}', Escapes::Kept)?;
        let (word, longest) = match word.strip_prefix(side) {
            Some(word) => (word.to_owned(), true),
            None => (word, false),
        };
        let pattern = Pattern::parse(&word, Wildcards::Shell)
            .map_err(|_| format!("invalid pattern ({word}) in substitution"))?;
        let cuts: Vec<usize> = value.char_indices().map(|(at, _)| at).chain([value.len()]).collect();
        let cut = |keep: fn(&str, usize) -> (&str, &str)| {
            let fits = |at: &&usize| pattern.matches(keep(&value, **at).0);
            let forward = longest == (side == '%');
            let at = if forward { cuts.iter().find(fits) } else { cuts.iter().rev().find(fits) };
            at.map(|at| keep(&value, *at).1.to_owned())
        };
        let kept = match side {
            '#' => cut(|value, at| (&value[..at], &value[at..])),
            _ => cut(|value, at| (&value[at..], &value[..at])),
        };
        Ok(kept.unwrap_or(value))
    }

    /// `${name/pattern/replacement}`, and with two slashes at first for every match.
    fn replaced(&mut self, value: &str) -> Result<String, String> {
        let every = self.chars.next_if_eq(&'/').is_some();
        let pattern = self.nested('/', Escapes::Kept)?;
        let replacement = self.nested('}', Escapes::Kept)?;
        replace::replaced(value, &pattern, &replacement, every)
    }

    fn nested(&mut self, stop: char, escapes: Escapes) -> Result<String, String> {
        if self.depth == MAX_DEPTH {
            return Err(format!("substitutions nested more than {MAX_DEPTH} deep"));
        }
        self.depth += 1;
        let word = self.until(Some(stop), escapes);
        self.depth -= 1;
        Ok(word?.text)
    }

    /// Reads a name: letters, digits and underscores, all digits, or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.chars.peek() {
            Some(c) if c.is_ascii_digit() => {
                while let Some(c) = self.chars.next_if(char::is_ascii_digit) {
                    name.push(c);
                }
                return name;
            }
            Some(&c) if "@*#?-$!".contains(c) => {
                self.chars.next();
                return c.to_string();
            }
            _ => {}
        }
        while let Some(c) = self.chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
            name.push(c);
        }
        name
    }

    fn value(&self, name: &str) -> Option<String> {
        (self.expander.lookup)(name)
    }
}

fn unsupported(modifier: &str) -> String {
    format!("unsupported modifier ({modifier}) in substitution")
}

#[cfg(test)]
mod tests;
