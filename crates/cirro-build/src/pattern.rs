//! Wildcard patterns: Go's `filepath.Match` for `COPY`, moby's patternmatcher for `.dockerignore`, and the
//! shell's for `${name#pattern}`.
//!
//! A pattern is a list of tokens, run as a nondeterministic automaton over the text: the work is at most
//! tokens × characters, whatever the pattern.

/// Which wildcards a pattern knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wildcards {
    /// `*`, `?`, `[a-z]` within one path component, as Go's `filepath.Match`.
    Path,
    /// The same, and `**` over components, as moby's patternmatcher.
    DeepPath,
    /// `*` and `?` over anything, as in a shell's parameter expansion.
    Shell,
}

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadPattern;

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// One character; within a path not the separator.
    One {
        within: bool,
    },
    /// Any number of characters; within a path no separator.
    Any {
        within: bool,
    },
    /// Nothing, or anything that ends with a separator.
    Directories,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Token {
    fn literal(&self) -> Option<char> {
        if let Self::Char(c) = self { Some(*c) } else { None }
    }
}

impl Pattern {
    /// Compiles `text`.
    pub(crate) fn parse(text: &str, wildcards: Wildcards) -> Result<Self, BadPattern> {
        let mut tokens = Vec::new();
        let chars: Vec<char> = text.chars().collect();
        let mut at = 0;
        let within = wildcards != Wildcards::Shell;
        while let Some(&c) = chars.get(at) {
            at += 1;
            tokens.push(match c {
                '*' if wildcards == Wildcards::DeepPath && chars.get(at) == Some(&'*') => {
                    at += 1;
                    let start = at == 2;
                    let separated = chars.get(at) == Some(&'/');
                    at += usize::from(separated);
                    let plain_rest = !chars[at..].iter().any(|c| "*?[\\".contains(*c));
                    // moby compares `**name` by its end alone when the name has no other wildcard.
                    if at == chars.len() || (start && !separated && plain_rest) {
                        Token::Any { within: false }
                    } else {
                        Token::Directories
                    }
                }
                '*' => Token::Any { within },
                '?' => Token::One { within },
                '[' if wildcards != Wildcards::Shell => class(&chars, &mut at)?,
                '\\' => Token::Char(escaped(&chars, &mut at)?),
                c => Token::Char(c),
            });
        }
        Ok(Self(tokens))
    }

    /// Returns the only text that matches, if there are no wildcards.
    pub(crate) fn as_text(&self) -> Option<String> {
        self.0.iter().map(Token::literal).collect()
    }

    /// Says whether the whole of `text` matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        if self.0.iter().all(|token| token.literal().is_some()) {
            return self.0.iter().map(Token::literal).eq(text.chars().map(Some));
        }
        let mut states = States::new(self.0.len());
        let mut next = States::new(self.0.len());
        self.enter(0, &mut states);
        for c in text.chars() {
            next.clear();
            for (at, token) in self.0.iter().enumerate() {
                if states.at[at] {
                    self.step(at, token, c, &mut next);
                }
                if states.inside[at] {
                    self.walk(at, c, &mut next);
                }
            }
            std::mem::swap(&mut states, &mut next);
            if !states.alive {
                return false;
            }
        }
        states.at[self.0.len()]
    }

    /// Marks the state before token `at`, and those that are reached without a character.
    fn enter(&self, at: usize, states: &mut States) {
        let mut at = at;
        loop {
            states.at[at] = true;
            states.alive = true;
            match self.0.get(at) {
                Some(Token::Any { .. } | Token::Directories) => at += 1,
                _ => return,
            }
        }
    }

    fn step(&self, at: usize, token: &Token, c: char, next: &mut States) {
        match token {
            Token::Any { within } if !(*within && c == '/') => self.enter(at, next),
            Token::Directories => self.walk(at, c, next),
            Token::Char(want) if *want == c => self.enter(at + 1, next),
            Token::One { within } if !(*within && c == '/') => self.enter(at + 1, next),
            Token::Class { negated, ranges }
                if ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated =>
            {
                self.enter(at + 1, next);
            }
            _ => {}
        }
    }

    /// Takes a character inside of [`Token::Directories`], which only a separator leaves.
    fn walk(&self, at: usize, c: char, next: &mut States) {
        next.inside[at] = true;
        next.alive = true;
        if c == '/' {
            self.enter(at + 1, next);
        }
    }
}

struct States {
    at: Vec<bool>,
    inside: Vec<bool>,
    alive: bool,
}

impl States {
    fn new(tokens: usize) -> Self {
        Self { at: vec![false; tokens + 1], inside: vec![false; tokens], alive: false }
    }

    fn clear(&mut self) {
        self.at.fill(false);
        self.inside.fill(false);
        self.alive = false;
    }
}

/// Reads a character class after its `[`.
fn class(chars: &[char], at: &mut usize) -> Result<Token, BadPattern> {
    let negated = chars.get(*at) == Some(&'^');
    *at += usize::from(negated);
    let mut ranges = Vec::new();
    loop {
        if chars.get(*at) == Some(&']') && !ranges.is_empty() {
            *at += 1;
            return Ok(Token::Class { negated, ranges });
        }
        let low = bound(chars, at)?;
        let mut high = low;
        if chars.get(*at) == Some(&'-') {
            *at += 1;
            high = bound(chars, at)?;
        }
        ranges.push((low, high));
    }
}

fn bound(chars: &[char], at: &mut usize) -> Result<char, BadPattern> {
    match chars.get(*at) {
        None | Some('-' | ']') => Err(BadPattern),
        Some('\\') => {
            *at += 1;
            escaped(chars, at)
        }
        Some(&c) => {
            *at += 1;
            Ok(c)
        }
    }
}

fn escaped(chars: &[char], at: &mut usize) -> Result<char, BadPattern> {
    let c = chars.get(*at).copied().ok_or(BadPattern)?;
    *at += 1;
    Ok(c)
}

/// Says whether a path needs matching at all.
pub(crate) fn has_wildcards(path: &str) -> bool {
    path.contains(['*', '?', '[', '\\'])
}

#[cfg(test)]
mod tests;
