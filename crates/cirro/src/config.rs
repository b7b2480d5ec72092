//! Flags of a cloud, and the configuration file with the same names.
//!
//! A flag wins over the file, the file over the default. `cirro up` writes what it settled on to
//! `<run-dir>/config.json`, where the other subcommands find it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use cirro_image::RegistryOptions;
use cirro_types::parse_byte_size;
use clap::Args;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::audit::Audit;
use crate::store::EtcdPlace;

const DEFAULT_DATA_DIR: &str = "/var/lib/cirro";
const DEFAULT_RUN_DIR: &str = "/run/cirro";
const DEFAULT_CONFIG_FILE: &str = "/etc/cirro/cirro.toml";
/// Link names have 15 characters; ours need some of them for themselves.
const MAX_NAME: usize = 8;

/// Where a cloud keeps its things; every subcommand takes these.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// Images, layers, volumes, store [default: /var/lib/cirro]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Sockets, pids, bundles [default: /run/cirro]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) run_dir: Option<PathBuf>,
}

/// Flags of `cirro up`; the configuration file has the same names.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Flags {
    /// Name of the cloud: prefixes links, namespaces, tables and cgroups [default: cirro]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Parts of this host: engine, control, faces [default: all]
    #[arg(long, value_delimiter = ',', value_name = "ROLE")]
    pub(crate) roles: Vec<Role>,
    /// Socket of the Docker API; may be repeated [default: <run-dir>/docker.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) docker_socket: Vec<PathBuf>,
    /// Address of the Kubernetes API; may be repeated [default: 127.0.0.1:6443]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) kubernetes_listen: Vec<SocketAddr>,
    /// Address of the registry; may be repeated [default: 127.0.0.1:5000, or none when that is taken]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) registry_listen: Vec<SocketAddr>,
    /// Users, access, quotas, mirrors of the registry [default: /etc/cirro/registry.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) registry_config: Option<PathBuf>,
    /// Name of this host in the cluster [default: the host name]
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// Pool of docker's networks; may be repeated [default: 172.17.0.0/16 to 172.31.0.0/16]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub(crate) docker_subnets: Vec<Ipv4Net>,
    /// Range of this host's pods [default: 10.42.0.0/24]
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_cidr: Option<Ipv4Net>,
    /// Range of service addresses [default: 10.43.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) service_cidr: Option<Ipv4Net>,
    /// Range of node ports [default: 30000-32767]
    #[arg(long, value_name = "FIRST-LAST")]
    pub(crate) node_port_range: Option<String>,
    /// Range of the links between tenants' networks and the host [default: 100.64.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) transit_cidr: Option<Ipv4Net>,
    /// Kernel of virtual machines: vmlinuz-VERSION, lib/modules/VERSION [default: <data-dir>/kernel, else the host's]
    #[arg(long, value_name = "DIR")]
    pub(crate) guest_kernel: Option<PathBuf>,
    /// Address (http or https, with a port if it has one) that is asked before docker.io when an image is pulled; may be repeated
    #[arg(long, value_name = "URL")]
    pub(crate) registry_mirror: Vec<String>,
    /// Registry (a host, with a port if it has one, or a CIDR) that may have a bad certificate or none; may be repeated
    #[arg(long, value_name = "REGISTRY")]
    pub(crate) insecure_registry: Vec<String>,
    /// Free space (such as 2g) below which the container that writes most is stopped; 0: none [default: a twentieth of the disk, at most 1g]
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk_low_water: Option<String>,
    /// Space kept in a file for the daemon, given up when the disk is full; 0: none [default: a fiftieth of the disk, at most 64m]
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk_reserve: Option<String>,
    /// Where API objects are: embedded, or etcd://HOST:PORT,...[/PREFIX] for several servers [default: embedded]
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Authority of etcd's certificates; with it, etcd is reached by TLS
    #[arg(long, value_name = "FILE")]
    pub(crate) store_ca: Option<PathBuf>,
    /// Certificate that this server shows to etcd
    #[arg(long, value_name = "FILE")]
    pub(crate) store_cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) store_key: Option<PathBuf>,
    /// Policy of the API's audit log: which requests are told, and how much of them [default: none, and no log]
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_policy_file: Option<PathBuf>,
    /// The API's audit log, JSON lines [default: <data-dir>/audit.log, when there is a policy]
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_log_path: Option<PathBuf>,
    /// Megabytes at which the audit log is rotated [default: 100]
    #[arg(long, value_name = "MEGABYTES")]
    pub(crate) audit_log_maxsize: Option<u64>,
    /// Rotated audit logs that are kept [default: 10]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) audit_log_maxbackup: Option<usize>,
    /// Days after which rotated audit logs are deleted; 0: never [default: 0]
    #[arg(long, value_name = "DAYS")]
    pub(crate) audit_log_maxage: Option<u64>,
    /// Least severe log lines written: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
}

