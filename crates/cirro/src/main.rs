//! cirro: a private cloud in one binary.
//!
//! The roles that become parents of workloads branch off before any thread or runtime exists; every
//! other subcommand is parsed by clap and runs on a tokio runtime that it builds itself.

use std::ffi::OsString;
use std::process::ExitCode;

mod audit;
mod build;
mod cli;
mod config;
mod control;
mod daemon;
mod df;
mod doctor;
mod down;
mod own_log;
mod plane;
mod registry;
mod rest;
mod status;
mod store;
mod up;
mod upstream;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().and_then(|program| std::path::Path::new(program).file_name());
    if called.is_some_and(|name| name == "cirro-runtime") {
        // Callers that take a runtime by its path, and no arguments with it, are given a link of this name.
        return cirro_container::runtime_main(&args[1..]);
    }
    if cirro_container::is_init(&args) {
        return cirro_container::init_main(&args[1..]);
    }
    match args.get(1).and_then(|role| role.to_str()) {
        Some("supervisor") => cirro_container::supervisor_main(&args[2..]),
        Some("runtime") => cirro_container::runtime_main(&args[2..]),
        Some("guardian") => cirro_container::guardian_main(&args[2..]),
        _ => {
            cirro_sys::memory::few_arenas();
            cli::run()
        }
    }
}
