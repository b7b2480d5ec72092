//! `state`: prints what is known of a container.

use super::context::{Context, hierarchies, print};
use super::error::CliError;
use super::flags::Parsed;

pub(super) fn run(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    let record = context.store.load(parsed.id()?)?;
    let view = record.view(record.status(&hierarchies()?));
    print(&format!("{view:#}\n"))?;
    Ok(0)
}
