//! The project's tasks: `cargo xtask check`, `cargo xtask bench`.

#![allow(clippy::print_stdout, reason = "tables are what this program is for")]

use clap::{Parser, Subcommand};

mod bench;
mod check;
mod conformance;
mod suite;

/// Tasks of the project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Format, lints, docs, licences, tests
    Check {
        /// Also the tests that drive the whole product with docker and kubectl
        #[arg(long)]
        end_to_end: bool,
    },
    /// Measure what docs/SPECIFICATION.md promises, beside its peers
    Bench {
        /// Which: up, memory, run, engine, pod, runtime, registry, build, api, all
        #[arg(default_value = "all")]
        which: bench::Which,
        /// Rounds of each measurement
        #[arg(long, default_value_t = 20)]
        rounds: usize,
        /// Measure this executable instead of a release build of the tree
        #[arg(long, value_name = "FILE")]
        binary: Option<std::path::PathBuf>,
    },
    /// Write docs/conformance-kubernetes.md from its table
    Conformance,
    /// Run a suite of tests against a fresh cloud
    Suite {
        /// Which suite
        which: suite::Which,
        /// Try this executable instead of a release build of the tree
        #[arg(long, value_name = "FILE")]
        binary: Option<std::path::PathBuf>,
        /// Only the Dockerfiles or groups with this in their names
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
    },
}

/// A cargo that does not see that another cargo started it: build scripts look at such variables, and what they
/// built would be built anew.
fn cargo() -> std::process::Command {
    let mut command = std::process::Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_setting = matches!(&*text, "CARGO_HOME" | "CARGO_TARGET_DIR" | "CARGO_TERM_COLOR");
        if (text.starts_with("CARGO") && !is_setting) || text.starts_with("LIBSECCOMP_") {
            command.env_remove(&name);
        }
    }
    command
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Check { end_to_end } => check::run(end_to_end),
        Task::Bench { which, rounds, binary } => bench::run(which, rounds, binary),
        Task::Conformance => conformance::write(),
        Task::Suite { which, binary, only } => suite::run(which, binary, &only),
    }
}
