//! What `--help` and `--version` print.

use std::fmt::Write as _;

use super::Command;
use super::context::print;
use super::error::CliError;
use super::features::NEWEST_SPEC;
use super::flags::Flag;

/// In runc's form, which dockerd and podman take apart.
pub(super) fn version() -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    print(&format!("cirro-runtime version {version}\ncommit: {version}\nspec: {NEWEST_SPEC}\n"))
}

/// Help for one command, or for all.
pub(super) fn show(command: Option<&Command>, global: &[Flag], commands: &[Command]) -> Result<(), CliError> {
    let mut text = String::new();
    match command {
        Some(command) => {
            let _ = writeln!(text, "cirro runtime {} - {}\n", command.shape.name, command.summary);
            let _ = writeln!(
                text,
                "Usage: cirro runtime {} [FLAGS] {}\n\nFlags:",
                command.shape.name, command.usage
            );
            add_flags(&mut text, command.shape.flags);
        }
        None => {
            text.push_str("cirro runtime - an OCI runtime\n\nUsage: cirro runtime [FLAGS] COMMAND [ARG…]\n\nCommands:\n");
            for one in commands {
                let _ = writeln!(text, "  {:<10} {}", one.shape.name, one.summary);
            }
        }
    }
    text.push_str("\nFlags of all commands:\n");
    add_flags(&mut text, global);
    print(&text)
}

fn add_flags(text: &mut String, flags: &[Flag]) {
    for flag in flags {
        let short = flag.short.map_or(String::new(), |short| format!(", -{short}"));
        let value = flag.value.map_or(String::new(), |value| format!(" {value}"));
        let _ = writeln!(text, "  {:<28} {}", format!("--{}{short}{value}", flag.name), flag.help);
    }
}
