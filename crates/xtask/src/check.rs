//! Everything a change must pass, the cheapest first.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

/// Runs the checks; stops at the first that fails, but for the tests, which all run.
pub(crate) fn run(end_to_end: bool) -> anyhow::Result<()> {
    step("format", &["cargo", "fmt", "--all", "--check"], &[])?;
    no_conflict_markers()?;
    step(
        "licences, sources, duplicates",
        &["cargo", "deny", "--log-level", "error", "check", "bans", "licenses", "sources"],
        &[],
    )?;
    step("lints", &["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    step(
        "docs",
        &["cargo", "doc", "--workspace", "--no-deps", "--document-private-items"],
        &[("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links -A rustdoc::invalid_html_tags")],
    )?;
    let before = Host::look()?;
    // Both kinds of tests, whatever becomes of the first: one run is to tell all that fails.
    let mut results = vec![step(
        "unit and integration tests",
        &["cargo", "nextest", "run", "--workspace", "-E", "not binary(e2e)"],
        &[],
    )];
    if end_to_end {
        // The whole workspace again: one package alone would have other features, and be built anew.
        results.push(step(
            "end-to-end tests",
            &["cargo", "nextest", "run", "--workspace", "-E", "binary(e2e)"],
            &[],
        ));
    }
    results.push(before.assert_unchanged());
    let failed: Vec<_> =
        results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// A conflict that was committed unresolved: documents have no compiler that would tell.
fn no_conflict_markers() -> anyhow::Result<()> {
    let found =
        Command::new("git").args(["grep", "-nE", "^(<<<<<<<|>>>>>>>) "]).output().context("start git")?;
    anyhow::ensure!(
        found.stdout.is_empty(),
        "unresolved conflicts: {}",
        String::from_utf8_lossy(&found.stdout)
    );
    Ok(())
}

fn step(name: &str, command: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<()> {
    eprintln!("── {name}");
    let begun = Instant::now();
    let status = crate::cargo().args(&command[1..]).envs(environment.iter().copied()).status();
    let status = status.with_context(|| format!("start {}", command[0]))?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    eprintln!("── {name}: {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// What tests could leave behind on the host.
#[derive(PartialEq)]
struct Host {
    traces: Vec<String>,
}

impl Host {
    fn look() -> anyhow::Result<Self> {
        let said = |program: &str, arguments: &[&str]| -> anyhow::Result<Vec<String>> {
            let output =
                Command::new(program).args(arguments).output().with_context(|| format!("start {program}"))?;
            Ok(String::from_utf8_lossy(&output.stdout)
                .lines()
                .map(|line| format!("{program}: {line}"))
                .collect())
        };
        let mut traces = said("ip", &["-o", "-br", "link"])?;
        traces.iter_mut().for_each(|line| {
            line.truncate(line.find(' ').map_or(line.len(), |_| line.trim_end().len().min(40)))
        });
        traces.extend(said("ip", &["netns", "list"])?);
        traces.extend(said("nft", &["list", "tables"])?);
        traces.extend(said("findmnt", &["-rno", "TARGET,FSTYPE"])?);
        traces.extend(said("find", &["/sys/fs/cgroup", "-mindepth", "1", "-maxdepth", "3", "-type", "d"])?);
        traces.extend(said(
            "pgrep",
            &["-a", "-f", "^[^ ]*cirro (up|supervisor|guardian)( |$)|^[^ ]*qemu-system"],
        )?);
        traces.sort();
        Ok(Self { traces })
    }

    fn assert_unchanged(&self) -> anyhow::Result<()> {
        let after = Self::look()?;
        let left: Vec<_> = after.traces.iter().filter(|trace| !self.traces.contains(trace)).collect();
        if !left.is_empty() {
            bail!("the tests left behind: {left:#?}");
        }
        Ok(())
    }
}
