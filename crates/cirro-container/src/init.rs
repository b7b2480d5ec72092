//! The first process of a container that wants an init: it starts the command, hands signals on to it and reaps what the
//! command leaves behind.
//!
//! It is this very executable, mounted read-only into the container and known there by its name (`docker-init`). Nothing of
//! the host is in it: no descriptor, no configuration, no thread.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use cirro_sys::process;
use rustix::event::{PollFd, PollFlags, poll};

/// The name by which the init is known in a container.
pub const INIT_NAME: &str = "docker-init";

const CHILD_ENDED: i32 = 17;
/// Of the shell: a command that cannot be run, and one that is not there.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// SIGKILL and SIGSTOP cannot be caught; faults of our own are not the command's.
const KEPT: [i32; 7] = [4, 5, 7, 8, 9, 11, 19];

/// Whether a process with this argument vector is to be a container's init.
pub fn is_init(args: &[OsString]) -> bool {
    let name = args.first().map(std::path::Path::new).and_then(|path| path.file_name());
    name.is_some_and(|name| name == INIT_NAME)
}

/// Runs a command as a container's init; `args` follow the program's name: `-- COMMAND ARGUMENT…`.
pub fn init_main(args: &[OsString]) -> ExitCode {
    let command = match args.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => args,
    };
    let Some((program, arguments)) = command.split_first() else {
        eprintln!("{INIT_NAME}: no command");
        return ExitCode::from(NOT_FOUND);
    };
    // Blocked before the command starts, so that none is lost.
    let forwarded: Vec<i32> = (1..=64).filter(|signal| !KEPT.contains(signal)).collect();
    let signals = match process::signal_descriptor(&forwarded) {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("{INIT_NAME}: block signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    match process::fork_child(&[], || execute(program, arguments)) {
        Ok(child) => follow(child, &signals),
        Err(error) => {
            eprintln!("{INIT_NAME}: fork: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes the command, in a group of its own in front of the terminal; returns only on failure.
fn execute(program: &OsString, arguments: &[OsString]) -> i32 {
    let own = rustix::process::getpid();
    let _ = rustix::process::setpgid(None, None);
    // The kernel's answer to this from the background is a signal, which is still blocked.
    let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), own);
    process::reset_signals();
    let error = Command::new(program).args(arguments).exec();
    eprintln!("{INIT_NAME}: exec {}: {error}", program.display());
    i32::from(if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}

/// Hands signals on and reaps, until the command ends; its exit code is ours.
fn follow(child: i32, signals: &OwnedFd) -> ExitCode {
    loop {
        if let Some(code) = reap_all(child) {
            return ExitCode::from(code);
        }
        let mut waiting = [PollFd::new(signals, PollFlags::IN)];
        let _ = poll(&mut waiting, None);
        while let Some(signal) = process::next_signal(signals) {
            if signal != CHILD_ENDED {
                let _ = process::send_signal(child, signal);
            }
        }
    }
}

/// Reaps every process that has ended; returns the command's exit code once it is among them.
fn reap_all(child: i32) -> Option<u8> {
    let mut code = None;
    while let Ok(Some(ended)) = process::peek_ended_child() {
        process::reap(ended.pid);
        if ended.pid == child {
            code = Some(u8::try_from(ended.code & 0xff).unwrap_or(u8::MAX));
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_init_is_known_by_its_name_alone() {
        let named = |words: &[&str]| is_init(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(named(&["/sbin/docker-init", "--", "sleep"]));
        assert!(named(&["docker-init"]));
        assert!(!named(&["/usr/bin/cirro", "docker-init"]));
        assert!(!named(&[]));
    }
}
