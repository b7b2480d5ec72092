//! Running programs and waiting for conditions.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What a program said, as text.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Returns standard output; the program must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Returns standard error; the program must have failed.
    #[track_caller]
    pub(crate) fn fails(self) -> String {
        assert_ne!(self.code, 0, "it succeeded and said:\n{}", self.stdout);
        self.stderr
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Said {
    Said::of(command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

/// Runs a command to its end with `input` on its standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &[u8]) -> Said {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("stdin was asked for");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let said = Said::of(child.wait_with_output().expect("wait for a child"));
    let _ = writer.join();
    said
}

/// Runs a program with arguments.
pub(crate) fn program<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> Said {
    run(Command::new(name).args(arguments))
}

/// Looks again and again until `look` finds something, for at most `patience`.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Fetches a page with curl; `None` unless the answer is a success.
pub(crate) fn page(url: &str) -> Option<String> {
    page_from(&[], url)
}

/// Fetches a page with curl started by `prefix` (`ip netns exec X`).
pub(crate) fn page_from(prefix: &[&str], url: &str) -> Option<String> {
    let words: Vec<&str> = prefix.iter().copied().chain(["curl", "-fsS", "-m", "3", url]).collect();
    let said = program(words[0], &words[1..]);
    (said.code == 0).then_some(said.stdout)
}
