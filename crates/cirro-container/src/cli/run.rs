//! `run`: makes a container, starts it and, unless detached, stays with it and removes it.

use super::context::Context;
use super::creation::{self, Creation, Order};
use super::error::CliError;
use super::flags::{Flag, Parsed};
use super::{destruction, foreground};

pub(super) const FLAGS: &[Flag] = &[
    Flag::value(
        "bundle",
        "DIR",
        "path to the root of the bundle directory, defaults to the current directory",
    )
    .short("b"),
    Flag::value("console-socket", "PATH", "path to a socket that receives the console's pseudoterminal"),
    Flag::switch("detach", "detach from the container's process").short("d"),
    Flag::switch("keep", "do not delete the container after it exits"),
    Flag::value("pid-file", "FILE", "file to write the process id to"),
    Flag::switch("no-subreaper", "ignored: it is needed to learn how the process ends"),
    Flag::switch("no-pivot", "do not use pivot_root to jail the process inside the rootfs"),
    Flag::switch("no-new-keyring", "do not create a new session keyring for the container"),
    Flag::value("preserve-fds", "N", "pass N additional file descriptors to the container"),
];

pub(super) fn run(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    let order = Order::of(parsed, parsed.has("detach"))?;
    if order.detached {
        let mut creation = creation::make(context, &order)?;
        if let Err(error) = creation.start(context) {
            remove(context, creation);
            return Err(error);
        }
        return Ok(0);
    }
    let signals = foreground::listen()?;
    let mut creation = creation::make(context, &order)?;
    let ended = creation.start(context).and_then(|()| {
        let (pid, _) = creation.record.process.expect("a made container has a process");
        // Others may change the container while it runs.
        creation.locked.release()?;
        let code = foreground::wait(pid, &signals, creation.terminal.take());
        creation.locked.regain()?;
        code
    });
    if !parsed.has("keep") || ended.is_err() {
        remove(context, creation);
    }
    ended
}

fn remove(context: &Context, creation: Creation) {
    let Creation { locked, record, hierarchies, .. } = creation;
    let removed = destruction::kill_and_wait(&record, &hierarchies)
        .and_then(|()| destruction::destroy(locked, &record, &hierarchies));
    match removed {
        Ok(failures) => {
            failures.iter().for_each(|failure| context.report.warning(&format!("poststop {failure}")))
        }
        Err(error) => context.report.warning(&format!("clean up: {}", crate::error::chain(&error))),
    }
}
