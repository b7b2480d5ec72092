//! What a container is asked to be and what it is found to be, in the engine's words.
//!
//! Faces and the kubelet fill a [`ContainerSpec`]; the engine answers with a [`Container`].

mod block_io;
mod health;
mod isolation;
mod log;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::network::{PortPublish, Protocol};

pub use block_io::{BlockIo, DeviceLimit};
pub use health::{Health, HealthCheck, HealthResult, HealthStatus, HealthTest};
pub use isolation::{CgroupNamespace, DevicePath, DeviceRule, Devices, IpcMode, Namespaces, SystemPaths};
pub use log::{LogAttributes, LogConfig};

/// Everything a container is created from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Name without a leading slash; the engine makes one up when absent.
    pub name: Option<String>,
    /// Image as the caller wrote it: a name, an id or an id's prefix.
    pub image: String,
    /// Replaces the image's entrypoint when present; `Some(vec![])` clears it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command when present.
    pub command: Option<Vec<String>>,
    /// `NAME=value`, over the image's.
    pub env: Vec<String>,
    /// Labels, over the image's.
    pub labels: BTreeMap<String, String>,
    /// `user[:group]`, by name or number; the image's when absent.
    pub user: Option<String>,
    /// Numeric groups added to the process.
    pub additional_gids: Vec<u32>,
    /// Groups added to the process, by the names of the image's `/etc/group`.
    pub additional_groups: Vec<String>,
    /// The image's when absent.
    pub working_dir: Option<String>,
    /// The id's first twelve digits when absent.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// Whether stdio is a terminal.
    pub tty: bool,
    /// Whether stdin is kept open for attachers.
    pub open_stdin: bool,
    /// Whether stdin closes when the first attacher leaves.
    pub stdin_once: bool,
    /// The image's, or SIGTERM, when absent.
    pub stop_signal: Option<String>,
    /// Grace of `stop`; 10 when absent.
    pub stop_timeout_seconds: Option<i64>,
    /// Where its network is.
    pub network: NetworkMode,
    /// The networks that it is on; what `network` says when absent.
    pub networks: Option<Vec<Attachment>>,
    /// Ports published on the host.
    pub publish: Vec<PortPublish>,
    /// Whether every exposed port is published on an ephemeral port.
    pub publish_all: bool,
    /// Ports exposed beside the image's: `80/tcp`.
    pub exposed_ports: Vec<(u16, Protocol)>,
    /// Name servers instead of ours.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Lines for /etc/hosts.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Binds, tmpfs and volumes.
    pub mounts: Vec<Mount>,
    /// Containers whose mounts it gets too, and whether only for reading.
    pub volumes_from: Vec<(String, bool)>,
    /// Limits.
    pub resources: Resources,
    /// What happens when it exits.
    pub restart: RestartPolicy,
    /// Whether it is removed when it exits.
    pub auto_remove: bool,
    /// All capabilities the host can give, all devices, nothing masked.
    pub privileged: bool,
    /// Whether its root is read-only.
    pub read_only_root: bool,
    /// Capabilities added to the default set (`NET_ADMIN`, `ALL`).
    pub cap_add: Vec<String>,
    /// Capabilities taken from the default set.
    pub cap_drop: Vec<String>,
    /// `no-new-privileges`, `seccomp=unconfined`, `seccomp=<profile JSON>`.
    pub security_opt: Vec<String>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Bytes that its root may take, where the file system keeps project quotas; no bound when absent.
    pub storage_size: Option<u64>,
    /// The cgroup that its own is made in, from the top of the hierarchies; the cloud's when absent.
    pub cgroup_parent: Option<String>,
    /// Bytes of /dev/shm; 64 MiB when absent.
    pub shm_size: Option<u64>,
    /// Whether a small init reaps for it.
    pub init: bool,
    /// Whose process ids it sees.
    pub pid_mode: PidMode,
    /// What else it shares with the host or with another container.
    pub namespaces: Namespaces,
    /// Devices of the host.
    pub devices: Devices,
    /// What is hidden from it.
    pub system_paths: SystemPaths,
    /// Other containers that it knows by another name: container and alias.
    pub links: Vec<(String, String)>,
    /// Words for the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Over the image's.
    pub health: Option<HealthCheck>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// `nofile` and such: name, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Where its output goes.
    pub log: LogConfig,
    /// Who made it: `docker` or a pod; only the owner may remove it.
    pub owner: Owner,
    /// The face's own form of the request, given back in `inspect`.
    pub face: Value,
}

