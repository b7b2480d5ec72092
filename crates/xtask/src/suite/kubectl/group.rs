//! One group of checks: run, and what came of it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use super::server::Server;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/suite/kubectl/group.sh");
/// One group's time; upstream's longest takes two minutes.
const LIMIT_SECONDS: &str = "420";

/// What came of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Checks that held.
    pub(super) passed: u32,
    /// Where one did not (`core.sh:12`), and the command there.
    pub(super) failed: Vec<(String, String)>,
}

/// Runs a group against a server of its own; its whole output goes into a file under `logs`.
pub(super) async fn run(suite: &Path, group: &str, logs: &Path) -> anyhow::Result<Outcome> {
    let directory = tempfile::tempdir().context("make a directory")?;
    let (work, results) = (directory.path().join("work"), directory.path().join("results"));
    std::fs::create_dir(&work)?;
    let server = Server::start(directory.path()).await?;
    let log = std::fs::File::create(logs.join(format!("{group}.log")))?;
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", LIMIT_SECONDS, "bash", SCRIPT])
        .current_dir(suite.join("source"))
        .env("GROUP", group)
        .env("RESULTS", &results)
        .env("TMPDIR", &work)
        .env("SECURE_API_PORT", server.port.to_string())
        .env("ADMIN_TOKEN", &server.token)
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let ended = tokio::task::spawn_blocking(move || command.status()).await?.context("start bash");
    server.stop().await;
    ended?;
    Ok(read(&std::fs::read_to_string(&results).unwrap_or_default()))
}

/// Reads what the script wrote. A group that did not come to its end has failed there.
fn read(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut ended = false;
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("passed ") {
            ended = true;
            outcome.passed = number.parse().unwrap_or(0);
        } else if let Some((place, command)) =
            line.strip_prefix("fail ").and_then(|rest| rest.split_once(' '))
            && !outcome.failed.iter().any(|(known, _)| known == place)
        {
            outcome.failed.push((place.to_owned(), command.to_owned()));
        }
    }
    if !ended {
        outcome.failed.push(("end".into(), "the group did not come to its end".into()));
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_once_and_an_end_is_wanted() {
        let text = "fail a.sh:1 kubectl x\nfail a.sh:1 kubectl x\npassed 7\n";
        let failed = vec![("a.sh:1".to_owned(), "kubectl x".to_owned())];
        assert_eq!(read(text), Outcome { passed: 7, failed });
        assert_eq!(read("fail a.sh:1 kubectl x\n").failed.len(), 2);
    }
}
