//! Test suites of published clients, run against a fresh cloud and compared with checked-in lists of what passes.

mod bollard;

use std::path::PathBuf;

use crate::bench::release_binary;

/// Which suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Which {
    /// The tests in the published crate `bollard`, a Docker client in Rust.
    Bollard,
}

/// Runs a suite; fails when something does not pass that is to pass.
pub(crate) fn run(which: Which, binary: Option<PathBuf>) -> anyhow::Result<()> {
    let binary = binary.map_or_else(release_binary, |binary| Ok(std::path::absolute(binary)?))?;
    match which {
        Which::Bollard => bollard::run(&binary),
    }
}
