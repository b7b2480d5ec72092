//! `delete`: removes a container that has ended, or ends it first.

use super::context::{Context, hierarchies};
use super::destruction;
use super::error::CliError;
use super::flags::{Flag, Parsed};
use super::record::Status;

pub(super) const FLAGS: &[Flag] =
    &[Flag::switch("force", "forcibly delete the container if it is still running").short("f")];

pub(super) fn run(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    let (id, force) = (parsed.id()?, parsed.has("force"));
    let locked = match context.store.lock(id) {
        Err(CliError::NotFound) if force => return Ok(0),
        other => other?,
    };
    let record = match locked.load() {
        // The call that made its directory died at once.
        Err(CliError::NotFound) if force => return locked.remove().map(|()| 0),
        other => other?,
    };
    let hierarchies = hierarchies()?;
    match record.status(&hierarchies) {
        Status::Stopped => {}
        Status::Created => destruction::kill_and_wait(&record, &hierarchies)?,
        _ if force => destruction::kill_and_wait(&record, &hierarchies)?,
        status => {
            let text = format!("cannot delete container {id} that is not stopped: {}", status.name());
            return Err(CliError::State(text));
        }
    }
    for failure in destruction::destroy(locked, &record, &hierarchies)? {
        context.report.warning(&format!("poststop {failure}"));
    }
    Ok(0)
}
