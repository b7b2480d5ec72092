//! A cloud that is measured: everything of its own, ended when dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::said;

/// A cloud with directories, ports and ranges of its own.
pub(crate) struct Cloud {
    binary: PathBuf,
    directory: tempfile::TempDir,
    pub(crate) kubernetes: String,
}

impl Cloud {
    /// Prepares a cloud; nothing runs yet.
    pub(crate) fn new(binary: &Path) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Self {
            binary: binary.into(),
            directory: tempfile::tempdir().context("make a directory")?,
            kubernetes: format!("127.0.0.1:{port}"),
        })
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self) -> anyhow::Result<()> {
        said(
            self.command("up")
                .args(["--detach", "--name", "bench", "--kubernetes-listen", &self.kubernetes])
                .args(["--registry-listen", "127.0.0.1:0"])
                .args(["--docker-subnets", "10.250.0.0/16", "--pod-cidr", "10.251.0.0/24"])
                .args(["--service-cidr", "10.252.0.0/16", "--transit-cidr", "10.253.0.0/24"])
                .args(["--node-port-range", "29000-29099", "--node-name", "bench"]),
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
        let processes = self.processes()?;
        let (pid, _) = processes.iter().find(|(_, role)| role == "daemon").context("the daemon runs")?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM in status")?;
        Ok(peak.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("data/admin.kubeconfig")
    }

    /// PSS of each process, in kB, by role; the last row is the sum.
    pub(crate) fn memory(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let mut rows = Vec::new();
        for (pid, role) in self.processes()? {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let pss =
                text.lines().find_map(|line| line.strip_prefix("Pss:")).context("Pss in smaps_rollup")?;
            rows.push((role, pss.trim().trim_end_matches("kB").trim().parse()?));
        }
        rows.push(("all processes".into(), rows.iter().map(|(_, kilobytes)| kilobytes).sum()));
        Ok(rows)
    }

    /// Processor time used so far by all processes, in ticks.
    pub(crate) fn cpu_ticks(&self) -> anyhow::Result<u64> {
        let mut ticks = 0;
        for (pid, _) in self.processes()? {
            let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            // utime and stime are fields 14 and 15; the two before the name's end are cut off.
            ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        }
        Ok(ticks)
    }

    fn processes(&self) -> anyhow::Result<Vec<(u32, String)>> {
        let run_dir = self.run_dir().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
            let words: Vec<String> = line
                .split(|byte| *byte == 0)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            let role = ["supervisor", "guardian", "up"]
                .into_iter()
                .find(|role| words.iter().any(|word| word == role));
            if let Some(role) = role.filter(|_| words.iter().any(|word| word.starts_with(&run_dir))) {
                found.push((pid, if role == "up" { "daemon".into() } else { role.to_owned() }));
            }
        }
        Ok(found)
    }

    fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(subcommand);
        command
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .arg("--run-dir")
            .arg(self.run_dir());
        command
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Err(error) = said(self.command("down").arg("--workloads")) {
            eprintln!("end the cloud: {error:#}");
        }
    }
}