/// Where a container's network is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// The default bridge.
    #[default]
    Default,
    /// A network namespace with loopback only.
    None,
    /// The host's.
    Host,
    /// Another container's, by id or name.
    Container(String),
    /// A docker network, by name or id.
    Network(String),
    /// A subnet of a tenant's VPC: namespace and name (`--network NAMESPACE/SUBNET`).
    Subnet {
        /// Namespace of the subnet object.
        namespace: String,
        /// Name of the subnet object.
        name: String,
    },
    /// The namespaces of a pod's sandbox.
    Sandbox(String),
}

/// A container's wish for a place on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// A docker network's name or id, or `NAMESPACE/SUBNET` for a tenant's subnet.
    pub network: String,
    /// Id of the docker network as found when it was asked for.
    pub network_id: Option<String>,
    /// Names beside the container's own.
    pub aliases: Vec<String>,
    /// Other containers under names that only this one sees: `container:alias`.
    pub links: Vec<String>,
    /// A fixed IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// A fixed Ethernet address.
    pub mac: Option<cirro_types::MacAddress>,
    /// Options of the driver.
    pub driver_options: BTreeMap<String, String>,
    /// The default route goes by the network with the highest one.
    pub gateway_priority: i32,
}

/// Whose process ids a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PidMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's.
    Container(String),
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Absolute path in the container.
    pub target: String,
    /// Whether it is read-only.
    pub read_only: bool,
    /// How it is mounted, beyond the usual.
    #[serde(default)]
    pub options: MountOptions,
}

/// How something is mounted; the default is what most mounts are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountOptions {
    /// Which mounts pass between host and container.
    pub propagation: Propagation,
    /// Whether what is mounted below a bind's source is left out.
    pub non_recursive: bool,
    /// Whether what is mounted below the source stays writable when the mount is read-only.
    pub read_only_non_recursive: bool,
    /// A place in the volume that is mounted instead of all of it; it must be there when the container starts.
    pub subpath: Option<String>,
    /// Whether a new volume stays empty instead of getting what the image has at its target.
    pub no_copy: bool,
    /// Options of the driver of a volume that is made.
    pub driver_options: BTreeMap<String, String>,
    /// Labels of a volume that is made.
    pub labels: BTreeMap<String, String>,
    /// Options of a tmpfs, in the kernel's words, over docker's.
    pub tmpfs: Vec<String>,
}

/// Which mounts pass between host and container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// None, at any depth.
    #[default]
    RPrivate,
    /// None.
    Private,
    /// Both ways, at any depth.
    RShared,
    /// Both ways.
    Shared,
    /// From the host, at any depth.
    RSlave,
    /// From the host.
    Slave,
}

impl Propagation {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::RPrivate, Self::Private, Self::RShared, Self::Shared, Self::RSlave, Self::Slave];

    /// Returns docker's and the kernel's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RPrivate => "rprivate",
            Self::Private => "private",
            Self::RShared => "rshared",
            Self::Shared => "shared",
            Self::RSlave => "rslave",
            Self::Slave => "slave",
        }
    }

    /// Finds the kind that a word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSource {
    /// A path of the host.
    Bind {
        /// Absolute path.
        path: PathBuf,
        /// Whether a missing path is made as a directory.
        create: bool,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; the kernel's default when absent.
        size: Option<u64>,
        /// Permission bits; 1777 when absent.
        mode: Option<u32>,
    },
    /// A named volume, made when it is missing.
    Volume {
        /// Its name; anonymous when absent.
        name: Option<String>,
    },
}

/// Limits of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: Option<i64>,
    /// Bytes of memory and swap; -1 for no limit.
    pub memory_swap: Option<i64>,
    /// Soft limit in bytes.
    pub memory_reservation: Option<i64>,
    /// Billionths of a processor.
    pub nano_cpus: Option<i64>,
    /// Relative weight, 1024 by default.
    pub cpu_shares: Option<u64>,
    /// Microseconds per period.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Processors, `0-3,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Number of processes; -1 for no limit.
    pub pids: Option<i64>,
    /// Microseconds of real-time scheduling per period.
    pub cpu_realtime_runtime: Option<i64>,
    /// Microseconds.
    pub cpu_realtime_period: Option<u64>,
    /// How readily memory is swapped out, 0 to 100.
    pub memory_swappiness: Option<u64>,
    /// Whether its processes wait instead of being killed when memory runs out.
    pub oom_kill_disable: bool,
    /// Block devices.
    pub block_io: BlockIo,
}

/// What happens when a container exits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is started again.
    Always,
    /// It is started again unless somebody stopped it.
    UnlessStopped,
    /// It is started again after a failure, at most so often (0: without end).
    OnFailure(u32),
}

