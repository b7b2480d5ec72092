//! `create`: makes a container whose process waits for `start`.

use super::context::Context;
use super::creation::{self, Order};
use super::error::CliError;
use super::flags::{Flag, Parsed};

pub(super) const FLAGS: &[Flag] = &[
    Flag::value(
        "bundle",
        "DIR",
        "path to the root of the bundle directory, defaults to the current directory",
    )
    .short("b"),
    Flag::value("console-socket", "PATH", "path to a socket that receives the console's pseudoterminal"),
    Flag::value("pid-file", "FILE", "file to write the process id to"),
    Flag::switch("no-pivot", "do not use pivot_root to jail the process inside the rootfs"),
    Flag::switch("no-new-keyring", "do not create a new session keyring for the container"),
    Flag::value("preserve-fds", "N", "pass N additional file descriptors to the container"),
];

pub(super) fn run(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    creation::make(context, &Order::of(parsed, true)?)?;
    Ok(0)
}
