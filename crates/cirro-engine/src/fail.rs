//! Fail points of the engine: what a crash between two steps leaves is put right by the next start, and tests look.

use crate::error::EngineError;

/// A place between two steps where a test makes the engine end, or the operation fail and be undone.
pub(crate) fn point(name: &'static str) -> Result<(), EngineError> {
    cirro_sys::fail_point::fail_point(name).map_err(|error| EngineError::Failed(error.to_string()))
}

/// A place after the step that cannot be undone any more: a test can only make the engine end here.
pub(crate) fn passed(name: &'static str) {
    let _ = cirro_sys::fail_point::fail_point(name);
}
