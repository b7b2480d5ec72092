//! Debian's dockerd as a peer, in a network namespace of its own.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{docker, end, said};

const NAMESPACE: &str = "cirro-bench-peer";

/// A dockerd with its containerd; both end when dropped.
pub(crate) struct Dockerd {
    /// What `DOCKER_HOST` is to be.
    pub(crate) host: String,
    /// `dockerd 20.10.24`.
    pub(crate) version: String,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Dockerd {
    /// Starts it and waits until it answers.
    pub(crate) fn start() -> anyhow::Result<Self> {
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
        let host = format!("unix://{}", path("docker.sock").display());
        // (`ip netns exec` mounts a new /sys, without the cgroups that dockerd needs.)
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{NAMESPACE}"))
            .args(["dockerd", "--bridge=none", "--iptables=false", "--log-level=error", "-H", &host])
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
        let this = Self { host, version: format!("dockerd {version}"), child, _directory: directory };
        let deadline = Instant::now() + Duration::from_secs(60);
        while docker(&this.host, &["version"]).is_err() {
            if Instant::now() > deadline {
                bail!("dockerd does not answer");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(this)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        end(&mut self.child);
        let _ = said(Command::new("ip").args(["netns", "del", NAMESPACE]));
    }
}