/// A part of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Containers, images, networks, machines of this host.
    Engine,
    /// Kubernetes API, controllers, scheduler, kubelet.
    Control,
    /// Docker API.
    Faces,
}

/// What a cloud runs with: flags, file and defaults put together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) roles: Vec<Role>,
    pub(crate) data_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) docker_sockets: Vec<PathBuf>,
    pub(crate) kubernetes_listen: Vec<SocketAddr>,
    /// Empty: nobody said where, and the usual address will do if it is free.
    #[serde(default)]
    pub(crate) registry_listen: Vec<SocketAddr>,
    #[serde(default)]
    pub(crate) registry_config: Option<PathBuf>,
    pub(crate) node_name: String,
    pub(crate) docker_subnets: Vec<Ipv4Net>,
    pub(crate) pod_cidr: Ipv4Net,
    pub(crate) service_cidr: Ipv4Net,
    pub(crate) node_ports: (u16, u16),
    pub(crate) transit_cidr: Ipv4Net,
    #[serde(default)]
    pub(crate) guest_kernel: Option<PathBuf>,
    #[serde(default)]
    pub(crate) registry_mirrors: Vec<String>,
    #[serde(default)]
    pub(crate) insecure_registries: Vec<String>,
    #[serde(default)]
    pub(crate) disk_low_water: Option<u64>,
    #[serde(default)]
    pub(crate) disk_reserve: Option<u64>,
    /// `None`: a file in the data directory.
    #[serde(default)]
    pub(crate) store: Option<EtcdPlace>,
    /// The API's audit log.
    #[serde(default)]
    pub(crate) audit: Option<Audit>,
    pub(crate) log_level: String,
}

impl Place {
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| DEFAULT_DATA_DIR.into())
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(|| DEFAULT_RUN_DIR.into())
    }
}

impl Config {
    /// Puts flags, file and defaults together and checks them.
    pub(crate) fn settle(place: &Place, flags: Flags, file: Option<&Path>) -> anyhow::Result<Self> {
        let flags = flags.or(read_file(file)?);
        let run_dir = std::path::absolute(place.run_dir())?;
        let roles = match flags.roles.as_slice() {
            [] => vec![Role::Engine, Role::Control, Role::Faces],
            roles => roles.to_vec(),
        };
        let audit = Audit::of(&flags, &place.data_dir())?;
        let config = Self {
            name: flags.name.unwrap_or_else(|| "cirro".into()),
            roles,
            data_dir: std::path::absolute(place.data_dir())?,
            docker_sockets: or_default(flags.docker_socket, || vec![run_dir.join("docker.sock")]),
            run_dir,
            kubernetes_listen: or_default(flags.kubernetes_listen, || vec![([127, 0, 0, 1], 6443).into()]),
            registry_listen: flags.registry_listen,
            registry_config: flags.registry_config.map(std::path::absolute).transpose()?,
            node_name: flags.node_name.map_or_else(host_name, Ok)?,
            docker_subnets: or_default(flags.docker_subnets, default_docker_subnets),
            pod_cidr: flags.pod_cidr.unwrap_or_else(|| cidr([10, 42, 0, 0], 24)),
            service_cidr: flags.service_cidr.unwrap_or_else(|| cidr([10, 43, 0, 0], 16)),
            node_ports: parse_port_range(flags.node_port_range.as_deref().unwrap_or("30000-32767"))?,
            transit_cidr: flags.transit_cidr.unwrap_or_else(|| cidr([100, 64, 0, 0], 16)),
            guest_kernel: flags.guest_kernel.map(std::path::absolute).transpose()?,
            registry_mirrors: flags.registry_mirror,
            insecure_registries: flags.insecure_registry,
            disk_low_water: size("--disk-low-water", flags.disk_low_water)?,
            disk_reserve: size("--disk-reserve", flags.disk_reserve)?,
            store: store_place(flags.store, [flags.store_ca, flags.store_cert, flags.store_key])?,
            audit,
            log_level: flags.log_level.unwrap_or_else(|| "info".into()),
        };
        config.check()?;
        Ok(config)
    }

