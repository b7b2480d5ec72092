//! What every command is given.

use std::path::PathBuf;

use super::error::CliError;
use super::flags::Parsed;
use super::report::Report;
use super::store::Store;
use crate::cgroup::Hierarchies;

const DEFAULT_ROOT: &str = "/run/cirro/runtime";

/// The containers and where errors are told.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) store: Store,
    pub(super) report: Report,
}

impl Context {
    /// The containers below the root that the flags name.
    pub(super) fn store_of(parsed: &Parsed) -> Result<Store, CliError> {
        let root = parsed.value("root").filter(|root| !root.is_empty()).unwrap_or(DEFAULT_ROOT);
        Ok(Store::new(absolute(root)?))
    }
}

/// A path that still holds when the working directory changes.
pub(super) fn absolute(path: &str) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(CliError::system("find working directory"))
}

/// The host's cgroup hierarchies.
pub(super) fn hierarchies() -> Result<Hierarchies, CliError> {
    Hierarchies::detect().map_err(CliError::system("find cgroup hierarchies"))
}

/// Prints a line of JSON.
pub(super) fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    print(&format!("{value}\n"))
}

/// Prints to standard output; a reader that left is no fault of ours.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::system("write to standard output")(error))
        }
        _ => Ok(()),
    }
}
