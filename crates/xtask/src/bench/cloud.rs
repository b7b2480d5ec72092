//! A cloud that is measured: everything of its own, ended when dropped.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::{interrupted, processes, said};

/// Where directories for sockets and states of processes are made: a `/run` is in memory on most hosts, not on all.
pub(super) const IN_MEMORY: &str = "/dev/shm";
/// Names and ranges on one host are shared by all that runs at once: each cloud takes a slot.
const SLOTS: u16 = 4;

/// A cloud with directories, ports and ranges of its own.
pub(crate) struct Cloud {
    binary: PathBuf,
    directory: tempfile::TempDir,
    /// In memory, as `/run` is.
    run: tempfile::TempDir,
    pub(crate) kubernetes: String,
    slot: u16,
    _slot_lock: File,
    _guard: interrupted::Guard,
}

impl Cloud {
    /// Prepares a cloud; nothing runs yet.
    pub(crate) fn new(binary: &Path) -> anyhow::Result<Self> {
        let (slot, slot_lock) = take_slot()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let directory = tempfile::tempdir().context("make a directory")?;
        let run = tempfile::tempdir_in(IN_MEMORY).context("make a run directory")?;
        let (program, path, run_path) =
            (binary.to_owned(), directory.path().to_owned(), run.path().to_owned());
        let guard = interrupted::on_signal(move || {
            let _ = said(command(&program, &path, &run_path, "down").arg("--workloads"));
            let _ = std::fs::remove_dir_all(&path);
            let _ = std::fs::remove_dir_all(&run_path);
        })?;
        let kubernetes = format!("127.0.0.1:{port}");
        Ok(Self {
            binary: binary.into(),
            directory,
            run,
            kubernetes,
            slot,
            _slot_lock: slot_lock,
            _guard: guard,
        })
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self) -> anyhow::Result<()> {
        self.start_roles("engine,control,faces")
    }

    /// The same with some of its parts only.
    pub(crate) fn start_roles(&self, roles: &str) -> anyhow::Result<()> {
        let range = |number: u16| format!("10.{}.0.0", 238 + 4 * self.slot + number);
        // A docker network takes one of the pool's ranges whole; the suites make several.
        let pool = range(0);
        let pool: Vec<_> =
            (0..16).map(|part| pool.replace(".0.0", &format!(".{}.0/20", part * 16))).collect();
        let ports = 29_000 + 100 * self.slot;
        said(
            self.command("up")
                .args(["--detach", "--roles", roles, "--name", &format!("bench{}", self.slot)])
                .args(["--kubernetes-listen", &self.kubernetes, "--registry-listen", "127.0.0.1:0"])
                .args(["--docker-subnets", &pool.join(",")])
                .args(["--pod-cidr", &format!("{}/24", range(1))])
                .args(["--service-cidr", &format!("{}/16", range(2))])
                .args(["--transit-cidr", &format!("{}/24", range(3))])
                .args(["--node-port-range", &format!("{ports}-{}", ports + 99), "--node-name", "bench"]),
        )?;
        Ok(())
    }

    /// What `DOCKER_HOST` is to be.
    pub(crate) fn docker_host(&self) -> String {
        format!("unix://{}", self.run_dir().join("docker.sock").display())
    }

    /// Where its registry listens.
    pub(crate) fn registry(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(self.run_dir().join("registry.address")).context("the registry's address")
    }

    /// The most memory that the daemon has had, in kB.
    pub(crate) fn daemon_peak(&self) -> anyhow::Result<u64> {
        let pid = self.daemon()?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM in status")?;
        Ok(peak.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// Its data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// Process id of the daemon.
    pub(crate) fn daemon(&self) -> anyhow::Result<u32> {
        let processes = self.processes()?;
        let (pid, _) = processes.iter().find(|(_, role)| role == "daemon").context("the daemon runs")?;
        Ok(*pid)
    }

    /// PSS of each process, in kB, by role; the last row is the sum.
    pub(crate) fn memory(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let mut rows = Vec::new();
        for (pid, role) in self.processes()? {
            rows.push((role, processes::memory(pid)?));
        }
        rows.push(("all processes".into(), rows.iter().map(|(_, kilobytes)| kilobytes).sum()));
        Ok(rows)
    }

    /// Processor time used so far by all processes, in ticks.
    pub(crate) fn cpu_ticks(&self) -> anyhow::Result<u64> {
        self.processes()?.iter().map(|(pid, _)| processes::ticks(*pid)).sum()
    }

    fn processes(&self) -> anyhow::Result<Vec<(u32, String)>> {
        let mut found = Vec::new();
        for (pid, words) in processes::of(self.run_dir())? {
            let role = ["supervisor", "guardian", "up"]
                .into_iter()
                .find(|role| words.iter().any(|word| word == role));
            if let Some(role) = role {
                found.push((pid, if role == "up" { "daemon".into() } else { role.to_owned() }));
            }
        }
        Ok(found)
    }

    /// What the command lines of its processes name.
    pub(crate) fn directory(&self) -> &Path {
        self.run.path()
    }

    fn run_dir(&self) -> &Path {
        self.run.path()
    }

    /// A command of the binary for this cloud.
    pub(crate) fn command(&self, subcommand: &str) -> Command {
        command(&self.binary, self.directory.path(), self.run.path(), subcommand)
    }
}

fn take_slot() -> anyhow::Result<(u16, File)> {
    for slot in 0..SLOTS {
        let path = Path::new(IN_MEMORY).join(format!("cirro-bench-slot-{slot}"));
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        if file.try_lock().is_ok() {
            return Ok((slot, file));
        }
    }
    bail!("{SLOTS} clouds are measured on this host already")
}

fn command(binary: &Path, directory: &Path, run: &Path, subcommand: &str) -> Command {
    let mut command = Command::new(binary);
    command.arg(subcommand).arg("--data-dir").arg(directory.join("data"));
    command.arg("--run-dir").arg(run);
    command
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Err(error) = said(self.command("down").arg("--workloads")) {
            eprintln!("end the cloud: {error:#}");
        }
    }
}
