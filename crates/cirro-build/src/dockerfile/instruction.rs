//! One logical line to one typed instruction.

use super::Wrong;
use super::lines::{HereDocument, Logical, Marker};
use super::words;

/// An instruction of a Dockerfile, not yet expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instruction {
    /// Line it starts on, from 1.
    pub(crate) line: usize,
    /// In upper case.
    pub(crate) keyword: String,
    /// The whole logical line as it was written.
    pub(crate) original: String,
    pub(crate) flags: Vec<Flag>,
    pub(crate) kind: Kind,
}

/// `--name=value`, or `--name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

/// What an instruction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    From { image: String, name: Option<String> },
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Maintainer(String),
    Run { command: Command, documents: Vec<HereDocument> },
    Copy(Transfer),
    Add(Transfer),
    Workdir(String),
    User(String),
    Volume(Vec<String>),
    Expose(Vec<String>),
    Entrypoint(Command),
    Cmd(Command),
    Shell(Vec<String>),
    StopSignal(String),
    Healthcheck(Health),
    OnBuild(String),
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// A line for the shell.
    Shell(String),
    /// An argument vector.
    Exec(Vec<String>),
}

/// The check of a `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    None,
    Command(Command),
}

/// Sources and destination of a `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) sources: Vec<TransferSource>,
    pub(crate) destination: String,
}

/// A source of a `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TransferSource {
    Path(String),
    Document(HereDocument),
}

impl Instruction {
    /// Returns the value of the flag `name`; a flag without a value is `true`.
    pub(crate) fn flag(&self, name: &str) -> Option<&str> {
        let flag = self.flags.iter().rev().find(|flag| flag.name == name)?;
        Some(flag.value.as_deref().unwrap_or("true"))
    }
}

/// Parses one logical line.
pub(crate) fn parse(logical: Logical, escape: char) -> Result<Instruction, Wrong> {
    let (word, rest) = words::keyword(&logical.text);
    let keyword = word.to_ascii_uppercase();
    let wrong = |message| Wrong { line: logical.line, message };
    let Some(known) = known_flags(&keyword) else {
        return Err(wrong(format!("unknown instruction: {word}")));
    };
    // The words of ARG, ENV and their like may begin with dashes.
    let (flags, rest) = if known.is_empty() { (Vec::new(), rest) } else { words::flags(rest, escape) };
    if let Some(flag) = flags.iter().find(|flag| !known.contains(&flag.name.as_str())) {
        return Err(wrong(format!("unknown flag: --{}", flag.name)));
    }
    let arguments = Arguments { keyword: &keyword, text: rest, escape };
    let kind = arguments.parse(logical.documents).map_err(wrong)?;
    Ok(Instruction { line: logical.line, keyword, original: logical.text, flags, kind })
}

/// Returns the flags that Docker knows for an instruction; `None` for what is not an instruction.
fn known_flags(keyword: &str) -> Option<&'static [&'static str]> {
    Some(match keyword {
        "FROM" => &["platform"],
        "RUN" => &["mount", "network", "security", "device"],
        "COPY" => &["from", "chown", "chmod", "link", "parents", "exclude"],
        "ADD" => &["chown", "chmod", "link", "checksum", "keep-git-dir", "unpack", "exclude"],
        "HEALTHCHECK" => &["interval", "timeout", "start-period", "start-interval", "retries"],
        "ARG" | "CMD" | "ENTRYPOINT" | "ENV" | "EXPOSE" | "LABEL" | "MAINTAINER" | "ONBUILD" | "SHELL"
        | "STOPSIGNAL" | "USER" | "VOLUME" | "WORKDIR" => &[],
        _ => return None,
    })
}

struct Arguments<'a> {
    keyword: &'a str,
    text: &'a str,
    escape: char,
}

