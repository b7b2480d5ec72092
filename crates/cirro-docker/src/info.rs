//! Facts about the cloud and its host that `docker info` and `docker version` show.

use std::path::{Path, PathBuf};

/// What the face tells about the cloud.
#[derive(Debug, Clone)]
pub struct FaceInfo {
    /// Name of the host as the cloud knows it.
    pub name: String,
    /// Version of cirro.
    pub version: String,
    /// Where the cloud keeps its data.
    pub data_dir: PathBuf,
}

impl FaceInfo {
    /// Returns the value of the `Server` header.
    pub(crate) fn server(&self) -> String {
        format!("cirro/{} (linux)", self.version)
    }
}

/// Facts about the host.
#[derive(Debug, Clone)]
pub(crate) struct HostFacts {
    /// Processors that may be used.
    pub(crate) cpus: usize,
    /// Bytes of memory.
    pub(crate) memory_bytes: u64,
    /// Release of the kernel (`6.1.0`).
    pub(crate) kernel_version: String,
    /// Name of the distribution (`Debian GNU/Linux 12 (bookworm)`).
    pub(crate) operating_system: String,
    /// Version of the distribution (`12`).
    pub(crate) operating_system_version: String,
    /// `2` when the host has the unified cgroup hierarchy alone, else `1`.
    pub(crate) cgroup_version: &'static str,
}

impl HostFacts {
    /// Reads the facts from `/proc` and `/etc/os-release`; what cannot be read stays empty or 0.
    pub(crate) fn read() -> Self {
        let release = read("/etc/os-release");
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_total(&read("/proc/meminfo")),
            kernel_version: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            operating_system: release_value(&release, "PRETTY_NAME"),
            operating_system_version: release_value(&release, "VERSION_ID"),
            cgroup_version: if unified { "2" } else { "1" },
        }
    }
}

/// The architecture in Go's words.
pub(crate) fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn memory_total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

fn release_value(release: &str, name: &str) -> String {
    let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_default().trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_files_are_read() {
        assert_eq!(memory_total("MemTotal:        1000 kB\nMemFree: 1 kB\n"), 1_024_000);
        let release = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID=12\n";
        assert_eq!(release_value(release, "PRETTY_NAME"), "Debian GNU/Linux 12");
        assert_eq!(release_value(release, "VERSION_ID"), "12");
        assert_eq!(release_value(release, "ID"), "");
    }
}
