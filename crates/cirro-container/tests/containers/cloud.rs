//! A cloud of one test: run directory, supervisor, busybox layer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cirro_container::{
    CreateContainer, Exit, LogFile, LogQuery, Rootfs, Stdio, Supervisor, SupervisorEvent, SupervisorOptions,
    WorkloadState, read_log,
};
use cirro_seams::node::{Output, Session};
use oci_spec::runtime::Spec;
use serde_json::json;
use tokio::sync::broadcast;

use crate::sweep::sweep;
pub(crate) use crate::sweep::{cgroups, clear_group, find_process};

/// Longest wait for anything; a test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Cloud {
    pub(crate) supervisor: Supervisor,
    pub(crate) events: broadcast::Receiver<SupervisorEvent>,
    pub(crate) name: String,
    directory: tempfile::TempDir,
}

impl Cloud {
    pub(crate) async fn start() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("cirrotest-{}-{number}", std::process::id());
        let directory = tempfile::tempdir().expect("directory");
        make_layer(&directory.path().join("layer"));
        let options = options(directory.path(), &name);
        let supervisor = within(Supervisor::connect(options)).await.expect("connect");
        let events = supervisor.events();
        Self { supervisor, events, name, directory }
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn log(&self, id: &str) -> PathBuf {
        self.directory.path().join("logs").join(id).join("json.log")
    }

    /// A request for a container that runs `args` over the busybox layer.
    pub(crate) fn container(&self, id: &str, args: &[&str]) -> CreateContainer {
        let (upper, work) = (self.path(&format!("{id}-upper")), self.path(&format!("{id}-work")));
        std::fs::create_dir_all(&upper).expect("upper");
        std::fs::create_dir_all(&work).expect("work");
        CreateContainer {
            id: id.to_owned(),
            spec: spec(args),
            rootfs: Rootfs { lower: vec![self.path("layer")], upper, work },
            stdio: Stdio::default(),
            log: Some(LogFile { path: self.log(id), max_size: 0, max_files: 1, ..LogFile::default() }),
            cgroup_parent: None,
        }
    }

    /// A shell script as a container, made and started.
    pub(crate) async fn run(&self, id: &str, script: &str) -> WorkloadState {
        self.start_container(self.container(id, &["sh", "-c", script])).await
    }

    pub(crate) async fn start_container(&self, request: CreateContainer) -> WorkloadState {
        let id = request.id.clone();
        let state = within(self.supervisor.create(request)).await.expect("create");
        within(self.supervisor.start(&id)).await.expect("start");
        state
    }

    /// Waits for a workload's end.
    pub(crate) async fn exit(&mut self, id: &str) -> Exit {
        let wait = async {
            loop {
                let state = self.state(id).await;
                if let Some(exit) = state.exit {
                    return exit;
                }
                loop {
                    match self.events.recv().await.expect("event") {
                        SupervisorEvent::Exited(ended, exit) if ended == id => return exit,
                        SupervisorEvent::Reconnected => break,
                        SupervisorEvent::Exited(..) => {}
                    }
                }
            }
        };
        within(wait).await
    }

    pub(crate) async fn state(&self, id: &str) -> WorkloadState {
        let list = self.supervisor.list().await.expect("list");
        list.into_iter().find(|state| state.id == id).expect("workload")
    }

    /// All that is in a workload's log, and whether it came from stderr.
    pub(crate) async fn lines(&self, id: &str) -> Vec<(String, bool)> {
        let (_sender, ended) = tokio::sync::watch::channel(true);
        let mut entries = read_log(&self.log(id), LogQuery::default(), ended);
        let mut lines = Vec::new();
        while let Some(entry) = entries.recv().await {
            lines.push((String::from_utf8_lossy(&entry.line).into_owned(), entry.stderr));
        }
        lines
    }

