//! The hooks that are not run by what makes the container: after its start, after its end.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

/// Runs hooks one after the other with the container's state on their standard input. The specification wants failures told,
/// not acted upon: all are run, and what went wrong is returned.
pub(super) fn run(hooks: &[Hook], state: &Value) -> Vec<String> {
    hooks
        .iter()
        .filter_map(|hook| {
            let failure = match run_one(hook, state) {
                Ok(status) if status.success() => return None,
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            Some(format!("hook {}: {failure}", hook.path().display()))
        })
        .collect()
}

fn run_one(hook: &Hook, state: &Value) -> io::Result<ExitStatus> {
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(arguments);
    }
    let variables = hook.env().iter().flatten().filter_map(|one| one.split_once('='));
    command.env_clear().envs(variables).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // It need not read.
        let _ = stdin.write_all(state.to_string().as_bytes());
    }
    match hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0) {
        Some(seconds) => wait_at_most(child, Duration::from_secs(seconds)),
        None => child.wait(),
    }
}

fn wait_at_most(mut child: Child, patience: Duration) -> io::Result<ExitStatus> {
    if !ends_within(child.id().cast_signed(), patience)? {
        child.kill()?;
        child.wait()?;
        return Err(io::Error::new(io::ErrorKind::TimedOut, "timed out"));
    }
    child.wait()
}

/// Waits for a process' end; false when the time is over first.
pub(super) fn ends_within(pid: i32, patience: Duration) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(true) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        other => other?,
    };
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
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
    fn hooks_get_the_state_and_all_are_run() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("state").display().to_string();
        let hooks = [
            hook("exit 3", None),
            hook("exec sleep 1000", Some(1)),
            hook(&format!("cat > {file}; echo $A >> {file}"), Some(60)),
        ];
        let failures = run(&hooks, &json!({"id": "x"}));
        assert_eq!(failures, ["hook /bin/sh: exit status: 3", "hook /bin/sh: timed out"]);
        assert_eq!(std::fs::read_to_string(file).expect("written"), "{\"id\":\"x\"}b\n");
    }
}
