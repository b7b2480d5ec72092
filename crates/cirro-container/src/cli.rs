//! `cirro runtime`: an OCI runtime's command line, with runc's commands, flags, outputs and exit codes.
//!
//! ## Theory of operation
//! ```text
//!  create: record ─▶ Runtime::create ─▶ the container's process waits ─▶ this process ends, its child goes to the caller
//!  start:  record ─▶ Runtime::start    the process goes on
//!  run, exec without --detach: a helper makes the process, this one stays, relays signals and terminal, ends with its code
//! ```
//! Each call is a process of its own with one thread; what calls have to tell each other is in the [`store`]. containerd's shim,
//! conmon and dockerd read back what is printed and logged, down to the words, so those are runc's.
//!
//! Calls that enter a container first execute this program again from a view of it that nobody can write, since a container can
//! reach the program of a process that enters it (CVE-2019-5736), and close every descriptor that the container is not meant to
//! have (CVE-2024-21626).

mod bundle;
mod context;
mod create;
mod creation;
mod delete;
mod destruction;
mod error;
mod events;
mod exec;
mod features;
mod flags;
mod foreground;
mod help;
mod hooks;
mod kill;
mod list;
mod pause;
mod ps;
mod record;
mod reexec;
mod relay;
mod report;
mod run;
mod spec;
mod start;
mod state;
mod store;
mod update;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use context::Context;
use error::CliError;
use flags::{Flag, Parsed, Rest, Shape};
use report::Report;

/// One subcommand.
struct Command {
    shape: Shape,
    usage: &'static str,
    summary: &'static str,
    /// Whether it enters a container.
    enters: bool,
    run: fn(&Context, &Parsed) -> Result<i32, CliError>,
}

const GLOBAL: &[Flag] = &[
    Flag::value("root", "DIR", "directory of the containers' state [default: /run/cirro/runtime]"),
    Flag::value("log", "FILE", "file to write errors to [default: standard error]"),
    Flag::value("log-format", "FORMAT", "text or json"),
    Flag::switch("debug", "accepted and ignored"),
    Flag::switch("systemd-cgroup", "not supported: cgroups are made directly"),
    Flag::value("rootless", "VALUE", "accepted and ignored"),
    Flag::value("criu", "PATH", "accepted and ignored"),
    Flag::switch("help", "show help").short("h"),
    Flag::switch("version", "print the version").short("v"),
];

const NO_FLAGS: &[Flag] = &[];