    pub(crate) async fn text(&self, id: &str) -> String {
        self.lines(id).await.into_iter().map(|(line, _)| line).collect()
    }

    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        cgroups(&self.name)
    }

    pub(crate) fn supervisor_pid(&self) -> i32 {
        let run_dir = self.run_dir();
        find_process("supervisor", &run_dir).expect("supervisor runs")
    }

    pub(crate) fn guardian_pid(&self) -> i32 {
        find_process("guardian", &self.run_dir()).expect("guardian runs")
    }

    /// Deletes all workloads, ends the supervisor and looks that nothing is left.
    pub(crate) async fn end(self) {
        for state in within(self.supervisor.list()).await.expect("list") {
            within(self.supervisor.delete(&state.id, true)).await.expect("delete");
        }
        within(self.supervisor.shut_down()).await.expect("shut down");
        assert!(!self.run_dir().join("supervisor").exists(), "the supervisor's directory is left");
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new(), "cgroups are left");
        assert_eq!(find_process("", self.directory.path()), None, "a process is left");
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        assert!(!mounts.contains(&*self.directory.path().to_string_lossy()), "a mount is left");
    }
}

impl Drop for Cloud {
    /// A failed test leaves nothing either.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.run_dir().join("supervisor/supervisor.log");
            eprintln!("supervisor: {}", std::fs::read_to_string(log).unwrap_or_default());
        }
        // Our own link would start them again: it finds no place to.
        let _ = std::fs::rename(self.run_dir(), self.path("old"));
        let _ = std::fs::write(self.run_dir(), "");
        sweep(&self.name, self.directory.path());
    }
}

pub(crate) fn options(directory: &Path, name: &str) -> SupervisorOptions {
    let executable = PathBuf::from(env!("CARGO_BIN_EXE_cirro-container-test"));
    SupervisorOptions { run_dir: directory.join("run"), name: name.to_owned(), executable }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Waits until `condition` holds.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) fn kill_9(pid: i32) {
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill");
    assert!(status.success());
}

pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub(crate) fn make_layer(layer: &Path) {
    for directory in ["bin", "proc", "sys", "dev", "etc", "tmp", "root"] {
        std::fs::create_dir_all(layer.join(directory)).expect("directory");
    }
    std::fs::copy("/bin/busybox", layer.join("bin/busybox")).expect("busybox-static is installed");
    for name in [
        "sh", "true", "sleep", "cat", "echo", "seq", "id", "stty", "yes", "tty", "ls", "dd", "tail", "mount",
        "grep", "tr", "touch",
    ] {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(name)).expect("link");
    }
    std::fs::write(layer.join("etc/data"), "not a program\n").expect("file");
    std::fs::write(layer.join("etc/broken"), "\x7fNOTELF").expect("file");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(layer.join("etc/broken"), executable).expect("mode");
}

/// The spec that docker would make, without a seccomp profile.
pub(crate) fn spec(args: &[&str]) -> Spec {
    let capabilities =
        ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE", "CAP_SYS_RESOURCE"];
    let json = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "hostname": "box",
        "process": {
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": args, "env": ["PATH=/bin"], "noNewPrivileges": false,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1_048_576, "soft": 1_048_576}], "oomScoreAdj": 0
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]}
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}],
            "maskedPaths": ["/proc/kcore", "/proc/keys"], "readonlyPaths": ["/proc/sys"],
            "resources": {"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "access": "rwm"}]}
        }
    });
    serde_json::from_value(json).expect("spec")
}

/// The same spec with a change to its JSON.
pub(crate) fn changed_spec(args: &[&str], change: impl FnOnce(&mut serde_json::Value)) -> Spec {
    let mut json = serde_json::to_value(spec(args)).expect("json");
    change(&mut json);
    serde_json::from_value(json).expect("spec")
}

/// All that a session says, and its exit code.
pub(crate) async fn collect(mut session: Session) -> (String, String, i32) {
    drop(session.input.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    within(async {
        while let Some(output) = session.output.recv().await {
            match output {
                Output::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                Output::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            }
        }
    })
    .await;
    let code = within(session.exit).await.expect("exit code");
    (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned(), code)
}
