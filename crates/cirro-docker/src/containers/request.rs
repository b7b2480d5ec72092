//! The documents of a create request, in docker's words. Nulls were taken out before (see `body`).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::options::{DeviceValue, Options};

/// The top level of a create request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Config {
    pub(crate) hostname: String,
    pub(crate) domainname: String,
    pub(crate) user: String,
    pub(crate) exposed_ports: BTreeMap<String, Value>,
    pub(crate) tty: bool,
    pub(crate) open_stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) env: Vec<String>,
    pub(crate) cmd: Option<Words>,
    pub(crate) image: String,
    pub(crate) volumes: BTreeMap<String, Value>,
    pub(crate) working_dir: String,
    pub(crate) entrypoint: Option<Words>,
    pub(crate) mac_address: String,
    pub(crate) network_disabled: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) stop_signal: String,
    pub(crate) stop_timeout: Option<i64>,
    pub(crate) healthcheck: Option<Value>,
}

/// An argument vector; old clients write a single word as a string.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Words {
    /// One word.
    One(String),
    /// Any number.
    Many(Vec<String>),
}

impl Words {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(word) => vec![word],
            Self::Many(words) => words,
        }
    }
}

/// `HostConfig`: the fields that work; the others are checked by `fields`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct HostConfig {
    pub(crate) binds: Vec<String>,
    pub(crate) volume_driver: String,
    pub(crate) log_config: LogConfig,
    pub(crate) network_mode: String,
    pub(crate) port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
    pub(crate) restart_policy: RestartPolicy,
    pub(crate) auto_remove: bool,
    pub(crate) cap_add: Vec<String>,
    pub(crate) cap_drop: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) dns_options: Vec<String>,
    pub(crate) dns_search: Vec<String>,
    pub(crate) extra_hosts: Vec<String>,
    pub(crate) group_add: Vec<String>,
    pub(crate) oom_score_adj: i32,
    pub(crate) pid_mode: String,
    pub(crate) privileged: bool,
    pub(crate) publish_all_ports: bool,
    pub(crate) readonly_rootfs: bool,
    pub(crate) security_opt: Vec<String>,
    pub(crate) tmpfs: BTreeMap<String, String>,
    pub(crate) storage_opt: BTreeMap<String, String>,
    pub(crate) cgroup_parent: String,
    pub(crate) shm_size: i64,
    pub(crate) sysctls: BTreeMap<String, String>,
    pub(crate) mounts: Vec<Value>,
    pub(crate) volumes_from: Vec<String>,
    pub(crate) init: Option<bool>,
    pub(crate) ulimits: Vec<Ulimit>,
    #[serde(flatten)]
    pub(crate) limits: Limits,
    #[serde(flatten)]
    pub(crate) options: Options,
}

/// The limits in `HostConfig` and in an update request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Limits {
    pub(crate) cpu_shares: i64,
    pub(crate) memory: i64,
    pub(crate) nano_cpus: i64,
    pub(crate) cpu_period: i64,
    pub(crate) cpu_quota: i64,
    pub(crate) cpuset_cpus: String,
    pub(crate) cpuset_mems: String,
    pub(crate) memory_reservation: i64,
    pub(crate) memory_swap: i64,
    pub(crate) pids_limit: Option<i64>,
    pub(crate) cpu_realtime_period: i64,
    pub(crate) cpu_realtime_runtime: i64,
    pub(crate) memory_swappiness: Option<i64>,
    pub(crate) oom_kill_disable: Option<bool>,
    pub(crate) kernel_memory: i64,
    #[serde(rename = "KernelMemoryTCP")]
    pub(crate) kernel_memory_tcp: i64,
    pub(crate) blkio_weight: u16,
    pub(crate) blkio_weight_device: Vec<DeviceValue>,
    pub(crate) blkio_device_read_bps: Vec<DeviceValue>,
    pub(crate) blkio_device_write_bps: Vec<DeviceValue>,
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub(crate) blkio_device_read_iops: Vec<DeviceValue>,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub(crate) blkio_device_write_iops: Vec<DeviceValue>,
}

/// Where output goes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct LogConfig {
    #[serde(rename = "Type")]
    pub(crate) kind: String,
    pub(crate) config: BTreeMap<String, String>,
}

/// A host address and port.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct PortBinding {
    pub(crate) host_ip: String,
    pub(crate) host_port: String,
}

/// What happens after an exit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct RestartPolicy {
    pub(crate) name: String,
    pub(crate) maximum_retry_count: i64,
}

/// A resource limit of the process.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Ulimit {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) soft: i64,
    #[serde(default)]
    pub(crate) hard: i64,
}

/// One entry of `HostConfig.Mounts`; fields that are not named here are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct MountPoint {
    #[serde(rename = "Type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) source: String,
    pub(crate) target: String,
    #[serde(default)]
    pub(crate) read_only: bool,
    #[serde(default)]
    #[expect(dead_code, reason = "a wish for macOS' file sharing; accepted and without effect on Linux")]
    pub(crate) consistency: String,
    #[serde(default)]
    pub(crate) bind_options: Value,
    #[serde(default)]
    pub(crate) volume_options: Value,
    #[serde(default)]
    pub(crate) tmpfs_options: Value,
}

/// `NetworkingConfig`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct NetworkingConfig {
    pub(crate) endpoints_config: BTreeMap<String, Value>,
}

/// One wanted place on a network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Endpoint {
    #[serde(rename = "IPAMConfig")]
    pub(crate) ipam_config: EndpointIpam,
    pub(crate) aliases: Vec<String>,
    pub(crate) links: Vec<String>,
    pub(crate) mac_address: String,
    pub(crate) driver_opts: BTreeMap<String, String>,
    pub(crate) gw_priority: i32,
}

/// Wanted addresses.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointIpam {
    #[serde(rename = "IPv4Address")]
    pub(crate) ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    pub(crate) ipv6_address: String,
    #[serde(rename = "LinkLocalIPs")]
    pub(crate) link_local_ips: Vec<String>,
}
