//! The project's tasks: `cargo xtask check`, `cargo xtask bench`.

#![allow(clippy::print_stdout, reason = "tables are what this program is for")]

use clap::{Parser, Subcommand};

mod bench;
mod check;

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
        /// Which: up, memory, run, pod, all
        #[arg(default_value = "all")]
        which: bench::Which,
        /// Rounds of each measurement
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Check { end_to_end } => check::run(end_to_end),
        Task::Bench { which, rounds } => bench::run(which, rounds),
    }
}
