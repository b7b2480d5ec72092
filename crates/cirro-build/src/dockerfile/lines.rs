//! Physical lines to logical ones: directives, comments, continuations and here-documents.

use super::Wrong;
use super::words;

/// The logical lines of a Dockerfile.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) escape: char,
    pub(crate) lines: Vec<Logical>,
}

/// One instruction's text with continuations joined and comments left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logical {
    /// Line it starts on, from 1.
    pub(crate) line: usize,
    pub(crate) text: String,
    pub(crate) documents: Vec<HereDocument>,
}

/// A here-document of a `RUN`, `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HereDocument {
    /// The delimiter; also the name of the file that it makes in a directory.
    pub(crate) name: String,
    /// Whether variables in it are expanded: the delimiter was not quoted.
    pub(crate) expand: bool,
    pub(crate) content: String,
}

/// Reads the logical lines of `text`.
pub(crate) fn read(text: &str) -> Result<Source, Wrong> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let physical: Vec<&str> = text.lines().map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    let escape = directives(&physical)?;
    let mut reader = Reader { physical: &physical, next: 0, escape };
    let mut lines = Vec::new();
    while let Some(mut logical) = reader.logical() {
        logical.documents = reader.documents(&logical)?;
        lines.push(logical);
    }
    Ok(Source { escape, lines })
}

/// Reads the `# escape=` directive. `syntax` names a frontend to fetch: ours is built in, so it is passed over.
fn directives(physical: &[&str]) -> Result<char, Wrong> {
    let mut escape = '\\';
    let mut seen = Vec::new();
    for (index, line) in physical.iter().enumerate() {
        let wrong = |message: String| Wrong { line: index + 1, message };
        let Some((key, value)) = line.trim_start().strip_prefix('#').and_then(|rest| rest.split_once('='))
        else {
            break;
        };
        let key = key.trim().to_ascii_lowercase();
        if !["escape", "syntax", "check"].contains(&key.as_str()) {
            break;
        }
        if seen.contains(&key) {
            return Err(wrong(format!("only one {key} parser directive can be used")));
        }
        if key == "escape" {
            escape = match value.trim() {
                "\\" => '\\',
                "`" => '`',
                other => return Err(wrong(format!("invalid escape token '{other}' does not match ` or \\"))),
            };
        }
        seen.push(key);
    }
    Ok(escape)
}

struct Reader<'a> {
    physical: &'a [&'a str],
    next: usize,
    escape: char,
}

impl Reader<'_> {
    fn logical(&mut self) -> Option<Logical> {
        let mut text = String::new();
        let mut started = None;
        while let Some(line) = self.physical.get(self.next) {
            self.next += 1;
            // Comments and empty lines are passed over inside a continuation too.
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let first = *started.get_or_insert(self.next);
            let line = if first == self.next { line.trim_start() } else { line };
            match self.continued(line) {
                Some(part) => text.push_str(part),
                None => {
                    text.push_str(line);
                    break;
                }
            }
        }
        let text = text.trim_end().to_owned();
        let line = started.filter(|_| !text.is_empty())?;
        Some(Logical { line, text, documents: Vec::new() })
    }

    /// Returns what stands before the escape token that ends the line; a doubled token does not continue it.
    fn continued<'l>(&self, line: &'l str) -> Option<&'l str> {
        let part = line.trim_end_matches([' ', '\t']).strip_suffix(self.escape)?;
        (!part.ends_with(self.escape)).then_some(part)
    }

    fn documents(&mut self, logical: &Logical) -> Result<Vec<HereDocument>, Wrong> {
        let mut text = logical.text.as_str();
        let (mut keyword, mut rest) = words::keyword(text);
        if keyword.eq_ignore_ascii_case("ONBUILD") {
            text = rest;
            (keyword, rest) = words::keyword(text);
        }
        if !["RUN", "COPY", "ADD"].iter().any(|with| keyword.eq_ignore_ascii_case(with)) {
            return Ok(Vec::new());
        }
        let mut documents = Vec::new();
        for word in words::split(rest, self.escape) {
            let Some(marker) = Marker::of(&word) else { continue };
            let content = self.document(&marker).ok_or_else(|| Wrong {
                line: logical.line,
                message: format!("unterminated heredoc, want a line with {} alone", marker.name),
            })?;
            documents.push(HereDocument { name: marker.name, expand: marker.expand, content });
        }
        Ok(documents)
    }

    fn document(&mut self, marker: &Marker) -> Option<String> {
        let mut content = String::new();
        loop {
            let line = self.physical.get(self.next)?;
            self.next += 1;
            let line = if marker.chomp { line.trim_start_matches('\t') } else { line };
            if line == marker.name {
                return Some(content);
            }
            content.push_str(line);
            content.push('\n');
        }
    }
}

/// The `<<-"EOF"` on the instruction's line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) name: String,
    pub(crate) expand: bool,
    pub(crate) chomp: bool,
}

impl Marker {
    /// Reads a word as a here-document's marker: an optional descriptor, `<<`, an optional `-`, a delimiter.
    pub(crate) fn of(word: &str) -> Option<Self> {
        let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
        let (rest, chomp) = rest.strip_prefix('-').map_or((rest, false), |rest| (rest, true));
        let name = rest.replace(['"', '\''], "");
        if name.is_empty() || name.contains('<') {
            return None;
        }
        Some(Self { expand: name == rest, name, chomp })
    }
}
