//! Debian's dockerd as a peer, in a network namespace of its own, and its docker-registry.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{docker, end, interrupted, said};

/// A dockerd with its containerd; both end when dropped.
pub(crate) struct Dockerd {
    /// What `DOCKER_HOST` is to be.
    pub(crate) host: String,
    /// `dockerd 20.10.24`.
    pub(crate) version: String,
    /// The network namespace that it is in.
    pub(crate) namespace: String,
    child: Child,
    directory: tempfile::TempDir,
    _run: tempfile::TempDir,
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
        // Of the same name, by which all its processes are found.
        let name = directory.path().file_name().context("a name")?;
        let run = tempfile::Builder::new().prefix(name).rand_bytes(0).tempdir_in(super::cloud::IN_MEMORY)?;
        let path = |name: &str| directory.path().join(name);
        let namespace = format!("cirro-peer-{}", std::process::id());
        said(Command::new("ip").args(["netns", "add", &namespace]))?;
        said(Command::new("ip").args(["-n", &namespace, "link", "set", "lo", "up"]))?;
        let host = format!("unix://{}", path("docker.sock").display());
        // (`ip netns exec` mounts a new /sys, without the cgroups that dockerd needs.)
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .args(["dockerd", "--log-level=error", "-H", &host])
            .args(network)
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(run.path().join("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("log"))?)
            .spawn()
            .context("start dockerd")?;
        let (pid, path, within) = (child.id(), directory.path().to_owned(), namespace.clone());
        let guard = interrupted::on_signal(move || {
            let _ = said(Command::new("kill").arg(pid.to_string()));
            // It ends its containers and containerd first.
            for _ in 0..100 {
                if !std::path::Path::new(&format!("/proc/{pid}/root")).exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            let _ = said(Command::new("ip").args(["netns", "del", &within]));
            let _ = std::fs::remove_dir_all(&path);
        })?;
        let version = format!("dockerd {version}");
        let this = Self { host, version, namespace, child, directory, _run: run, _guard: guard };
        let deadline = Instant::now() + Duration::from_secs(60);
        while docker(&this.host, &["version"]).is_err() {
            if Instant::now() > deadline {
                bail!("dockerd does not answer");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(this)
    }

    /// What the command lines of its processes name.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path().file_name().map_or(self.directory.path(), Path::new)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        end(&mut self.child);
        let _ = said(Command::new("ip").args(["netns", "del", &self.namespace]));
    }
}

/// Debian's docker-registry; it ends when dropped.
pub(crate) struct DockerRegistry {
    pub(crate) address: String,
    /// `docker-registry 2.8.2`.
    pub(crate) version: String,
    child: Child,
    _directory: tempfile::TempDir,
}

impl DockerRegistry {
    /// Starts one over an empty directory.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let files = directory.path().join("data");
        Self::start_in(directory, &files, None)
    }

    /// Starts one over files that are kept, in a network namespace if one is named.
    pub(crate) fn start_over(files: &Path, namespace: Option<&str>) -> anyhow::Result<Self> {
        Self::start_in(tempfile::tempdir()?, files, namespace)
    }

    fn start_in(directory: tempfile::TempDir, files: &Path, namespace: Option<&str>) -> anyhow::Result<Self> {
        let version = said(Command::new("docker-registry").arg("--version"))
            .context("Debian's docker-registry is needed as the peer")?;
        let version = version.split_whitespace().nth(2).unwrap_or_default().to_owned();
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let config = directory.path().join("config.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\n  cache:\n    blobdescriptor: inmemory\nhttp:\n  addr: {address}\n",
                files.display()
            ),
        )?;
        let within = |program: &str| match namespace {
            Some(name) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg(program);
                command
            }
            None => Command::new(program),
        };
        let child = within("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.path().join("log"))?)
            .spawn()
            .context("start docker-registry")?;
        let this =
            Self { address, version: format!("docker-registry {version}"), child, _directory: directory };
        let question = format!("http://{}/v2/", this.address);
        let deadline = Instant::now() + Duration::from_secs(30);
        while said(within("curl").args(["-sf", "-o", "/dev/null", &question])).is_err() {
            if Instant::now() > deadline {
                bail!("docker-registry does not answer");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(this)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