    /// Reads what the cloud with this run directory was last started with.
    pub(crate) fn of_run_dir(place: &Place) -> anyhow::Result<Self> {
        let path = place.run_dir().join("config.json");
        let text = std::fs::read(&path)
            .with_context(|| format!("no cloud was started with --run-dir {}", place.run_dir().display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
    }

    /// Whether the daemon has a role.
    pub(crate) fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Socket for `status`, `down` and `doctor`.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// Address of the cluster's DNS: the tenth of the service range, as upstream's installers choose it.
    pub(crate) fn dns_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.service_cidr.network()) + 10)
    }

    /// Kubeconfig of the cloud's administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }

    fn check(&self) -> anyhow::Result<()> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let starts_well = self.name.starts_with(|c: char| c.is_ascii_lowercase());
        ensure!(
            starts_well && self.name.chars().all(plain) && self.name.len() <= MAX_NAME,
            "--name `{}`: want a lower-case letter, then at most {} letters, digits or dashes",
            self.name,
            MAX_NAME - 1
        );
        ensure!(
            self.has(Role::Engine),
            "--roles without `engine`: a host without an engine is not supported yet"
        );
        for (flag, net, longest) in [
            ("--pod-cidr", self.pod_cidr, 29),
            ("--service-cidr", self.service_cidr, 27),
            ("--transit-cidr", self.transit_cidr, 30),
        ] {
            ensure!(
                net.trunc() == net,
                "{flag} {net}: has bits beyond its prefix; {} is meant?",
                net.trunc()
            );
            ensure!(net.prefix_len() <= longest, "{flag} {net}: too small, want /{longest} or larger");
        }
        let ranges = [
            ("--pod-cidr", self.pod_cidr),
            ("--service-cidr", self.service_cidr),
            ("--transit-cidr", self.transit_cidr),
        ];
        for (i, (flag, net)) in ranges.iter().enumerate() {
            for (other_flag, other) in &ranges[i + 1..] {
                ensure!(!overlap(*net, *other), "{flag} {net} and {other_flag} {other} overlap");
            }
        }
        for socket in &self.docker_sockets {
            // sockaddr_un holds 108 bytes with the final NUL.
            ensure!(
                socket.as_os_str().len() < 108,
                "--docker-socket {}: longer than 107 bytes",
                socket.display()
            );
        }
        self.registries().check().context("--registry-mirror, --insecure-registry")?;
        level(&self.log_level)?;
        Ok(())
    }

    /// How image registries are reached.
    pub(crate) fn registries(&self) -> RegistryOptions {
        RegistryOptions { mirrors: self.registry_mirrors.clone(), insecure: self.insecure_registries.clone() }
    }
}

impl Flags {
    /// Takes what is absent here from `file`.
    fn or(self, file: Self) -> Self {
        let list = |flags: Vec<_>, file| if flags.is_empty() { file } else { flags };
        Self {
            name: self.name.or(file.name),
            roles: if self.roles.is_empty() { file.roles } else { self.roles },
            docker_socket: list(self.docker_socket, file.docker_socket),
            kubernetes_listen: if self.kubernetes_listen.is_empty() {
                file.kubernetes_listen
            } else {
                self.kubernetes_listen
            },
            registry_listen: if self.registry_listen.is_empty() {
                file.registry_listen
            } else {
                self.registry_listen
            },
            registry_config: self.registry_config.or(file.registry_config),
            node_name: self.node_name.or(file.node_name),
            docker_subnets: if self.docker_subnets.is_empty() {
                file.docker_subnets
            } else {
                self.docker_subnets
            },
            pod_cidr: self.pod_cidr.or(file.pod_cidr),
            service_cidr: self.service_cidr.or(file.service_cidr),
            node_port_range: self.node_port_range.or(file.node_port_range),
            transit_cidr: self.transit_cidr.or(file.transit_cidr),
            guest_kernel: self.guest_kernel.or(file.guest_kernel),
            registry_mirror: list_of(self.registry_mirror, file.registry_mirror),
            insecure_registry: list_of(self.insecure_registry, file.insecure_registry),
            disk_low_water: self.disk_low_water.or(file.disk_low_water),
            disk_reserve: self.disk_reserve.or(file.disk_reserve),
            store: self.store.or(file.store),
            store_ca: self.store_ca.or(file.store_ca),
            store_cert: self.store_cert.or(file.store_cert),
            store_key: self.store_key.or(file.store_key),
            audit_policy_file: self.audit_policy_file.or(file.audit_policy_file),
            audit_log_path: self.audit_log_path.or(file.audit_log_path),
            audit_log_maxsize: self.audit_log_maxsize.or(file.audit_log_maxsize),
            audit_log_maxbackup: self.audit_log_maxbackup.or(file.audit_log_maxbackup),
            audit_log_maxage: self.audit_log_maxage.or(file.audit_log_maxage),
            log_level: self.log_level.or(file.log_level),
        }
    }
}

fn list_of<T>(flags: Vec<T>, file: Vec<T>) -> Vec<T> {
    if flags.is_empty() { file } else { flags }
}

