//! The tests in the published crate `bollard`, against a fresh cloud.
//!
//! The crate comes through cargo into a scratch directory. Its tests pull images of Docker Hub from a registry of the caller's:
//! the cloud's own, with images that are built here from our own base image and have in them what the tests look for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::bench::cloud::Cloud;
use crate::bench::said;
use crate::cargo;

const VERSION: &str = "0.19.4";
/// Those that need neither a swarm nor BuildKit nor credentials.
const TESTS: [&str; 10] = [
    "container_test",
    "distribution",
    "exec_test",
    "export_test",
    "image_test",
    "network_test",
    "race_test",
    "system_test",
    "version_test",
    "volume_test",
];
/// One name per line; what is not in it may fail.
const PASSES: &str = include_str!("bollard-passes.txt");

const HELLO: &str = "FROM busybox\nRUN printf '#!/bin/sh\\necho\\necho \"Hello from Docker!\"\\n' > /hello && chmod 755 /hello\nCMD [\"/hello\"]\n";
const ALPINE: &str = "FROM busybox\nCMD [\"/bin/sh\"]\n";
const UHTTPD: &str = "FROM busybox\nRUN mkdir -p /www /etc/config /usr/sbin && echo page > /www/index.html && printf '\\nconfig uhttpd main\\n' > /etc/config/uhttpd && printf '#!/bin/sh\\nexec httpd \"$@\"\\n' > /usr/sbin/run_uhttpd && chmod 755 /usr/sbin/run_uhttpd\nCMD [\"/usr/sbin/run_uhttpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"]\n";

/// Runs the tests and compares.
pub(crate) fn run(binary: &Path) -> anyhow::Result<()> {
    let source = fetch()?;
    let programs = build(&source)?;
    ensure!(!programs.is_empty(), "no test programs were built");
    let cloud = Cloud::new(binary)?;
    cloud.start()?;
    let registry = cloud.registry()?.trim().to_owned();
    images(&cloud, &registry)?;
    let mut passed = BTreeSet::new();
    let mut failed = BTreeSet::new();
    for program in &programs {
        // One test asks at dockerd's own place, whatever `DOCKER_HOST` says: there is a `/run` of its own for that.
        let script =
            r#"mount -t tmpfs tmpfs /run && ln -s "${DOCKER_HOST#unix://}" /run/docker.sock && exec "$@""#;
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-euc", script, "test"])
            .arg(program)
            .args(["--test-threads", "1"])
            .current_dir(&source)
            .env("DOCKER_HOST", cloud.docker_host())
            .env("REGISTRY_HTTP_ADDR", &registry)
            .output()
            .with_context(|| format!("run {}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for (name, ok) in results(&text) {
            if ok {
                passed.insert(name)
            } else {
                failed.insert(name)
            };
        }
        print!("{text}");
    }
    compare(&passed, &failed)
}

/// Brings the crate's source into the scratch directory; returns where it is.
fn fetch() -> anyhow::Result<PathBuf> {
    let scratch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/suites");
    let source = scratch.join(format!("bollard-{VERSION}"));
    if source.join("complete").exists() {
        return Ok(source);
    }
    let project = scratch.join("fetch");
    std::fs::create_dir_all(project.join("src"))?;
    std::fs::write(project.join("src/lib.rs"), "")?;
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[dependencies]\nbollard = \"={VERSION}\"\n[workspace]\n"
    );
    std::fs::write(project.join("Cargo.toml"), manifest)?;
    said(cargo().args(["fetch", "--quiet"]).current_dir(&project))?;
    let metadata =
        said(cargo().args(["metadata", "--format-version", "1", "--offline"]).current_dir(&project))?;
    let needle = format!("/bollard-{VERSION}/Cargo.toml\"");
    let end = metadata.find(&needle).context("bollard in cargo's metadata")?;
    let start = metadata[..end].rfind('"').context("a path in cargo's metadata")? + 1;
    let registry = format!("{}/bollard-{VERSION}", &metadata[start..end]);
    let _ = std::fs::remove_dir_all(&source);
    said(Command::new("cp").args(["-r", &registry]).arg(&source))?;
    // It is no member of the workspace that it lies in.
    let mut manifest = std::fs::read_to_string(source.join("Cargo.toml"))?;
    manifest.push_str("\n[workspace]\n");
    std::fs::write(source.join("Cargo.toml"), manifest)?;
    std::fs::write(source.join("complete"), "")?;
    Ok(source)
}

/// Builds the tests; returns the programs.
fn build(source: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut command = cargo();
    command.args(["test", "--no-run", "--message-format", "json"]).current_dir(source);
    command.env("CARGO_TARGET_DIR", source.join("../bollard-target"));
    for test in TESTS {
        command.args(["--test", test]);
    }
    let text = said(&mut command)?;
    let mut programs = Vec::new();
    for line in text.lines().filter(|line| line.contains("\"compiler-artifact\"")) {
        let Some((_, rest)) = line.split_once("\"executable\":\"") else { continue };
        let path = rest.split('"').next().unwrap_or_default();
        if TESTS.iter().any(|test| path.contains(test)) {
            programs.push(PathBuf::from(path));
        }
    }
    Ok(programs)
}

/// Makes the images that the tests use; they are in the registry only.
fn images(cloud: &Cloud, registry: &str) -> anyhow::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/busybox.sh");
    let archive = said(Command::new("bash").arg(script))?;
    let docker = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", cloud.docker_host()).args(arguments);
        command
    };
    said(&mut docker(&["load", "--quiet", "--input", archive.trim()]))?;
    let directory = tempfile::tempdir().context("make a directory")?;
    for (name, text) in [("hello-world:linux", HELLO), ("alpine", ALPINE), ("fussybeaver/uhttpd", UHTTPD)] {
        std::fs::write(directory.path().join("Dockerfile"), text)?;
        let path = directory.path().to_string_lossy().into_owned();
        let name = format!("{registry}/{name}");
        said(&mut docker(&["build", "--quiet", "--tag", &name, &path]))?;
        said(&mut docker(&["push", "--quiet", &name]))?;
        said(&mut docker(&["rmi", "--force", &name]))?;
    }
    Ok(())
}

/// Reads `test NAME ... ok`; what a test prints itself may stand between.
fn results(text: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        let rest = match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            Some((name, rest)) => {
                open = Some(name.to_owned());
                rest
            }
            None => line,
        };
        let verdict = if rest.ends_with("FAILED") {
            Some(false)
        } else if rest == "ok" || rest.ends_with(" ok") {
            Some(true)
        } else {
            None
        };
        if let Some(ok) = verdict
            && let Some(name) = open.take()
        {
            found.push((name, ok));
        }
    }
    found
}

fn compare(passed: &BTreeSet<String>, failed: &BTreeSet<String>) -> anyhow::Result<()> {
    let expected: BTreeSet<String> = PASSES
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    println!("\nbollard {VERSION}: {} passed, {} failed", passed.len(), failed.len());
    for name in passed.difference(&expected) {
        println!("passes and is not in the list: {name}");
    }
    for name in failed.difference(&expected) {
        println!("fails as before: {name}");
    }
    let lost: Vec<&String> = expected.difference(passed).collect();
    if !lost.is_empty() {
        bail!("no longer passed: {lost:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_even_when_a_test_prints() {
        let text =
            "test one ... ok\ntest two ... FAILED\ntest three ... Error { x }\nok\ntest four ... ignored\n";
        let expected =
            [("one", true), ("two", false), ("three", true)].map(|(name, ok)| (name.to_owned(), ok));
        assert_eq!(results(text), expected);
    }
}
