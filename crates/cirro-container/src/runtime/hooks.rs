//! Hooks: programs of the caller's that run at certain moments of a container's life, with its state on their standard input.
//!
//! Source: runtime-spec 1.2, `config.md`, "POSIX-platform Hooks".

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use oci_spec::runtime::Hook;
use serde_json::Value;

use crate::error::ContainerError;

/// What is kept of what a failing hook says.
const MAX_WORDS: u64 = 4096;

/// Runs hooks one after the other and stops at the first that fails.
pub(crate) fn run(hooks: &[Hook], state: &Value) -> Result<(), ContainerError> {
    for hook in hooks {
        let failure = match run_one(hook, state) {
            Ok((status, _)) if status.success() => continue,
            Ok((status, words)) => format!("{status}, {}", words.trim()),
            Err(error) => error.to_string(),
        };
        return Err(ContainerError::Runtime(format!("run hook {}: {failure}", hook.path().display())));
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &Value) -> io::Result<(ExitStatus, String)> {
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(arguments);
    }
    let variables = hook.env().iter().flatten().filter_map(|one| one.split_once('='));
    // A file, not a pipe: what the hook leaves running may hold it open for ever.
    let mut words = std::fs::File::from(rustix::fs::memfd_create("hook", rustix::fs::MemfdFlags::CLOEXEC)?);
    command
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(words.try_clone()?);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // It need not read.
        let _ = stdin.write_all(state.to_string().as_bytes());
    }
    let seconds =
        hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    let status = match seconds {
        Some(seconds) => wait_at_most(child, Duration::from_secs(seconds))?,
        None => child.wait()?,
    };
    let mut text = Vec::new();
    if !status.success() {
        io::Seek::rewind(&mut words)?;
        words.take(MAX_WORDS).read_to_end(&mut text)?;
    }
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

fn wait_at_most(mut child: Child, patience: Duration) -> io::Result<ExitStatus> {
    if crate::process::ends_within(child.id().cast_signed(), patience)? {
        return child.wait();
    }
    child.kill()?;
    child.wait()?;
    Err(io::Error::new(io::ErrorKind::TimedOut, "timed out"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let hook =
            json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b"], "timeout": timeout});
        serde_json::from_value(hook).expect("hook")
    }

    #[test]
    fn the_first_failure_ends_the_row() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("state").display().to_string();
        let write = hook(&format!("cat > {file}; echo $A >> {file}"), Some(60));
        run(std::slice::from_ref(&write), &json!({"id": "x"})).expect("run");
        assert_eq!(std::fs::read_to_string(&file).expect("written"), "{\"id\":\"x\"}b\n");
        std::fs::remove_file(&file).expect("remove");
        let failed = run(&[hook("echo why >&2; exit 3", None), write], &json!({})).expect_err("fails");
        assert_eq!(failed, ContainerError::Runtime("run hook /bin/sh: exit status: 3, why".to_owned()));
        assert!(!std::path::Path::new(&file).exists());
        let late = run(&[hook("exec sleep 1000", Some(1))], &json!({})).expect_err("fails");
        assert_eq!(late, ContainerError::Runtime("run hook /bin/sh: timed out".to_owned()));
    }
}
