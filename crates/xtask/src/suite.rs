//! Test suites that are run against a fresh cloud, beside a peer or a checked-in list of what passes.

mod bollard;
mod dockerfiles;
mod kube_rs;
mod kubectl;

use std::path::PathBuf;

use crate::bench::release_binary;

/// Which suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Which {
    /// The tests in the published crate `bollard`, a Docker client in Rust.
    Bollard,
    /// Our own Dockerfiles, one for every instruction and flag, beside dockerd's classic builder.
    Dockerfiles,
    /// A client made with kube-rs: objects, watches, a controller, streams of pods.
    KubeRs,
    /// Upstream's kubectl scripts against the API server of this tree, in this process.
    Kubectl,
}

/// Runs a suite; fails when something does not pass that is to pass.
pub(crate) fn run(which: Which, binary: Option<PathBuf>, only: &str) -> anyhow::Result<()> {
    let binary = || binary.map_or_else(release_binary, |binary| Ok(std::path::absolute(binary)?));
    match which {
        Which::Bollard => bollard::run(&binary()?),
        Which::Dockerfiles => dockerfiles::run(&binary()?, only),
        Which::KubeRs => kube_rs::run(&binary()?),
        Which::Kubectl => kubectl::run(only),
    }
}
