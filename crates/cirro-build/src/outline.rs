//! What a Dockerfile has of stages and steps, for those who show how a build goes.

use std::path::Path;

use crate::BuildError;
use crate::context::{MAX_IGNORE_BYTES, ignore_names};
use crate::dockerfile::{self, Dockerfile, Instruction, Kind, MAX_DOCKERFILE_BYTES};
use crate::error::Refusal;
use crate::union::Union;

/// A Dockerfile's stages, and its text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The whole text.
    pub text: String,
    /// The stages in their order.
    pub stages: Vec<StageOutline>,
}

/// A stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageOutline {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The steps, `FROM` first.
    pub steps: Vec<StepOutline>,
}

/// A step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepOutline {
    /// Line that it begins on, from 1.
    pub line: usize,
    /// Its instruction, in upper case.
    pub keyword: String,
    /// Whether it makes a layer, or fetches an image: the steps that BuildKit shows.
    pub shown: bool,
}

impl Outline {
    /// Describes a Dockerfile; one that cannot be parsed has a text only.
    pub(crate) fn of(text: &str, file: Option<&Dockerfile>) -> Self {
        let Some(file) = file else { return Self { text: text.to_owned(), stages: Vec::new() } };
        let stage = |(index, stage): (usize, &dockerfile::Stage)| {
            let name = stage.image.to_ascii_lowercase();
            let earlier = file.stages[..index].iter().any(|stage| stage.name.as_ref() == Some(&name));
            let fetched = name != "scratch" && !earlier;
            let first = StepOutline { shown: fetched, ..step(&stage.from) };
            let steps = std::iter::once(first).chain(stage.body.iter().map(step)).collect();
            StageOutline { name: stage.name.clone(), steps }
        };
        Self { text: text.to_owned(), stages: file.stages.iter().enumerate().map(stage).collect() }
    }
}

fn step(instruction: &Instruction) -> StepOutline {
    let shown = matches!(
        instruction.kind,
        Kind::Run { .. } | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_) | Kind::From { .. }
    );
    StepOutline { line: instruction.line, keyword: instruction.keyword.clone(), shown }
}

/// A Dockerfile that was sent apart from its context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SentDockerfile {
    /// Its text.
    pub text: String,
    /// The rules of `<name>.dockerignore`, or of `.dockerignore`, if that is there.
    pub ignore: Option<String>,
}

impl SentDockerfile {
    /// Reads the Dockerfile `name` of a directory; blocks. Links are followed inside the directory only.
    ///
    /// # Errors
    /// [`BuildError::NoDockerfile`] if it is not there, [`BuildError::Context`] if it is too large or no text.
    pub fn read(dir: &Path, name: &str) -> Result<Self, BuildError> {
        let wrong = |refusal: Refusal| BuildError::Context { message: refusal.to_string() };
        let root = Union::read_only(&[dir.to_owned()]).map_err(|error| wrong(Refusal::at(dir)(error)))?;
        let read = |name: &str, limit| {
            let bytes = root.read(Path::new(name), limit);
            bytes.map_err(|error| wrong(Refusal::at(name)(error)))
        };
        let Some(bytes) = read(name, MAX_DOCKERFILE_BYTES)? else {
            return Err(BuildError::NoDockerfile { path: name.to_owned() });
        };
        let text = String::from_utf8(bytes);
        let text = text.map_err(|_| wrong(Refusal::new(format!("{name} is not UTF-8 text"))))?;
        let mut ignore = None;
        for name in ignore_names(name) {
            if let Some(bytes) = read(&name, MAX_IGNORE_BYTES)? {
                ignore = Some(String::from_utf8_lossy(&bytes).into_owned());
                break;
            }
        }
        Ok(Self { text, ignore })
    }
}

/// Reads the rules that a context has for every Dockerfile; blocks.
///
/// # Errors
/// [`BuildError::Context`] if they are too long or cannot be read.
pub fn read_ignore(dir: &Path) -> Result<Option<String>, BuildError> {
    let wrong = |refusal: Refusal| BuildError::Context { message: refusal.to_string() };
    let root = Union::read_only(&[dir.to_owned()]).map_err(|error| wrong(Refusal::at(dir)(error)))?;
    let [_, name] = ignore_names("");
    let bytes = root.read(Path::new(&name), MAX_IGNORE_BYTES);
    let bytes = bytes.map_err(|error| wrong(Refusal::at(name)(error)))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Returns the rules of ignore text one by one, as a client takes them that leaves files out while it sends.
pub fn ignore_rules(text: &str) -> Vec<String> {
    // Only a `#` in the first column makes a comment.
    let lines = text.trim_start_matches('\u{feff}').lines().filter(|line| !line.starts_with('#'));
    lines.map(str::trim).filter(|rule| !rule.is_empty()).map(clean_rule).collect()
}

fn clean_rule(rule: &str) -> String {
    let (not, path) = match rule.strip_prefix('!') {
        Some(path) => ("!", path.trim()),
        None => ("", rule),
    };
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("{not}{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_and_shown_steps_are_told() {
        let text = "ARG A=1\nFROM busybox AS base\nENV x=y\nRUN a\n\nFROM base\nCOPY --from=base /a /b\nFROM scratch\nCMD x\n";
        let outline = Outline::of(text, dockerfile::parse(text).ok().as_ref());
        let shown: Vec<Vec<(usize, bool)>> = outline
            .stages
            .iter()
            .map(|stage| stage.steps.iter().map(|step| (step.line, step.shown)).collect())
            .collect();
        assert_eq!(
            shown,
            [
                vec![(2, true), (3, false), (4, true)],
                vec![(6, false), (7, true)],
                vec![(8, false), (9, false)]
            ]
        );
        assert_eq!(outline.stages[0].name.as_deref(), Some("base"));
    }

    #[test]
    fn a_dockerfile_is_read_with_its_rules() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("D", "FROM x");
        write(".dockerignore", "all");
        assert_eq!(SentDockerfile::read(dir.path(), "D").unwrap().ignore.as_deref(), Some("all"));
        write("D.dockerignore", "own");
        assert_eq!(SentDockerfile::read(dir.path(), "D").unwrap().ignore.as_deref(), Some("own"));
        assert!(matches!(SentDockerfile::read(dir.path(), "E"), Err(BuildError::NoDockerfile { .. })));
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("L")).unwrap();
        assert!(matches!(SentDockerfile::read(dir.path(), "L"), Err(BuildError::NoDockerfile { .. })));
    }

    #[test]
    fn rules_are_sent_clean() {
        let rules = ignore_rules("\u{feff}# c\n\n /a/b/ \n!./keep\n**/*.o\n");
        assert_eq!(rules, ["a/b", "!keep", "**/*.o"]);
    }
}