impl Arguments<'_> {
    fn parse(&self, documents: Vec<HereDocument>) -> Result<Kind, String> {
        Ok(match self.keyword {
            "FROM" => self.from()?,
            "ARG" => Kind::Arg(self.args()?),
            "ENV" => Kind::Env(words::pairs(self.text, "ENV", self.escape)?),
            "LABEL" => Kind::Label(words::pairs(self.text, "LABEL", self.escape)?),
            "MAINTAINER" => Kind::Maintainer(self.exactly_one()?),
            "RUN" => self.run(documents)?,
            "COPY" => Kind::Copy(self.transfer(documents)?),
            "ADD" => Kind::Add(self.transfer(documents)?),
            "WORKDIR" => Kind::Workdir(self.exactly_one()?),
            "USER" => Kind::User(self.exactly_one()?),
            "VOLUME" => Kind::Volume(self.list()?),
            "EXPOSE" => Kind::Expose(self.some(words::split(self.text, self.escape))?),
            "ENTRYPOINT" => Kind::Entrypoint(self.command()?),
            "CMD" => Kind::Cmd(self.command()?),
            "SHELL" => Kind::Shell(self.shell()?),
            "STOPSIGNAL" => Kind::StopSignal(self.exactly_one()?),
            "HEALTHCHECK" => Kind::Healthcheck(self.health()?),
            "ONBUILD" => self.trigger(documents)?,
            other => return Err(format!("unknown instruction: {other}")),
        })
    }

    fn from(&self) -> Result<Kind, String> {
        let words = words::split(self.text, self.escape);
        match words.as_slice() {
            [image] => Ok(Kind::From { image: image.clone(), name: None }),
            [image, keyword, name] if keyword.eq_ignore_ascii_case("as") => {
                let name = name.to_ascii_lowercase();
                let mut chars = name.chars();
                let valid = chars.next().is_some_and(|c| c.is_ascii_lowercase())
                    && chars.all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
                if !valid {
                    return Err(format!(
                        "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
                    ));
                }
                Ok(Kind::From { image: image.clone(), name: Some(name) })
            }
            _ => Err("FROM requires either one or three arguments".into()),
        }
    }

    fn args(&self) -> Result<Vec<(String, Option<String>)>, String> {
        let words = self.some(words::split(self.text, self.escape))?;
        let arg = |word: String| match word.split_once('=') {
            Some(("", _)) => Err("ARG names can not be blank".to_owned()),
            Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
            None => Ok((word, None)),
        };
        words.into_iter().map(arg).collect()
    }

    fn run(&self, documents: Vec<HereDocument>) -> Result<Kind, String> {
        Ok(Kind::Run { command: self.command()?, documents })
    }

    fn transfer(&self, documents: Vec<HereDocument>) -> Result<Transfer, String> {
        let mut words = match words::json(self.text) {
            Some(words) => words?,
            None => words::split(self.text, self.escape),
        };
        let destination = words.pop().unwrap_or_default();
        if words.is_empty() {
            return Err(format!(
                "{} requires at least two arguments, but only one was provided. Destination could not be determined",
                self.keyword
            ));
        }
        let mut documents = documents.into_iter();
        let source = |word: String| match Marker::of(&word) {
            Some(_) => documents.next().map(TransferSource::Document),
            None => Some(TransferSource::Path(word)),
        };
        let sources = words.into_iter().filter_map(source).collect();
        Ok(Transfer { sources, destination })
    }

    fn command(&self) -> Result<Command, String> {
        match words::json(self.text) {
            // An empty list takes back what was inherited.
            Some(words) if matches!(self.keyword, "CMD" | "ENTRYPOINT") => Ok(Command::Exec(words?)),
            Some(words) => Ok(Command::Exec(self.some(words?)?)),
            None => self.one().map(Command::Shell),
        }
    }

    fn list(&self) -> Result<Vec<String>, String> {
        let words = match words::json(self.text) {
            Some(words) => words?,
            None => words::split(self.text, self.escape),
        };
        self.some(words)
    }

    fn shell(&self) -> Result<Vec<String>, String> {
        match words::json(self.text) {
            Some(words) => self.some(words?),
            None => Err("SHELL requires the arguments to be in JSON form".into()),
        }
    }

    fn health(&self) -> Result<Health, String> {
        let (kind, rest) = words::keyword(self.text);
        match kind.to_ascii_uppercase().as_str() {
            "NONE" if rest.is_empty() => Ok(Health::None),
            "NONE" => Err("HEALTHCHECK NONE takes no arguments".into()),
            "CMD" => {
                Arguments { keyword: "HEALTHCHECK CMD", text: rest, ..*self }.command().map(Health::Command)
            }
            "" => Err("HEALTHCHECK requires at least one argument".into()),
            other => Err(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")),
        }
    }

    fn trigger(&self, documents: Vec<HereDocument>) -> Result<Kind, String> {
        let mut text = self.one()?;
        for document in documents {
            text.push_str(&format!("\n{}{}", document.content, document.name));
        }
        let (keyword, _) = words::keyword(&text);
        match keyword.to_ascii_uppercase().as_str() {
            "ONBUILD" => Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into()),
            trigger @ ("FROM" | "MAINTAINER") => {
                Err(format!("{trigger} isn't allowed as an ONBUILD trigger"))
            }
            trigger if known_flags(trigger).is_none() => Err(format!("unknown instruction: {keyword}")),
            _ => Ok(Kind::OnBuild(text)),
        }
    }

    fn exactly_one(&self) -> Result<String, String> {
        self.one().map_err(|_| format!("{} requires exactly one argument", self.keyword))
    }

    fn one(&self) -> Result<String, String> {
        let text = self.text.trim();
        if text.is_empty() {
            return Err(format!("{} requires at least one argument", self.keyword));
        }
        Ok(text.to_owned())
    }

    fn some(&self, words: Vec<String>) -> Result<Vec<String>, String> {
        if words.is_empty() {
            return Err(format!("{} requires at least one argument", self.keyword));
        }
        Ok(words)
    }
}
