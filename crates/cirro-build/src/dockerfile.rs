//! The Dockerfile: text to instructions with their lines; nothing is expanded or looked up here.
//!
//! ## Theory of operation
//! text ─▶ [`lines`]: directives, comments, continuations, here-documents ─▶ one [`lines::Logical`] per instruction
//!      ─▶ [`words`]: keyword, flags, JSON form, quoted words ─▶ [`instruction`]: one [`Instruction`]
//!
//! The reader is our own although the crate `parse-dockerfile` exists: that one (0.1.9) knows a here-document
//! only as the first word of a `RUN` and only one of them, so that `RUN cat <<EOF > /etc/motd` fails on the
//! document's first line, and it leaves continuations and comments in the shell form.
//!
//! Source: BuildKit, `frontend/dockerfile/parser` and `frontend/dockerfile/instructions`.

pub(crate) mod instruction;
pub(crate) mod lines;
pub(crate) mod words;

pub(crate) use instruction::{Command, Health, Instruction, Kind, Transfer, TransferSource};
pub(crate) use lines::HereDocument;

use crate::BuildError;

/// Bytes of a Dockerfile that we read.
pub(crate) const MAX_DOCKERFILE_BYTES: u64 = 4 << 20;
const MAX_INSTRUCTIONS: usize = 10_000;

/// A wrong line: its number, from 1, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl From<Wrong> for BuildError {
    fn from(wrong: Wrong) -> Self {
        Self::Parse { line: wrong.line, message: wrong.message }
    }
}

/// A parsed Dockerfile.
#[derive(Debug)]
pub(crate) struct Dockerfile {
    /// `\` or the backtick.
    pub(crate) escape: char,
    /// `ARG`s before the first `FROM`.
    pub(crate) global: Vec<Instruction>,
    /// The stages, at least one.
    pub(crate) stages: Vec<Stage>,
}

/// A `FROM` and what follows it.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) from: Instruction,
    /// The image or the name of an earlier stage, not yet expanded.
    pub(crate) image: String,
    /// The name after `AS`, in lower case.
    pub(crate) name: Option<String>,
    pub(crate) body: Vec<Instruction>,
}

impl Stage {
    /// Returns its name, or else its number among the stages.
    pub(crate) fn title(&self, index: usize) -> String {
        self.name.clone().unwrap_or_else(|| index.to_string())
    }
}

/// Parses a Dockerfile.
pub(crate) fn parse(text: &str) -> Result<Dockerfile, Wrong> {
    let source = lines::read(text)?;
    if source.lines.is_empty() {
        return Err(Wrong { line: 1, message: "file with no instructions".into() });
    }
    if source.lines.len() > MAX_INSTRUCTIONS {
        let line = source.lines[MAX_INSTRUCTIONS].line;
        return Err(Wrong { line, message: format!("more than {MAX_INSTRUCTIONS} instructions") });
    }
    let mut file = Dockerfile { escape: source.escape, global: Vec::new(), stages: Vec::new() };
    for logical in source.lines {
        let line = logical.line;
        let instruction = instruction::parse(logical, source.escape)?;
        match (&instruction.kind, file.stages.last_mut()) {
            (Kind::From { image, name }, _) => {
                let (image, name) = (image.clone(), name.clone());
                if name.is_some() && file.stages.iter().any(|stage| stage.name == name) {
                    let message = format!("duplicate name {}", name.unwrap_or_default());
                    return Err(Wrong { line, message });
                }
                file.stages.push(Stage { from: instruction, image, name, body: Vec::new() });
            }
            (_, Some(stage)) => stage.body.push(instruction),
            (Kind::Arg(_), None) => file.global.push(instruction),
            (_, None) => {
                let message = "no build stage in current context".to_owned();
                return Err(Wrong { line, message });
            }
        }
    }
    if file.stages.is_empty() {
        return Err(Wrong { line: 1, message: "no build stage in current context".into() });
    }
    Ok(file)
}

/// Parses one instruction that a base image carries in its `OnBuild`; errors name `line`, the `FROM`'s.
pub(crate) fn parse_trigger(text: &str, line: usize) -> Result<Instruction, Wrong> {
    let source = lines::read(text).map_err(|wrong| Wrong { line, ..wrong })?;
    let [logical] = <[_; 1]>::try_from(source.lines)
        .map_err(|_| Wrong { line, message: format!("ONBUILD trigger is not one instruction: {text}") })?;
    let instruction = instruction::parse(lines::Logical { line, ..logical }, source.escape)?;
    match instruction.kind {
        Kind::From { .. } | Kind::Maintainer(_) | Kind::OnBuild(_) => {
            let message = format!("{} isn't allowed as an ONBUILD trigger", instruction.keyword);
            Err(Wrong { line, message })
        }
        _ => Ok(instruction),
    }
}

#[cfg(test)]
mod tests;
