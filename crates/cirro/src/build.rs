//! `cirro build`: a Dockerfile becomes an image, without docker.
//!
//! ## Theory of operation
//! flags ─▶ [`order::Order`] and the context ─▶ one request on the daemon's own socket ─▶ what it tells, line by line
//!
//! The order goes in the request's body before the context, never in its address, since secrets are in it. The build
//! ends when the connection does: Ctrl-C needs no message of its own.

mod client;
mod context;
pub(crate) mod flags;
mod order;
mod progress;
pub(crate) mod serve;

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::cli::say;
use crate::config::{Config, Place};
use flags::{Flags, Form};
use order::Told;
use progress::Progress;

/// What a shell makes of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Builds an image; prints its id with `--quiet`.
pub(crate) fn run(place: &Place, flags: &Flags) -> anyhow::Result<ExitCode> {
    let config = Config::of_run_dir(place)?;
    let (order, source) = flags.order()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let build = follow(&config, flags, &order, source);
        tokio::select! {
            done = build => done,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("listen to signals")?;
                write("\ncirro: the build was interrupted\n");
                Ok(ExitCode::from(INTERRUPTED))
            }
        }
    })
}

async fn follow(
    config: &Config,
    flags: &Flags,
    order: &order::Order,
    source: context::Source,
) -> anyhow::Result<ExitCode> {
    let mut told = client::build(&config.control_socket(), order, source).await?;
    let mut progress = Progress::new(flags.progress(), flags.why);
    let mut image = None;
    while let Some(event) = told.next().await? {
        match event {
            Told::Image { id } => image = Some(id),
            Told::Error { message } => {
                write(&progress.failure(&order.dockerfile, &message));
                return Ok(ExitCode::FAILURE);
            }
            event => write(&progress.tell(event)),
        }
    }
    let Some(id) = image else { bail!("the daemon ended before the build did") };
    if let Some(path) = &flags.iidfile {
        std::fs::write(path, &id).with_context(|| format!("write {}", path.display()))?;
    }
    match flags.progress() {
        Form::Quiet => say(&format!("{id}\n"))?,
        Form::Plain => write(&progress.end(&id, &order.tags)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes to standard error; a build goes on when nobody reads about it.
fn write(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