/// Who made a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// A docker client.
    #[default]
    Docker,
    /// The kubelet, for a pod; docker clients may look and exec, not stop or remove.
    Pod {
        /// The pod's uid.
        uid: String,
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// The container's name in the pod.
        container: String,
    },
    /// The builder, for one step.
    Build,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It exited and waits for its policy to start it again.
    Restarting,
    /// It is being removed.
    Removing,
    /// Its process ended.
    Exited,
    /// It could not be made or removed.
    Dead,
}

/// A container as the engine knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Name without a slash.
    pub name: String,
    /// What it was made from, image defaults not merged.
    pub spec: ContainerSpec,
    /// Id (config digest) of its image.
    pub image_id: String,
    /// The argument vector, image defaults merged.
    pub args: Vec<String>,
    /// The environment, image defaults merged.
    pub env: Vec<String>,
    /// The working directory.
    pub working_dir: String,
    /// The user, image default merged.
    pub user: String,
    /// Labels, image defaults merged.
    pub labels: BTreeMap<String, String>,
    /// Exposed ports, image defaults merged.
    pub exposed_ports: Vec<(u16, Protocol)>,
    /// What it is doing.
    pub phase: Phase,
    /// Process id on the host while it runs.
    pub pid: Option<i32>,
    /// Exit code of the last run; 128 + n for signal n.
    pub exit_code: Option<i32>,
    /// Whether the last run ended for want of memory.
    pub oom_killed: bool,
    /// Why the last start failed.
    pub error: Option<String>,
    /// RFC 3339 with nanoseconds.
    pub created_at: String,
    /// Of the last start.
    pub started_at: Option<String>,
    /// Of the last exit.
    pub finished_at: Option<String>,
    /// How its health is found out, image default merged; none when nobody asked.
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
    /// What the checks of this run found.
    #[serde(default)]
    pub health: Option<Health>,
    /// How often its policy started it again.
    pub restart_count: u32,
    /// Its places on networks, while it has any.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Published ports as they were bound.
    pub ports: Vec<PortPublish>,
    /// Its log file.
    pub log_path: PathBuf,
    /// Mounts with volumes resolved: name (for a volume), host path, target, read-only.
    pub mounts: Vec<ResolvedMount>,
}

/// A mount after volumes were resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedMount {
    /// `bind`, `volume` or `tmpfs`.
    pub kind: String,
    /// Name of the volume.
    pub name: Option<String>,
    /// Path on the host.
    pub source: PathBuf,
    /// Path in the container.
    pub target: String,
    /// Whether it is read-only.
    pub read_only: bool,
    /// How it is mounted, beyond the usual.
    #[serde(default)]
    pub options: MountOptions,
}

/// A container's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    /// The network's id.
    pub network_id: String,
    /// The port's id.
    pub id: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Prefix length of its subnet.
    pub prefix: u8,
    /// Its gateway, when the network has one.
    pub gateway: Option<Ipv4Addr>,
    /// Its MAC address.
    pub mac: cirro_types::MacAddress,
    /// Its IPv6 address with the prefix length of its subnet.
    #[serde(default)]
    pub address6: Option<(Ipv6Addr, u8)>,
    /// Its IPv6 gateway, when the network has one.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
}

impl Endpoint {
    /// Tells whether this is a place on the network with this name or id.
    pub fn is_on(&self, attachment: &Attachment) -> bool {
        self.network == attachment.network
            || attachment.network_id.as_ref().is_some_and(|id| *id == self.network_id)
    }
}

impl ContainerSpec {
    /// Lists the networks that it wants to be on, the one that `network` names first.
    ///
    /// Empty for a container whose network is nobody's, the host's or another one's.
    pub fn attachments(&self) -> Vec<Attachment> {
        if let Some(networks) = &self.networks {
            return networks.clone();
        }
        let network = match &self.network {
            NetworkMode::Default => "bridge".to_owned(),
            NetworkMode::Network(name) => name.clone(),
            NetworkMode::Subnet { namespace, name } => format!("{namespace}/{name}"),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) | NetworkMode::Sandbox(_) => {
                return Vec::new();
            }
        };
        vec![Attachment { network, ..Attachment::default() }]
    }
}

/// Cleans the path of a cgroup that others are to be in, as if it began at the top; nothing for the top itself.
pub fn clean_cgroup_parent(path: &str) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
        match name {
            ".." => _ = names.pop(),
            name => names.push(name),
        }
    }
    (!names.is_empty()).then(|| format!("/{}", names.join("/")))
}