/// Parses where API objects are; files go with etcd only.
fn store_place(
    url: Option<String>,
    [ca, certificate, key]: [Option<PathBuf>; 3],
) -> anyhow::Result<Option<EtcdPlace>> {
    match url.as_deref() {
        None | Some("embedded") => {
            let files = ca.is_some() || certificate.is_some() || key.is_some();
            ensure!(!files, "--store-ca, --store-cert, --store-key: only with --store etcd://...");
            Ok(None)
        }
        Some(url) => EtcdPlace::parse(url, ca, certificate, key).map(Some),
    }
}

/// Parses a size; 0 is one too.
fn size(flag: &str, text: Option<String>) -> anyhow::Result<Option<u64>> {
    let Some(text) = text else { return Ok(None) };
    match text.trim() {
        "0" => Ok(Some(0)),
        size => match parse_byte_size(size) {
            Some(bytes) => Ok(Some(bytes)),
            None => bail!("{flag} `{text}`: want a size such as 512m or 2g"),
        },
    }
}

/// Parses a log level.
pub(crate) fn level(text: &str) -> anyhow::Result<tracing::Level> {
    match text.parse() {
        Ok(level) => Ok(level),
        Err(_) => bail!("--log-level `{text}`: want error, warn, info, debug or trace"),
    }
}

fn read_file(path: Option<&Path>) -> anyhow::Result<Flags> {
    let (path, wanted) = path.map_or((Path::new(DEFAULT_CONFIG_FILE), false), |path| (path, true));
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("read {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !wanted => Ok(Flags::default()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn or_default<T>(given: Vec<T>, default: impl FnOnce() -> Vec<T>) -> Vec<T> {
    if given.is_empty() { default() } else { given }
}

fn cidr(address: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new(address.into(), prefix).expect("the prefixes here are at most 32")
}

fn default_docker_subnets() -> Vec<Ipv4Net> {
    (17..=31).map(|second| cidr([172, second, 0, 0], 16)).collect()
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn host_name() -> anyhow::Result<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(valid) || name == "(none)" {
        return Ok("cirro-node".into());
    }
    Ok(name)
}

fn parse_port_range(text: &str) -> anyhow::Result<(u16, u16)> {
    let parsed =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match parsed {
        Some((first, last)) if first <= last && first > 0 => Ok((first, last)),
        _ => bail!("--node-port-range `{text}`: want FIRST-LAST, such as 30000-32767"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(flags: Flags) -> anyhow::Result<Config> {
        let place = Place { data_dir: Some("/d".into()), run_dir: Some("/r".into()) };
        let empty = tempfile::NamedTempFile::new()?;
        Config::settle(&place, flags, Some(empty.path()))
    }

    #[test]
    fn defaults_are_those_of_the_design() {
        let config = settle(Flags::default()).unwrap();
        assert_eq!(config.docker_sockets, [Path::new("/r/docker.sock")]);
        assert_eq!(config.kubernetes_listen, ["127.0.0.1:6443".parse().unwrap()]);
        assert_eq!(config.dns_address(), Ipv4Addr::new(10, 43, 0, 10));
        assert_eq!(config.node_ports, (30000, 32767));
        assert!(config.has(Role::Control));
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "name = \"lab\"\npod-cidr = \"10.9.0.0/24\"\nkubernetes-listen = [\"127.0.0.1:7443\"]\n",
        )
        .unwrap();
        let place = Place { data_dir: None, run_dir: None };
        let flags = Flags { name: Some("mine".into()), ..Flags::default() };
        let config = Config::settle(&place, flags, Some(file.path())).unwrap();
        assert_eq!(config.name, "mine");
        assert_eq!(config.pod_cidr.to_string(), "10.9.0.0/24");
        assert_eq!(config.kubernetes_listen, ["127.0.0.1:7443".parse().unwrap()]);
    }

    #[test]
    fn nonsense_is_refused_by_name_of_the_flag() {
        let refused = |flags: Flags| settle(flags).unwrap_err().to_string();
        assert!(refused(Flags { name: Some("Über".into()), ..Flags::default() }).contains("--name"));
        assert!(
            refused(Flags { node_port_range: Some("9-1".into()), ..Flags::default() })
                .contains("--node-port-range")
        );
        let pods = Some("10.43.0.0/24".parse().unwrap());
        assert!(refused(Flags { pod_cidr: pods, ..Flags::default() }).contains("overlap"));
        assert!(
            refused(Flags { log_level: Some("loud".into()), ..Flags::default() }).contains("--log-level")
        );
    }

    #[test]
    fn an_unknown_name_in_the_file_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "pod-cdir = \"10.9.0.0/24\"\n").unwrap();
        assert!(read_file(Some(file.path())).is_err());
    }
}
