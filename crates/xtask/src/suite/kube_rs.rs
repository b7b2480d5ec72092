//! A client made with kube-rs (`tests/clients/kube-rs`, a workspace of its own) against a fresh cloud.
//!
//! It is no part of the end-to-end tests: what kube-rs needs takes minutes to build, most of it k8s-openapi.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::bench::cloud::Cloud;
use crate::bench::{image, said};

/// Parts of the program; each says that it holds.
const PARTS: [&str; 8] =
    ["discovery", "objects", "watching", "reflecting", "operator", "workload", "forwarding", "evicting"];

/// Builds the program and runs it.
pub(crate) fn run(binary: &Path) -> anyhow::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kube-rs-client");
    let program = said(Command::new("bash").arg(script))?;
    let cloud = Cloud::new(binary)?;
    cloud.start()?;
    let archive = image("busybox")?;
    let mut load = Command::new("docker");
    said(load.env("DOCKER_HOST", cloud.docker_host()).args(["load", "--quiet", "--input", &archive]))?;
    let mut command = Command::new(program.trim());
    let output = command.env("KUBECONFIG", cloud.kubeconfig()).env("FORWARD", "1").output();
    let output = output.context("run the program")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{text}");
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    let missing: Vec<&str> =
        PARTS.into_iter().filter(|part| !text.lines().any(|line| line == format!("{part} ok"))).collect();
    ensure!(missing.is_empty(), "it did not say that these hold: {}", missing.join(", "));
    println!("all {} parts of the kube-rs client hold", PARTS.len());
    Ok(())
}
