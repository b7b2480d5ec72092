//! The registry of this host: where it listens, what its configuration says.

use std::collections::HashMap;
use std::io::{BufRead as _, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, ensure};
use cirro_engine::Engine;
use cirro_image::Credentials;
use cirro_registry::{Config as RegistryConfig, Mirror, Registry, Upstream};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::cli::say;
use crate::config::{Config, Role};
use crate::upstream::RegistryUpstream;

const DEFAULT_PORT: u16 = 5000;
const MAX_PASSWORD: u64 = 4096;
const DEFAULT_CONFIG_FILE: &str = "/etc/cirro/registry.toml";

/// Opens what the registry keeps and, on a host with faces, serves it; returns where it listens.
pub(crate) async fn start(
    config: &Config,
    engine: &Engine,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<SocketAddr>> {
    let settings = read(config.registry_config.as_deref())?;
    let listeners = if config.has(Role::Faces) { listen(config).await? } else { Vec::new() };
    let mut addresses = Vec::new();
    for listener in &listeners {
        addresses.push(listener.local_addr()?);
    }
    // Opened in any case: what repositories have of the library must stay.
    let rules = settings.rules(addresses.iter().flat_map(hosts).collect());
    let distribution = engine.open_distribution(rules).await.context("open the registry")?;
    let mut origins = HashMap::new();
    for mirror in &settings.mirror {
        let origin = engine.origin(&mirror.upstream, credentials(mirror));
        let origin = origin.with_context(|| format!("mirror `{}`", mirror.prefix))?;
        origins.insert(mirror.prefix.clone(), origin);
    }
    let upstreams =
        |mirror: &Mirror| Arc::new(RegistryUpstream(origins[&mirror.prefix].clone())) as Arc<dyn Upstream>;
    let registry = Registry::new(distribution, &settings, &upstreams);
    for (listener, address) in listeners.into_iter().zip(&addresses) {
        info!(%address, "the registry listens");
        tasks.spawn(cirro_registry::serve(registry.clone(), listener, stop.clone().cancelled_owned()));
    }
    write_address(config, addresses.first())?;
    Ok(addresses)
}

/// Returns where this host's registry listens, if it does.
pub(crate) fn address(config: &Config) -> Option<String> {
    std::fs::read_to_string(config.run_dir.join("registry.address")).ok()
}

/// Prints the hash of the password on standard input.
pub(crate) fn hash_password() -> anyhow::Result<ExitCode> {
    let mut line = String::new();
    std::io::stdin().lock().take(MAX_PASSWORD).read_line(&mut line).context("read the password")?;
    let password = line.trim_end_matches(['\r', '\n']);
    ensure!(!password.is_empty(), "the password is empty");
    say(&format!("{}\n", cirro_registry::hash_password(password)))?;
    Ok(ExitCode::SUCCESS)
}

/// Leaves the address for `cirro env`: the port may be one that the kernel chose.
fn write_address(config: &Config, address: Option<&SocketAddr>) -> anyhow::Result<()> {
    let path = config.run_dir.join("registry.address");
    match address {
        Some(address) => std::fs::write(&path, address.to_string()),
        None => std::fs::remove_file(&path).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }),
    }
    .with_context(|| format!("write {}", path.display()))
}

/// Who we are for an upstream.
fn credentials(mirror: &Mirror) -> Credentials {
    Credentials {
        username: mirror.username.clone().unwrap_or_default(),
        password: mirror.password.clone().unwrap_or_default(),
        ..Credentials::default()
    }
}

/// Binds what was asked for. The usual address, which nobody asked for, is left to who has it.
async fn listen(config: &Config) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in &config.registry_listen {
        let bound = TcpListener::bind(address).await;
        listeners.push(bound.with_context(|| format!("--registry-listen {address}"))?);
    }
    if config.registry_listen.is_empty() {
        let address = (Ipv4Addr::LOCALHOST, DEFAULT_PORT);
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                warn!(%error, port = DEFAULT_PORT, "no registry: its usual address is taken; use --registry-listen")
            }
        }
    }
    Ok(listeners)
}

/// The hosts that names of images have for an address.
fn hosts(address: &SocketAddr) -> Vec<String> {
    let port = address.port();
    let mut hosts = Vec::new();
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        hosts.extend([format!("localhost:{port}"), format!("127.0.0.1:{port}")]);
    }
    if !address.ip().is_unspecified() {
        hosts.push(address.to_string());
    }
    hosts
}

fn read(path: Option<&Path>) -> anyhow::Result<RegistryConfig> {
    let (path, wanted) = path.map_or((Path::new(DEFAULT_CONFIG_FILE), false), |path| (path, true));
    match std::fs::read_to_string(path) {
        Ok(text) => RegistryConfig::parse(&text).with_context(|| format!("read {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !wanted => {
            Ok(RegistryConfig::default())
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}
