//! One directory of the corpus: a Dockerfile and what is said about it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::built::{Built, Subject, build};
use super::serve::Served;
use crate::bench::{Builders, said};

/// What the result is compared with.
#[derive(Debug, PartialEq, Eq)]
enum Measure {
    Dockerd,
    Buildah,
    /// Lines that the tree or the configuration must have.
    Lines(Vec<String>),
    /// It must not be built: what ours, and dockerd's unless the second is empty, says of it.
    Refused(String, String),
}

/// A case.
pub(super) struct Case {
    pub(super) name: String,
    directory: PathBuf,
    measure: Measure,
    /// For the command line.
    arguments: Vec<String>,
    /// Differences that are meant.
    meant: Vec<String>,
    serves: bool,
}

impl Case {
    /// Reads the corpus, in the order of the names.
    pub(super) fn all(corpus: &Path) -> anyhow::Result<Vec<Self>> {
        let mut directories: Vec<PathBuf> =
            std::fs::read_dir(corpus)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        directories.retain(|directory| directory.is_dir());
        directories.sort();
        directories.into_iter().map(Self::read).collect()
    }

    fn read(directory: PathBuf) -> anyhow::Result<Self> {
        let lines = |name: &str| -> Option<Vec<String>> {
            let text = std::fs::read_to_string(directory.join(name)).ok()?;
            Some(text.lines().filter(|line| !line.starts_with("# ")).map(str::to_owned).collect())
        };
        let measure = match (lines("expected"), lines("refused"), directory.join("buildah").exists()) {
            (Some(lines), None, false) => Measure::Lines(lines),
            (None, Some(mut lines), false) => {
                ensure!(!lines.is_empty(), "{}: `refused` is empty", directory.display());
                let theirs = lines.get(1).cloned();
                let ours = lines.swap_remove(0);
                Measure::Refused(ours.clone(), theirs.unwrap_or(ours))
            }
            (None, None, true) => Measure::Buildah,
            (None, None, false) => Measure::Dockerd,
            _ => anyhow::bail!("{}: more than one measure", directory.display()),
        };
        Ok(Self {
            name: directory.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            measure,
            arguments: lines("arguments").unwrap_or_default(),
            meant: lines("differs").unwrap_or_default(),
            serves: directory.join("serve").exists(),
            directory: std::path::absolute(&directory)?,
        })
    }

    /// What it is compared with, for people.
    pub(super) fn measure(&self) -> &'static str {
        match self.measure {
            Measure::Dockerd => "dockerd",
            Measure::Buildah => "buildah",
            Measure::Lines(_) => "checked in",
            Measure::Refused(..) => "refused",
        }
    }

    /// Returns what differs and is not to.
    pub(super) fn run(&self, builders: &Builders) -> anyhow::Result<Vec<String>> {
        let work = tempfile::tempdir()?;
        let context = work.path().join("context");
        let script = r#"umask 022; mkdir "$2"; cp "$1/Dockerfile" "$2"; cd "$2"; [ ! -e "$1/setup" ] || bash -eu "$1/setup""#;
        said(Command::new("bash").args(["-euc", script, "setup"]).args([&self.directory, &context]))?;
        let mut arguments = self.arguments.clone();
        let served = self.serves.then(|| Served::start(&context, &builders.dockerd.namespace)).transpose()?;
        if let Some(served) = &served {
            arguments.extend(["--build-arg".into(), format!("URL={}", served.url())]);
        }
        let subject = Subject { name: &self.name, context: &context, arguments: &arguments };
        let ours_host = builders.cloud.docker_host();
        let differences = match &self.measure {
            Measure::Refused(ours, theirs) => {
                let hosts = [("cirro", &ours_host, ours), ("dockerd", &builders.dockerd.host, theirs)];
                hosts
                    .into_iter()
                    .filter_map(|(who, host, words)| refusal(&subject, who, host, words))
                    .collect()
            }
            Measure::Lines(lines) => {
                let ours = Built::by_docker(&subject, &ours_host, &work.path().join("ours"))?;
                lines.iter().filter(|line| !ours.has(line)).map(|line| format!("missing: {line}")).collect()
            }
            Measure::Dockerd => {
                let ours = Built::by_docker(&subject, &ours_host, &work.path().join("ours"))?;
                let theirs = Built::by_docker(&subject, &builders.dockerd.host, &work.path().join("theirs"))?;
                ours.differences(&theirs, "dockerd")
            }
            Measure::Buildah => {
                let ours = Built::by_docker(&subject, &ours_host, &work.path().join("ours"))?;
                let theirs = Built::by_buildah(&subject, &builders.buildah).context("buildah")?;
                ours.without_history().differences(&theirs, "buildah")
            }
        };
        Ok(self.unmeant(differences))
    }

    /// Leaves the differences that are not meant, and those that are meant and no longer there.
    fn unmeant(&self, differences: Vec<String>) -> Vec<String> {
        let is_gone = |line: &&String| !differences.iter().any(|found| found.starts_with(line.as_str()));
        let gone = self.meant.iter().filter(is_gone).map(|line| format!("no longer differs: {line}"));
        let gone: Vec<String> = gone.collect();
        let is_meant = |line: &String| self.meant.iter().any(|meant| line.starts_with(meant.as_str()));
        differences.into_iter().filter(|line| !is_meant(line)).chain(gone).collect()
    }
}

/// Returns what is wrong with a build that is to fail with these words. No words: there the build may go as it will.
fn refusal(subject: &Subject<'_>, who: &str, host: &str, words: &str) -> Option<String> {
    if words.is_empty() {
        return None;
    }
    match build(subject, host) {
        Ok(_) => Some(format!("{who} builds it")),
        Err(error) => {
            let text = format!("{error:#}");
            (!text.contains(words)).then(|| format!("{who} says: {text}"))
        }
    }
}