const fn command(
    (name, usage, summary): (&'static str, &'static str, &'static str),
    flags: &'static [Flag],
    run: fn(&Context, &Parsed) -> Result<i32, CliError>,
) -> Command {
    Command { shape: Shape { name, flags, rest: Rest::Flags }, usage, summary, enters: false, run }
}

impl Command {
    const fn that_enters(mut self) -> Self {
        self.enters = true;
        self
    }
    const fn then_a_program(mut self) -> Self {
        self.shape.rest = Rest::Program;
        self
    }
}

static COMMANDS: [Command; 15] = [
    command(("create", "ID", "create a container"), create::FLAGS, create::run).that_enters(),
    command(("delete", "ID", "delete a container and what it holds"), delete::FLAGS, delete::run),
    command(("events", "ID", "display events and statistics of a container"), events::FLAGS, events::run),
    command(("exec", "ID COMMAND [ARG…]", "run a command in a container"), exec::FLAGS, exec::run)
        .that_enters()
        .then_a_program(),
    command(("features", "", "show what this runtime can do"), NO_FLAGS, features::run),
    command(("kill", "ID [SIGNAL]", "send a signal to a container's first process"), kill::FLAGS, kill::run),
    command(("list", "", "list the containers below the root"), list::FLAGS, list::run),
    command(("pause", "ID", "freeze all processes of a container"), NO_FLAGS, pause::pause),
    command(("ps", "ID [PS OPTION…]", "show the processes of a container"), ps::FLAGS, ps::run)
        .then_a_program(),
    command(("resume", "ID", "let the processes of a paused container go on"), NO_FLAGS, pause::resume),
    command(("run", "ID", "create and start a container"), run::FLAGS, run::run).that_enters(),
    command(("spec", "", "write a configuration to start from"), spec::FLAGS, spec::run),
    command(("start", "ID", "start a created container"), NO_FLAGS, start::run),
    command(("state", "ID", "print the state of a container"), NO_FLAGS, state::run),
    command(("update", "ID", "change the limits of a container"), update::FLAGS, update::run),
];

/// Reads the bundle in a directory and makes what the runtime would make of it before it makes anything real.
pub(crate) fn read_bundle(directory: &Path) {
    if let Ok(bundle) = bundle::Bundle::load(directory) {
        let _ = bundle.cgroup("fuzzed");
        let _ = bundle.has_own_pid_namespace();
    }
}

/// Entry point of `cirro runtime`. Called before any thread exists.
pub fn runtime_main(args: &[OsString]) -> ExitCode {
    let code = match arguments(args).and_then(|arguments| read(&arguments)) {
        Ok((arguments, parsed)) => dispatch(&arguments, &parsed),
        Err(error) => fail(&Report::standard(), None, &error),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(255))
}

fn arguments(args: &[OsString]) -> Result<Vec<String>, CliError> {
    let text = |one: &OsString| one.to_str().map(str::to_owned);
    args.iter()
        .map(text)
        .collect::<Option<_>>()
        .ok_or_else(|| CliError::Usage("an argument is not valid UTF-8".to_owned()))
}

fn read(arguments: &[String]) -> Result<(reexec::Marked, Parsed), CliError> {
    let marked = reexec::Marked::of(arguments);
    let parsed = flags::parse(marked.arguments(), GLOBAL, COMMANDS.iter().map(|command| &command.shape))?;
    Ok((marked, parsed))
}

fn dispatch(marked: &reexec::Marked, parsed: &Parsed) -> i32 {
    let command = COMMANDS.iter().find(|command| Some(command.shape.name) == parsed.command);
    let report = match Report::of(parsed) {
        Ok(report) => report,
        Err(error) => return fail(&Report::standard(), None, &error),
    };
    if parsed.has("version") {
        return finish(help::version());
    }
    let Some(command) = command.filter(|_| !parsed.has("help")) else {
        return finish(help::show(command, GLOBAL, &COMMANDS));
    };
    match work(command, marked, parsed, report) {
        Ok(code) => code,
        Err((report, error)) => fail(&report, Some(command), &error),
    }
}

fn finish(printed: Result<(), CliError>) -> i32 {
    i32::from(printed.is_err())
}

fn work(
    command: &Command,
    marked: &reexec::Marked,
    parsed: &Parsed,
    report: Report,
) -> Result<i32, (Report, CliError)> {
    let prepared = refuse_systemd(parsed)
        .and_then(|()| if command.enters { marked.secure(creation::preserved(parsed)?) } else { Ok(()) });
    match prepared.and_then(|()| Context::store_of(parsed)) {
        Err(error) => Err((report, error)),
        Ok(store) => {
            let context = Context { store, report };
            (command.run)(&context, parsed).map_err(|error| (context.report, error))
        }
    }
}

fn refuse_systemd(parsed: &Parsed) -> Result<(), CliError> {
    if !parsed.has("systemd-cgroup") {
        return Ok(());
    }
    Err(CliError::Usage(
        "--systemd-cgroup is not supported: set the caller's cgroup driver to cgroupfs".to_owned(),
    ))
}

/// Tells an error in the form that callers know from runc; returns the exit code.
fn fail(report: &Report, command: Option<&Command>, error: &CliError) -> i32 {
    let name = command.map_or("", |command| command.shape.name);
    let text = crate::error::chain(error);
    let text = match error {
        CliError::Start(_) => format!("cirro runtime {name} failed: {text}"),
        _ => text,
    };
    report.error(&text);
    // As runc since 1.1, so that a command's own exit code 1 can be told from a command that could not be run.
    if name == "exec" { 255 } else { 1 }
}
