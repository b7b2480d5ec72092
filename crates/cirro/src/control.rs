//! The daemon's own socket, for `cirro status`, `down` and `doctor`: HTTP with JSON over a unix socket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use cirro_engine::Engine;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

const MAX_ANSWER: usize = 4 << 20;
/// Ending a few hundred workloads takes its time; each has a grace.
const TIMEOUT: Duration = Duration::from_secs(300);

/// What `cirro status` shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) pid: u32,
    pub(crate) version: String,
    pub(crate) name: String,
    pub(crate) uptime_seconds: u64,
    pub(crate) docker: Vec<String>,
    pub(crate) kubernetes: Vec<String>,
    #[serde(default)]
    pub(crate) registry: Vec<String>,
    pub(crate) containers_running: usize,
    pub(crate) containers_total: usize,
    pub(crate) instances_running: usize,
    pub(crate) images: usize,
}

/// What the daemon answers to `down`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stopping {
    pub(crate) pid: u32,
}

#[derive(Debug, Deserialize)]
struct DownQuery {
    #[serde(default)]
    workloads: bool,
}

/// How the daemon was asked to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shutdown {
    token: CancellationToken,
    workloads: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Shutdown {
    /// Asks the daemon to stop, with or without its workloads.
    pub(crate) fn ask(&self, workloads: bool) {
        self.workloads.fetch_or(workloads, std::sync::atomic::Ordering::Relaxed);
        self.token.cancel();
    }

    /// Whether the workloads are to go too.
    pub(crate) fn with_workloads(&self) -> bool {
        self.workloads.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Resolves when the daemon is asked to stop.
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Controls {
    pub(crate) engine: Engine,
    pub(crate) shutdown: Shutdown,
    pub(crate) facts: std::sync::Arc<Facts>,
}

/// What does not change while the daemon runs.
pub(crate) struct Facts {
    pub(crate) started: std::time::Instant,
    pub(crate) name: String,
    pub(crate) docker: Vec<String>,
    pub(crate) kubernetes: Vec<String>,
    pub(crate) registry: Vec<String>,
}

/// Serves the socket until `stop`.
pub(crate) async fn serve(
    listener: UnixListener,
    controls: Controls,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/status", get(status))
        .route("/down", post(down))
        .route("/doctor", get(doctor).post(mend))
        .route("/build", post(crate::build::serve::build))
        .with_state(controls);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("serve the control socket")
}

type Fault = (http::StatusCode, String);

fn fault(error: impl std::fmt::Display) -> Fault {
    (http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

async fn status(State(controls): State<Controls>) -> Result<Json<Status>, Fault> {
    let containers = controls.engine.containers();
    let images = controls.engine.images().await.map_err(fault)?;
    let instances = controls.engine.node().list_instances().await.map_err(fault)?;
    let running = |container: &&cirro_seams::container::Container| container.pid.is_some();
    let facts = &controls.facts;
    Ok(Json(Status {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
        name: facts.name.clone(),
        uptime_seconds: facts.started.elapsed().as_secs(),
        docker: facts.docker.clone(),
        kubernetes: facts.kubernetes.clone(),
        registry: facts.registry.clone(),
        containers_running: containers.iter().filter(running).count(),
        containers_total: containers.len(),
        instances_running: instances.iter().filter(|instance| instance.running).count(),
        images: images.len(),
    }))
}

async fn down(State(controls): State<Controls>, Query(query): Query<DownQuery>) -> Json<Stopping> {
    controls.shutdown.ask(query.workloads);
    Json(Stopping { pid: std::process::id() })
}

async fn doctor(State(controls): State<Controls>) -> Result<Json<Vec<cirro_engine::Fault>>, Fault> {
    controls.engine.examine().await.map(Json).map_err(fault)
}

async fn mend(State(controls): State<Controls>) -> Result<Json<Vec<cirro_engine::Fault>>, Fault> {
    controls.engine.mend().await.map(Json).map_err(fault)
}

/// Sends one request to the daemon. `Ok(None)`: no daemon listens.
pub(crate) fn ask<T: DeserializeOwned>(socket: &Path, method: &str, path: &str) -> anyhow::Result<Option<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = match UnixStream::connect(socket).await {
            Ok(stream) => stream,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("connect to {}", socket.display())),
        };
        let answer = tokio::time::timeout(TIMEOUT, exchange(stream, method, path))
            .await
            .context("the daemon does not answer")??;
        Ok(Some(serde_json::from_slice(&answer).context("read the daemon's answer")?))
    })
}

pub(crate) fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

async fn exchange(stream: UnixStream, method: &str, path: &str) -> anyhow::Result<Bytes> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "cirro")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("read the daemon's answer: {error}"))?.to_bytes();
    drop(sender);
    connection.abort();
    if !status.is_success() {
        bail!("{}", String::from_utf8_lossy(&body));
    }
    Ok(body)
}
