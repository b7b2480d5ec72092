//! Our own Dockerfiles built by cirro and by a peer: file trees, configuration and history must be the same.
//!
//! The peer is dockerd's classic builder; buildah for cases that only it knows; for the rest lines that are checked in.
//! What is to differ stands with its reason beside the case. See the README of the corpus for the files of a case.

mod built;
mod case;
mod serve;

use std::path::Path;

use anyhow::bail;

use crate::bench::Builders;
use case::Case;

const CORPUS: &str = "tests/corpus/dockerfiles";

/// Builds and compares all; prints what differs. `only` is a part of the names of the cases that are wanted.
pub(super) fn run(binary: &Path, only: &str) -> anyhow::Result<()> {
    let work = tempfile::tempdir()?;
    let builders = Builders::start(binary, work.path())?;
    let mut cases = Case::all(Path::new(CORPUS))?;
    cases.retain(|case| case.name.contains(only));
    let mut failed = Vec::new();
    for case in &cases {
        let differences = case.run(&builders).unwrap_or_else(|error| vec![format!("{error:#}")]);
        let verdict = if differences.is_empty() { "as it is to be" } else { "differs" };
        println!("{} ({}): {verdict}", case.name, case.measure());
        differences.iter().for_each(|line| println!("    {line}"));
        if !differences.is_empty() {
            failed.push(case.name.clone());
        }
    }
    if !failed.is_empty() {
        bail!("{} of {} differ: {}", failed.len(), cases.len(), failed.join(" "));
    }
    println!(
        "{} Dockerfiles, all as {} and {} and what is checked in",
        cases.len(),
        builders.dockerd.version,
        builders.buildah.version
    );
    Ok(())
}
