//! Docker's `--security-opt`.

use crate::error::EngineError;

/// What the options ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SecurityOptions {
    pub no_new_privileges: bool,
    pub seccomp: SeccompChoice,
}

/// Which system call filter is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum SeccompChoice {
    /// Docker's default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The caller's, as JSON.
    Profile(String),
}

/// Parses the options of a request.
pub(crate) fn parse(options: &[String]) -> Result<SecurityOptions, EngineError> {
    let mut parsed = SecurityOptions::default();
    for option in options {
        let invalid = || EngineError::Invalid(format!("invalid --security-opt: {option:?}"));
        // The value may have both characters in it; the name has neither.
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => parsed.no_new_privileges = true,
            ("no-new-privileges", "false") => parsed.no_new_privileges = false,
            ("seccomp", "unconfined") => parsed.seccomp = SeccompChoice::Unconfined,
            ("seccomp", "builtin") => parsed.seccomp = SeccompChoice::Default,
            ("seccomp", profile) if profile.starts_with('{') => {
                parsed.seccomp = SeccompChoice::Profile(profile.to_owned());
            }
            // Neither is used by this engine, so there is nothing to turn off.
            ("label", "disable") | ("apparmor", "unconfined" | "docker-default") => {}
            ("label" | "apparmor" | "systempaths" | "writable-cgroups", _) => {
                return Err(EngineError::NotSupported(format!("--security-opt {option:?} is not supported")));
            }
            _ => return Err(invalid()),
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> Result<SecurityOptions, EngineError> {
        parse(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn both_spellings_are_understood() {
        let options = parsed(&["no-new-privileges:true", "seccomp=unconfined"]).unwrap();
        assert_eq!(options, SecurityOptions { no_new_privileges: true, seccomp: SeccompChoice::Unconfined });
        assert!(parsed(&["no-new-privileges"]).unwrap().no_new_privileges);
        let profile = r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW"}"#;
        assert!(matches!(parsed(&[profile]).unwrap().seccomp, SeccompChoice::Profile(_)));
    }

    #[test]
    fn what_is_unknown_is_refused() {
        assert!(matches!(parsed(&["fly=high"]), Err(EngineError::Invalid(_))));
        assert!(matches!(parsed(&["apparmor=mine"]), Err(EngineError::NotSupported(_))));
    }
}
