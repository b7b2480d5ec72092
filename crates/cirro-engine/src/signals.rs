//! Signals by name and number, as docker's clients write them.

use crate::error::EngineError;

/// SIGTERM.
pub(crate) const TERM: i32 = 15;
/// SIGKILL.
pub(crate) const KILL: i32 = 9;

/// Parses `9`, `KILL`, `SIGKILL`, `RTMIN+3`; in any case.
///
/// # Errors
/// [`EngineError::Invalid`] with docker's text.
pub(crate) fn parse(text: &str) -> Result<i32, EngineError> {
    cirro_types::signal::parse(text).ok_or_else(|| EngineError::Invalid(format!("invalid signal: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_dockers_words() {
        assert_eq!(parse("KILL").unwrap(), KILL);
        assert_eq!(parse("BOGUS").unwrap_err().to_string(), "invalid signal: BOGUS");
    }
}
