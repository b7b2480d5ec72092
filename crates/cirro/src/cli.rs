//! The command line.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, Flags, Place};
use crate::{build, df, doctor, down, registry, status, store, up};

/// A private cloud in one binary: containers, images, Kubernetes, virtual machines, networks.
#[derive(Debug, Parser)]
#[command(name = "cirro", version, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the cloud on this host; prints a line that starts with `ready` when every API answers
    Up {
        #[command(flatten)]
        flags: Box<Flags>,
        /// Configuration file with the flags' names [default: /etc/cirro/cirro.toml, if it is there]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Return when ready and go on in the background
        #[arg(long)]
        detach: bool,
        /// Set by --detach for the process in the background
        #[arg(long, hide = true)]
        detached: bool,
    },
    /// Build an image from a Dockerfile
    Build(Box<build::flags::Flags>),
    /// Stop the daemon; what it runs goes on
    Down {
        /// Also end and forget everything that it runs; images and volumes stay
        #[arg(long)]
        workloads: bool,
    },
    /// Say what runs
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Explain every byte below the data directory
    Df {
        /// Also list layers, containers and volumes
        #[arg(long, short)]
        verbose: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the exports that point docker and kubectl at this cloud: eval "$(cirro env)"
    Env,
    /// Look for leaks and faults, and say how to mend them
    Doctor {
        /// Mend what can be mended
        #[arg(long)]
        fix: bool,
        /// How to say it
        #[arg(long, value_enum, default_value = "text")]
        output: doctor::Form,
    },
    /// Help with the registry's configuration
    Registry {
        #[command(subcommand)]
        command: RegistryCommand,
    },
    /// Move the store of API objects
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
enum RegistryCommand {
    /// Read a password from standard input and print its hash for a `[[user]]`
    HashPassword,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Move all API objects from the data directory to etcd; the cloud must not run
    Move(store::Target),
}

/// Parses the command line and does what it says.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    let place = cli.place;
    let done = match cli.command {
        Command::Up { flags, config, detach: true, .. } => up::detach(&place, *flags, config.as_deref()),
        Command::Up { flags, config, detached, .. } => {
            up::foreground(&place, *flags, config.as_deref(), detached)
        }
        Command::Build(flags) => build::run(&place, &flags),
        Command::Down { workloads } => down::run(&place, workloads),
        Command::Status { json } => status::run(&place, json),
        Command::Df { verbose, json } => df::run(&place, verbose, json),
        Command::Env => print_env(&place),
        Command::Doctor { fix, output } => doctor::run(&place, fix, output),
        Command::Registry { command: RegistryCommand::HashPassword } => registry::hash_password(),
        Command::Store { command: StoreCommand::Move(target) } => store::move_objects(&place, target),
        Command::Version => {
            say(&format!("cirro {}\n", env!("CARGO_PKG_VERSION"))).map(|()| ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("cirro: {error:#}");
        ExitCode::FAILURE
    })
}

/// Writes to standard output; a reader that left is no fault of ours.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn print_env(place: &Place) -> anyhow::Result<ExitCode> {
    let config = Config::of_run_dir(place)?;
    let quote = |path: &std::path::Path| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
    let mut text = String::new();
    if let Some(socket) = config.docker_sockets.first() {
        text.push_str(&format!("export DOCKER_HOST='unix://{}'\n", socket.display()));
    }
    text.push_str(&format!("export KUBECONFIG={}\n", quote(&config.kubeconfig())));
    if let Some(address) = registry::address(&config) {
        text.push_str(&format!("export CIRRO_REGISTRY='{address}'\n"));
    }
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
