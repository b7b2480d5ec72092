//! Stands for the `cirro` binary in this crate's tests: guardian and supervisor.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    match args.get(1).and_then(|role| role.to_str()) {
        Some("guardian") => cirro_container::guardian_main(&args[2..]),
        Some("supervisor") => cirro_container::supervisor_main(&args[2..]),
        _ => ExitCode::FAILURE,
    }
}
