//! The daemon: starts the roles from the ground up, says `ready`, stops them in the other order.
//!
//! ```text
//! engine ─▶ API server ─▶ controllers, scheduler, kubelet ─▶ faces ─▶ ready
//! ```

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use cirro_engine::{DiskOptions, Engine, EngineOptions};
use cirro_net::NetworkOptions;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::cli::say;
use crate::config::{Config, Role};
use crate::control::{self, Controls, Facts, Shutdown};
use crate::plane::ControlPlane;
use crate::{own_log, registry, rest};

/// How long requests that are being served may take when the daemon stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs a cloud until it is asked to stop.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let started = Instant::now();
    let shutdown = Shutdown::default();
    ask_on_signal(&shutdown)?;
    let engine = Engine::start(engine_options(&config)?).await.context("start the engine")?;
    info!(elapsed = ?started.elapsed(), "engine started");

    let tasks = TaskTracker::new();
    let stop = shutdown.token();
    let plane = match config.has(Role::Control) {
        true => Some(ControlPlane::start(&config, &engine, &tasks, &stop).await?),
        false => None,
    };
    if config.has(Role::Faces) {
        serve_docker(&config, &engine, &tasks, &stop)?;
    }
    tell_of_hang_ups(&config, &engine, &tasks, &stop)?;
    let registry = registry::start(&config, &engine, &tasks, &stop).await?;
    let facts = Facts {
        started,
        name: config.name.clone(),
        docker: match config.has(Role::Faces) {
            true => {
                config.docker_sockets.iter().map(|socket| format!("unix://{}", socket.display())).collect()
            }
            false => Vec::new(),
        },
        kubernetes: plane
            .iter()
            .flat_map(|plane| &plane.addresses)
            .map(|address| format!("https://{address}"))
            .collect(),
        registry: registry.iter().map(|address| format!("http://{address}")).collect(),
    };
    let facts = Arc::new(facts);
    let controls = Controls { engine: engine.clone(), shutdown: shutdown.clone(), facts: facts.clone() };
    let listener = listen_unix(&config.control_socket(), 0o600)?;
    let served = control::serve(listener, controls, stop.clone());
    tasks.spawn(async move { served.await.inspect_err(|error| error!("{error:#}")).is_ok() });

    if let Some(plane) = &plane {
        plane.wait_until_ready(&stop).await?;
    }
    if !stop.is_cancelled() {
        info!(elapsed = ?started.elapsed(), "ready");
        say(&ready_line(&facts, started.elapsed()))?;
    }

    tasks.spawn(own_log::keep(config.data_dir.clone(), stop.clone()));
    tasks.spawn(rest::keep(engine.events(), stop.clone()));
    stop.cancelled().await;
    info!(workloads = shutdown.with_workloads(), "stopping");
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        info!("some requests did not end in time");
    }
    match shutdown.with_workloads() {
        true => engine.tear_down().await.context("end the workloads")?,
        false => engine.stop().await,
    }
    remove_sockets(&config);
    Ok(())
}

/// Ends and forgets the workloads of a cloud whose daemon does not run.
pub(crate) async fn tear_down(config: Config) -> anyhow::Result<()> {
    let engine = Engine::start(engine_options(&config)?).await.context("start the engine")?;
    engine.tear_down().await.context("end the workloads")?;
    remove_sockets(&config);
    Ok(())
}

fn remove_sockets(config: &Config) {
    for socket in config.docker_sockets.iter().chain([&config.control_socket()]) {
        let _ = std::fs::remove_file(socket);
    }
}

fn ready_line(facts: &Facts, elapsed: Duration) -> String {
    let apis: Vec<&str> =
        facts.docker.iter().chain(&facts.kubernetes).chain(&facts.registry).map(String::as_str).collect();
    format!("ready in {:.2} s: {}\n", elapsed.as_secs_f64(), apis.join(" "))
}

fn engine_options(config: &Config) -> anyhow::Result<EngineOptions> {
    Ok(EngineOptions {
        name: config.name.clone(),
        data_dir: config.data_dir.clone(),
        run_dir: config.run_dir.clone(),
        executable: std::env::current_exe().context("find the executable")?,
        network: network_options(config),
        registries: config.registries(),
        guest_kernel: config.guest_kernel.clone(),
        disk: DiskOptions { low_water: config.disk_low_water, reserve: config.disk_reserve },
    })
}

/// Ranges and names of a cloud's network.
pub(crate) fn network_options(config: &Config) -> NetworkOptions {
    NetworkOptions {
        name: config.name.clone(),
        run_dir: config.run_dir.clone(),
        docker_subnets: config.docker_subnets.clone(),
        pod_cidr: config.pod_cidr,
        service_cidr: config.service_cidr,
        dns_address: config.dns_address(),
        transit_cidr: config.transit_cidr,
    }
}

fn ask_on_signal(shutdown: &Shutdown) -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context("listen to signals")?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            signals.recv().await;
            shutdown.ask(false);
        });
    }
    Ok(())
}

fn serve_docker(
    config: &Config,
    engine: &Engine,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    for socket in &config.docker_sockets {
        let listener = listen_unix(socket, 0o660)?;
        let face = face_info(config);
        tasks.spawn(cirro_docker::serve(engine.clone(), listener, face, stop.clone().cancelled_owned()));
    }
    Ok(())
}

fn face_info(config: &Config) -> cirro_docker::FaceInfo {
    cirro_docker::FaceInfo {
        name: config.node_name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        data_dir: config.data_dir.clone(),
    }
}

/// dockerd reads its configuration again at SIGHUP and tells so. Ours is the command line's: only the telling is left.
fn tell_of_hang_ups(
    config: &Config,
    engine: &Engine,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut hang_ups = signal(SignalKind::hangup()).context("listen to signals")?;
    let (face, engine, stop) = (face_info(config), engine.clone(), stop.clone());
    tasks.spawn(async move {
        while let Some(Some(())) = stop.run_until_cancelled(hang_ups.recv()).await {
            cirro_docker::tell_reload(&engine, &face);
        }
    });
    Ok(())
}

/// Binds a unix socket; one that a dead daemon left is replaced (the run directory's lock is ours).
fn listen_unix(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("replace {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Binds a TCP address; the error names it.
pub(crate) async fn listen_tcp(address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await.with_context(|| format!("--kubernetes-listen {address}"))
}
