//! The runtime's command line as its callers meet it: a root of its own, bundles over busybox, cgroups below one name.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cloud::{cgroups, clear_group, find_process, make_layer, spec};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a program said, as text.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// Standard output of a program that succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end, without input.
#[track_caller]
pub(crate) fn say(command: &mut Command) -> Said {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}")).into()
}

/// Looks until there is something.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) struct Line {
    /// Names the cgroups.
    pub(crate) name: String,
    directory: tempfile::TempDir,
    program: PathBuf,
}

impl Line {
    pub(crate) fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory = tempfile::tempdir().expect("directory");
        // Short and plain, since others make socket names and cgroups of it.
        let name = format!("cirroline-{}-{number}", std::process::id());
        Self { name, directory, program: env!("CARGO_BIN_EXE_cirro-container-test").into() }
    }

    /// Runs from a copy of the program that nobody else runs.
    pub(crate) fn with_own_program(mut self) -> Self {
        let copy = self.path("program");
        std::fs::copy(&self.program, &copy).expect("copy");
        self.program = copy;
        self
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What callers are given in place of runc: a script, since they take a path without arguments.
    pub(crate) fn script(&self) -> PathBuf {
        let script = self.path("cirro-oci");
        let text = format!("#!/bin/sh\nexec {} runtime \"$@\"\n", self.program.display());
        std::fs::write(&script, text).expect("script");
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("mode");
        script
    }

    /// A command of the runtime.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("runtime").arg("--root").arg(self.path("root")).args(arguments);
        command
    }

    pub(crate) fn say(&self, arguments: &[&str]) -> Said {
        say(&mut self.command(arguments))
    }

    /// A root with busybox.
    pub(crate) fn rootfs(&self, id: &str) -> PathBuf {
        let rootfs = self.path(id).join("rootfs");
        if !rootfs.exists() {
            make_layer(&rootfs);
        }
        rootfs
    }

    /// A bundle whose container runs a script; `change` has the last word on its spec.
    pub(crate) fn bundle(&self, id: &str, script: &str, change: impl FnOnce(&mut Value)) -> String {
        self.rootfs(id);
        let mut spec = serde_json::to_value(spec(&["sh", "-c", script])).expect("spec");
        spec["linux"]["cgroupsPath"] = json!(format!("/{}/{id}", self.name));
        change(&mut spec);
        let bundle = self.path(id);
        std::fs::write(bundle.join("config.json"), spec.to_string()).expect("config");
        bundle.to_string_lossy().into_owned()
    }

    /// Runs a script in a container of its own and waits for its end.
    pub(crate) fn run(&self, id: &str, script: &str, change: impl FnOnce(&mut Value)) -> Said {
        let bundle = self.bundle(id, script, change);
        self.say(&["run", "--bundle", &bundle, id])
    }

    pub(crate) fn status(&self, id: &str) -> String {
        let state: Value = serde_json::from_str(&self.say(&["state", id]).ok()).expect("json");
        state["status"].as_str().expect("status").to_owned()
    }

    /// Looks that nothing is left: no record, process, cgroup, mount.
    pub(crate) fn end(self) {
        let entries = std::fs::read_dir(self.path("root")).into_iter().flatten().flatten();
        // What is kept for the next container has a dot first.
        let left: Vec<_> =
            entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).collect();
        assert!(left.is_empty(), "records are left: {left:?}");
        wait_for("processes to end", || find_process("", self.directory.path()).is_none().then_some(()));
        // Callers leave the parent of all groups.
        for group in cgroups(&self.name) {
            remove_empty(&group);
        }
        assert_eq!(cgroups(&self.name), Vec::<PathBuf>::new(), "cgroups are left");
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        assert!(!mounts.contains(&*self.directory.path().to_string_lossy()), "a mount is left");
    }
}

impl Drop for Line {
    /// A failed test leaves nothing either.
    fn drop(&mut self) {
        if std::thread::panicking() {
            while let Some(pid) = find_process("", self.directory.path()) {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
                std::thread::sleep(Duration::from_millis(50));
            }
            for group in cgroups(&self.name) {
                clear_group(&group);
            }
        }
    }
}

fn remove_empty(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_empty(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(group);
}
