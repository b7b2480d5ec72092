//! Debian's dockerd as a peer, in a network namespace of its own.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{docker, end, interrupted, said};

const NAMESPACE: &str = "cirro-bench-peer";

/// A dockerd with its containerd; both end when dropped.
pub(crate) struct Dockerd {
    /// What `DOCKER_HOST` is to be.
    pub(crate) host: String,
    /// `dockerd 20.10.24`.
    pub(crate) version: String,
    child: Child,
    directory: tempfile::TempDir,
    _guard: interrupted::Guard,
}

impl Dockerd {
    /// Starts it and waits until it answers.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Self::start_with(&["--bridge=none", "--iptables=false"])
    }

    /// The same with its default network.
    pub(crate) fn start_with_bridge() -> anyhow::Result<Self> {
        Self::start_with(&["--bip=172.31.255.1/24"])
    }

    fn start_with(network: &[&str]) -> anyhow::Result<Self> {
        let version = said(Command::new("dockerd").arg("--version"))
            .context("Debian's docker.io is needed as the peer")?;
        let version = version
            .trim()
            .trim_start_matches("Docker version ")
            .split(',')
            .next()
            .unwrap_or_default()
            .to_owned();
        let directory = tempfile::tempdir()?;
        let path = |name: &str| directory.path().join(name);
        said(Command::new("ip").args(["netns", "add", NAMESPACE]))?;
        said(Command::new("ip").args(["-n", NAMESPACE, "link", "set", "lo", "up"]))?;
        let host = format!("unix://{}", path("docker.sock").display());
        // (`ip netns exec` mounts a new /sys, without the cgroups that dockerd needs.)
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{NAMESPACE}"))
            .args(["dockerd", "--log-level=error", "-H", &host])
            .args(network)
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("log"))?)
            .spawn()
            .context("start dockerd")?;
        let (pid, path) = (child.id(), directory.path().to_owned());
        let guard = interrupted::on_signal(move || {
            let _ = said(Command::new("kill").arg(pid.to_string()));
            // It ends its containers and containerd first.
            for _ in 0..100 {
                if !std::path::Path::new(&format!("/proc/{pid}/root")).exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            let _ = said(Command::new("ip").args(["netns", "del", NAMESPACE]));
            let _ = std::fs::remove_dir_all(&path);
        })?;
        let version = format!("dockerd {version}");
        let this = Self { host, version, child, directory, _guard: guard };
        let deadline = Instant::now() + Duration::from_secs(60);
        while docker(&this.host, &["version"]).is_err() {
            if Instant::now() > deadline {
                bail!("dockerd does not answer");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(this)
    }

    /// Where everything of it is.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        end(&mut self.child);
        let _ = said(Command::new("ip").args(["netns", "del", NAMESPACE]));
    }
}
