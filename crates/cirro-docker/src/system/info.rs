//! `/info`: what `docker info` shows of the server.

use axum::Json;
use axum::extract::State;
use cirro_seams::container::Phase;
use serde_json::{Value, json};

use crate::Face;
use crate::containers::listed;
use crate::error::ApiError;

/// Answers with counts and facts.
pub(crate) async fn get(State(face): State<Face>) -> Result<Json<Value>, ApiError> {
    let info = &face.info;
    let phases: Vec<Phase> = listed(&face.engine).iter().map(|container| container.phase).collect();
    let count = |wanted: &[Phase]| phases.iter().filter(|phase| wanted.contains(phase)).count();
    let running = count(&[Phase::Running, Phase::Restarting]);
    let paused = count(&[Phase::Paused]);
    let images = face.engine.images().await?.len();
    let (swap_limit, oom_kill_disable) = face.engine.limits_of_host();
    let discovered = tokio::task::spawn_blocking(cirro_engine::cdi_devices).await.unwrap_or_default();
    let discovered: Vec<Value> =
        discovered.into_iter().map(|id| json!({ "Source": "cdi", "ID": id })).collect();
    Ok(Json(json!({
        "ID": daemon_id(info),
        "Name": info.name,
        "Containers": phases.len(),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": phases.len() - running - paused,
        "Images": images,
        "Driver": "overlay2",
        "DriverStatus": [
            ["Supports d_type", "true"],
            ["Using metacopy", "false"],
            ["Native Overlay Diff", "true"],
            ["userxattr", "false"],
        ],
        "DockerRootDir": info.data_dir,
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": null,
            "Log": ["json-file", "none"],
        },
        "MemoryLimit": true,
        "SwapLimit": swap_limit,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "OomKillDisable": oom_kill_disable,
        "IPv4Forwarding": true,
        "Debug": false,
        "NFd": open_files(),
        "NGoroutines": threads(),
        "NEventsListener": face.engine.event_listeners(),
        "SystemTime": jiff::Timestamp::now().to_string(),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": face.host.cgroup_version,
        "KernelVersion": face.host.kernel_version,
        "OperatingSystem": face.host.operating_system,
        "OSVersion": face.host.operating_system_version,
        "OSType": "linux",
        "Architecture": std::env::consts::ARCH,
        "NCPU": face.host.cpus,
        "MemTotal": face.host.memory_bytes,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["127.0.0.0/8"],
            "IndexConfigs": {
                "docker.io": { "Name": "docker.io", "Mirrors": [], "Secure": true, "Official": true },
            },
            "Mirrors": [],
        },
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Labels": [],
        "ExperimentalBuild": false,
        "ServerVersion": info.version,
        "Runtimes": { "cirro": { "path": "cirro" } },
        "DefaultRuntime": "cirro",
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": false,
            "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": cirro_container::INIT_NAME,
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" },
        "InitCommit": { "ID": "" },
        "SecurityOptions": security_options(face.host.cgroup_version),
        "CDISpecDirs": cirro_engine::cdi_directories(),
        "DiscoveredDevices": discovered,
        "GenericResources": null,
        "FirewallBackend": { "Driver": "nftables" },
        "Warnings": [],
    })))
}

fn security_options(cgroup_version: &str) -> Vec<&'static str> {
    let mut options = vec!["name=seccomp,profile=builtin"];
    if cgroup_version == "2" {
        options.push("name=cgroupns");
    }
    options
}

/// Returns how many descriptors the daemon has open.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Returns how many threads the daemon has; dockerd tells its goroutines here.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Returns the daemon's own id.
pub(crate) fn daemon_id(info: &crate::FaceInfo) -> String {
    format!("cirro-{}", info.name)
}
