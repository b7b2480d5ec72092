//! Finds and executes a container's program, and tells "there is none" from "it cannot be run".

use std::ffi::CString;
use std::io;

use rustix::fs::Access;

use crate::error::ContainerError;

/// Where docker looks when there is no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds the program that `args[0]` names, as the current user, in the current root and directory.
pub(super) fn resolve(args: &[String], env: &[String]) -> Result<String, ContainerError> {
    let Some(name) = args.first().filter(|name| !name.is_empty()) else {
        return Err(ContainerError::CommandNotFound("no command specified".to_owned()));
    };
    if name.contains('/') {
        return check(name).map(|()| name.clone()).map_err(|error| refuse(name, &error));
    }
    let path = env.iter().find_map(|one| one.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for directory in path.split(':') {
        let candidate = format!("{}/{name}", if directory.is_empty() { "." } else { directory });
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => denied = Some(error),
            Err(_) => {}
        }
    }
    Err(match denied {
        Some(error) => refuse(name, &error),
        None => {
            ContainerError::CommandNotFound(format!("exec: \"{name}\": executable file not found in $PATH"))
        }
    })
}

fn check(path: &str) -> io::Result<()> {
    let data = std::fs::metadata(path)?;
    if !data.is_file() {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    Ok(rustix::fs::access(path, Access::EXEC_OK)?)
}

/// The error of executing `name`, in the words that docker's users know.
pub(super) fn refuse(name: &str, error: &io::Error) -> ContainerError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ContainerError::CommandNotFound(format!(
            "exec: \"{name}\": stat {name}: no such file or directory"
        )),
        io::ErrorKind::PermissionDenied => {
            ContainerError::CommandNotExecutable(format!("exec: \"{name}\": permission denied"))
        }
        _ => ContainerError::CommandNotExecutable(format!("exec: \"{name}\": {}", reason(error))),
    }
}

/// The kernel's words for an error, without the number.
pub(super) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// Executes a found program; returns only on failure. Signals go back to their defaults.
pub(super) fn execute(program: &str, args: &[String], env: &[String]) -> io::Error {
    cirro_sys::process::reset_signals();
    let convert = |strings: &[String]| {
        strings.iter().map(|one| CString::new(one.as_str())).collect::<Result<Vec<_>, _>>()
    };
    match (convert(args), convert(env)) {
        (Ok(args), Ok(env)) => cirro_sys::process::execute(program, &args, &env),
        _ => io::Error::new(io::ErrorKind::InvalidInput, "argument with a zero byte"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve_in(name: &str, path: &str) -> Result<String, ContainerError> {
        resolve(&[name.to_owned()], &[format!("PATH={path}")])
    }

    #[test]
    fn missing_and_forbidden_commands_differ() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("data");
        std::fs::write(&file, "no program").expect("write");
        let path = directory.path().to_string_lossy().into_owned();
        assert_eq!(resolve_in("sh", &format!("{path}:/bin")).as_deref(), Ok("/bin/sh"));
        assert!(matches!(resolve_in("nothing", &path), Err(ContainerError::CommandNotFound(_))));
        assert!(matches!(resolve_in("/nothing", &path), Err(ContainerError::CommandNotFound(_))));
        assert!(matches!(resolve_in("data", &path), Err(ContainerError::CommandNotExecutable(_))));
        assert!(matches!(resolve_in("/tmp", &path), Err(ContainerError::CommandNotExecutable(_))));
        assert!(matches!(resolve(&[], &[]), Err(ContainerError::CommandNotFound(_))));
    }
}
