//! Stands for the `cirro` binary in this crate's tests: guardian, supervisor, runtime, and a client that is there to be killed.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use cirro_container::{Supervisor, SupervisorOptions, guardian_main, runtime_main, supervisor_main};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    match args.get(1).and_then(|role| role.to_str()) {
        Some("guardian") => guardian_main(&args[2..]),
        Some("supervisor") => supervisor_main(&args[2..]),
        Some("runtime") => runtime_main(&args[2..]),
        // client RUN_DIR NAME: connects and hangs.
        Some("client") => client(&args[2..]),
        _ => ExitCode::FAILURE,
    }
}

fn client(args: &[std::ffi::OsString]) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let options = SupervisorOptions {
            run_dir: args[0].clone().into(),
            name: args[1].to_string_lossy().into_owned(),
            executable: std::env::current_exe().expect("executable"),
        };
        let supervisor = Supervisor::connect(options).await.expect("connect");
        let states = supervisor.list().await.expect("list");
        eprintln!("connected {}", states.len());
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}
