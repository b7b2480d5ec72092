//! `spec`: writes a bundle's configuration to start from.

use std::io;

use serde_json::{Value, json};

use super::context::{Context, absolute};
use super::error::CliError;
use super::flags::{Flag, Parsed};
use super::store::write_atomically;

pub(super) const FLAGS: &[Flag] = &[
    Flag::value("bundle", "DIR", "path to the root of the bundle directory").short("b"),
    Flag::switch("rootless", "not supported"),
];

pub(super) fn run(_: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    if parsed.has("rootless") {
        return Err(CliError::Usage("--rootless is not supported".to_owned()));
    }
    let path = absolute(parsed.value("bundle").unwrap_or("."))?.join("config.json");
    if path.exists() {
        let source = io::Error::new(io::ErrorKind::AlreadyExists, "file exists, remove it first");
        return Err(CliError::Write { path, source });
    }
    let text = format!("{:#}\n", default_spec());
    write_atomically(&path, text.as_bytes()).map_err(|source| CliError::Write { path, source })?;
    Ok(0)
}

fn default_spec() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": super::features::NEWEST_SPEC,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "cirro",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "cgroup" },
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    let mut mount = json!({ "destination": destination, "type": kind, "source": source });
    if !options.is_empty() {
        mount["options"] = json!(options);
    }
    mount
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let spec: oci_spec::runtime::Spec = serde_json::from_value(default_spec()).expect("a spec");
        assert_eq!(spec.mounts().as_ref().map(Vec::len), Some(7));
    }
}
