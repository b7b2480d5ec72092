//! Docker's `--security-opt`.

use crate::error::EngineError;

/// What the options ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SecurityOptions {
    pub no_new_privileges: bool,
    pub seccomp: SeccompChoice,
    /// Kept for inspect.
    pub apparmor_profile: String,
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
///
/// Source: moby `daemon/daemon_unix.go`, `parseSecurityOpt`. This host runs neither SELinux nor AppArmor for us, so labels and
/// profiles are taken and change nothing, as with dockerd on such a host.
pub(crate) fn parse(options: &[String]) -> Result<SecurityOptions, EngineError> {
    let mut parsed = SecurityOptions::default();
    for option in options {
        let invalid = |step: u8| EngineError::Invalid(format!("invalid --security-opt {step}: {option:?}"));
        if option == "no-new-privileges" {
            parsed.no_new_privileges = true;
            continue;
        }
        if option == "disable" {
            continue;
        }
        // The value may have both characters in it; the name has neither.
        let separator = if option.contains('=') { '=' } else { ':' };
        let (name, value) = option.split_once(separator).ok_or_else(|| invalid(1))?;
        match (name, value) {
            ("no-new-privileges", text) => {
                parsed.no_new_privileges = parse_bool(text).ok_or_else(|| invalid(2))?;
            }
            ("writable-cgroups", text) => {
                if parse_bool(text).ok_or_else(|| invalid(2))? {
                    let text = format!("--security-opt {option:?} is not supported");
                    return Err(EngineError::NotSupported(text));
                }
            }
            ("seccomp", "unconfined") => parsed.seccomp = SeccompChoice::Unconfined,
            ("seccomp", "builtin" | "") => parsed.seccomp = SeccompChoice::Default,
            ("seccomp", profile) => parsed.seccomp = SeccompChoice::Profile(profile.to_owned()),
            ("apparmor", profile) => parsed.apparmor_profile = profile.to_owned(),
            ("label", _) => {}
            _ => return Err(invalid(2)),
        }
    }
    Ok(parsed)
}

/// Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
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
        assert!(options.no_new_privileges);
        assert_eq!(options.seccomp, SeccompChoice::Unconfined);
        assert!(parsed(&["no-new-privileges"]).unwrap().no_new_privileges);
        let profile = r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW"}"#;
        assert!(matches!(parsed(&[profile]).unwrap().seccomp, SeccompChoice::Profile(_)));
    }

    #[test]
    fn what_is_unknown_is_refused_in_dockers_words() {
        let refusal = |option: &str| parsed(&[option]).unwrap_err().to_string();
        assert_eq!(refusal("fly=high"), "invalid --security-opt 2: \"fly=high\"");
        assert_eq!(refusal("fly"), "invalid --security-opt 1: \"fly\"");
        assert_eq!(
            refusal("no-new-privileges=maybe"),
            "invalid --security-opt 2: \"no-new-privileges=maybe\""
        );
    }

    #[test]
    fn labels_and_profiles_change_nothing_where_there_is_no_module_for_them() {
        let options = parsed(&["label=type:svirt_t", "label:disable", "apparmor=mine"]).unwrap();
        assert_eq!(
            options,
            SecurityOptions { apparmor_profile: "mine".into(), ..SecurityOptions::default() }
        );
    }
}
