//! Upstream's own kubectl scripts (`test/cmd`, release 1.20.2) with the kubectl of that release, against our API server.
//!
//! Debian has both as packages; nothing of them is committed. Every group has a server of its own, so that groups run side by
//! side and one that fails does not spoil the next. `kubectl/expected.txt` says how many checks of a group hold and which
//! cannot, and why; a run fails when it is worse than that.

mod expected;
mod group;
mod server;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, bail};

use crate::bench::said;
use expected::Expected;
use group::Outcome;

/// Read when it is needed, so that a new line in it needs no new build.
const EXPECTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/suite/kubectl/expected.txt");
/// Checks that upstream has between the groups.
const INLINE: &str = "inline";
/// Groups at a time; they wait for kubectl's start most of the time.
const WORKERS: usize = 3;

/// Runs every group with `only` in its name.
pub(super) fn run(only: &str) -> anyhow::Result<()> {
    let suite = fetch()?;
    let mut groups = groups(&suite)?;
    groups.retain(|group| group.contains(only));
    report(&groups, &run_all(&suite, &groups)?)
}

/// Brings the packages into the cache; returns where they are.
fn fetch() -> anyhow::Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kubectl-suite");
    Ok(PathBuf::from(said(Command::new("bash").arg(script))?.trim()))
}

/// Returns upstream's groups in their order.
fn groups(suite: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(suite.join("source/test/cmd/legacy-script.sh"))?;
    let mut groups = Vec::new();
    for line in text.lines().map(str::trim) {
        let name = line.strip_prefix("record_command ").unwrap_or(line);
        let is_group =
            name.starts_with("run_") && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_group && !groups.iter().any(|known| known == name) {
            groups.push(name.to_owned());
        }
    }
    groups.push(INLINE.to_owned());
    Ok(groups)
}

/// Runs groups, some at a time.
fn run_all(suite: &Path, groups: &[String]) -> anyhow::Result<BTreeMap<String, Outcome>> {
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/suites/kubectl");
    std::fs::create_dir_all(&logs)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let queue: Arc<Mutex<VecDeque<String>>> = Arc::new(Mutex::new(groups.iter().cloned().collect()));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..WORKERS {
        let (suite, logs, queue) = (suite.to_owned(), logs.clone(), queue.clone());
        workers.spawn_on(
            async move {
                let next = || queue.lock().expect("no panic while it is held").pop_front();
                let mut outcomes = BTreeMap::new();
                while let Some(group) = next() {
                    let begun = Instant::now();
                    let outcome = group::run(&suite, &group, &logs).await.with_context(|| group.clone())?;
                    let seconds = begun.elapsed().as_secs();
                    println!(
                        "{group}: {} passed, {} failed, {seconds} s",
                        outcome.passed,
                        outcome.failed.len()
                    );
                    outcomes.insert(group, outcome);
                }
                anyhow::Ok(outcomes)
            },
            runtime.handle(),
        );
    }
    runtime.block_on(async {
        let mut outcomes = BTreeMap::new();
        while let Some(ended) = workers.join_next().await {
            outcomes.extend(ended??);
        }
        Ok(outcomes)
    })
}

/// Prints the table and what is worse than it was; fails when something is.
fn report(groups: &[String], outcomes: &BTreeMap<String, Outcome>) -> anyhow::Result<()> {
    let expected = expected::read(&std::fs::read_to_string(EXPECTED)?)?;
    let nothing = Expected::default();
    let (mut table, mut lost) = (String::new(), Vec::new());
    let (mut passed, mut failed) = (0, 0);
    for group in groups {
        let outcome = outcomes.get(group).with_context(|| format!("an outcome of {group}"))?;
        let expected = expected.get(group).unwrap_or(&nothing);
        passed += outcome.passed as usize;
        failed += outcome.failed.len();
        // In the form of the list, so that it can be taken over.
        writeln!(table, "{group} {}", outcome.passed)?;
        for (place, command) in &outcome.failed {
            match expected.known(place) {
                Some(known) => writeln!(table, "    {} {place} {}", known.kind, known.reason)?,
                None => writeln!(table, "    failed {place} {command}")?,
            }
        }
        lost.extend(expected.lost(outcome).into_iter().map(|line| format!("{group}: {line}")));
    }
    println!("\n{table}\n{passed} checks of {} groups hold, {failed} do not", groups.len());
    if !lost.is_empty() {
        bail!("worse than the list:\n{}", lost.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that need few seconds each; the whole is `cargo xtask suite kubectl`.
    const QUICK: [&str; 9] = [
        "run_assert_categories_tests",
        "run_kubectl_version_tests",
        "run_kubectl_diff_tests",
        "run_create_secret_tests",
        "run_create_job_tests",
        "run_certificates_tests",
        "run_authorization_tests",
        "run_namespace_tests",
        "run_kubectl_local_proxy_tests",
    ];

    #[test]
    fn quick_groups_of_upstreams_kubectl_scripts_hold() {
        if let Ok(only) = std::env::var("KUBECTL_GROUPS") {
            return run(&only).unwrap();
        }
        let suite = match fetch() {
            Ok(suite) => suite,
            // The suite of Debian that has the client is an old one; one day it is gone.
            Err(why) => return eprintln!("skipped: the packages cannot be had: {why:#}"),
        };
        let groups = QUICK.map(str::to_owned);
        report(&groups, &run_all(&suite, &groups).unwrap()).unwrap();
    }
}
