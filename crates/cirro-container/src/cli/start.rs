//! `start`: lets a made container's process go.

use super::context::{Context, hierarchies};
use super::creation;
use super::error::CliError;
use super::flags::Parsed;

pub(super) fn run(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    let locked = context.store.lock(parsed.id()?)?;
    let mut record = locked.load()?;
    creation::start(context, &locked, &mut record, &hierarchies()?)?;
    Ok(0)
}
