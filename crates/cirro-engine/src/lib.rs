//! Owner of all that lives on one host; the only thing faces and kubelet talk to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cirro_build::{BuildEvent, BuildRequest};
use cirro_container::{LogEntry, LogQuery};
use cirro_image::{Image, Loaded, Removed};
use cirro_net::{CreateDockerNetwork, DockerNetwork, NetworkOptions};
use cirro_seams::container::{Container, ContainerSpec, Resources, RestartPolicy};
use cirro_seams::node::{ExecRequest, Session};
use cirro_types::{Digest, ImageConfig, ImageReference};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};

/// Where an engine keeps things and what it may use.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Cloud name.
    pub name: String,
    /// Images, layers, containers, volumes, records.
    pub data_dir: PathBuf,
    /// Sockets, bundles, namespaces.
    pub run_dir: PathBuf,
    /// The executable to start the supervisor with.
    pub executable: PathBuf,
    /// Network ranges.
    pub network: NetworkOptions,
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {}

/// Why the engine refused. Display is the text a docker client shows.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// 404: `No such container: X`, `No such image: X`, `network X not found`.
    #[error("{0}")]
    NotFound(String),
    /// 409.
    #[error("{0}")]
    Conflict(String),
    /// 400.
    #[error("{0}")]
    Invalid(String),
    /// 304: nothing to do (start of a running container).
    #[error("{0}")]
    NotModified(String),
    /// 501: known and not there yet.
    #[error("{0}")]
    NotSupported(String),
    /// 500.
    #[error("{0}")]
    Failed(String),
}

/// A change that docker's `events` and the kubelet see.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// `container`, `image`, `network`, `volume`, `instance`.
    pub kind: String,
    /// `create`, `start`, `die`, `stop`, `kill`, `destroy`, `tag`, `exec_create: ...`.
    pub action: String,
    /// Id of the object.
    pub id: String,
    /// name, image, exitCode, signal, labels...
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since 1970.
    pub time_nanoseconds: i64,
}

/// An exec instance.
#[derive(Debug, Clone)]
pub struct Exec {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its container.
    pub container: String,
    /// What it runs.
    pub request: ExecRequest,
    /// Whether it runs.
    pub running: bool,
    /// Once it ended.
    pub exit_code: Option<i32>,
    /// On the host.
    pub pid: Option<i32>,
}

/// A named or anonymous volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub mountpoint: PathBuf,
    /// RFC 3339.
    pub created_at: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl Engine {
    /// Opens the records, reaches the supervisor, brings the host to what the records say.
    pub async fn start(options: EngineOptions) -> Result<Self, EngineError> {
        todo!()
    }
    /// Ends what belongs to the daemon; workloads go on.
    pub async fn stop(&self) {
        todo!()
    }
    /// Ends and forgets every workload, then supervisor, guardian, network. Images and volumes stay.
    pub async fn tear_down(&self) -> Result<(), EngineError> {
        todo!()
    }
    /// Finds leaks: workloads, roots, namespaces, links, cgroups without a record, and records without them.
    pub async fn leaks(&self) -> Result<Vec<String>, EngineError> {
        todo!()
    }
    /// Returns events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        todo!()
    }
    /// Returns kept events since a time (nanoseconds since 1970), the newest few hundred.
    pub fn past_events(&self, since: i64) -> Vec<Event> {
        todo!()
    }

    /// Makes a container; returns its id and warnings.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<(String, Vec<String>), EngineError> {
        todo!()
    }
    /// Starts it.
    pub async fn start_container(&self, name: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// Stops it: its stop signal, then SIGKILL after the grace (its own when absent; negative: no end).
    pub async fn stop_container(
        &self,
        name: &str,
        signal: Option<&str>,
        grace_seconds: Option<i64>,
    ) -> Result<(), EngineError> {
        todo!()
    }
    /// Stops and starts it.
    pub async fn restart_container(
        &self,
        name: &str,
        signal: Option<&str>,
        grace_seconds: Option<i64>,
    ) -> Result<(), EngineError> {
        todo!()
    }
    /// Sends a signal (name or number; SIGKILL when empty).
    pub async fn kill_container(&self, name: &str, signal: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// Freezes it.
    pub async fn pause_container(&self, name: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// Thaws it.
    pub async fn unpause_container(&self, name: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// Removes it (`force`: kills it first; `volumes`: its anonymous volumes too).
    pub async fn remove_container(&self, name: &str, force: bool, volumes: bool) -> Result<(), EngineError> {
        todo!()
    }
    /// Gives it another name.
    pub async fn rename_container(&self, name: &str, new_name: &str) -> Result<(), EngineError> {
        todo!()
    }
    /// Changes limits and restart policy; returns warnings.
    pub async fn update_container(
        &self,
        name: &str,
        resources: Resources,
        restart: Option<RestartPolicy>,
    ) -> Result<Vec<String>, EngineError> {
        todo!()
    }
    /// Finds a container by name, id or unique id prefix.
    pub fn container(&self, name: &str) -> Result<Container, EngineError> {
        todo!()
    }
    /// Lists every container, the newest first; pods' containers too.
    pub fn containers(&self) -> Vec<Container> {
        todo!()
    }
    /// Waits: until it is not running, until its next exit, or until it is removed. The outer future resolves when the
    /// wait is armed (docker's CLI starts the container only then), the inner one with exit code and error.
    pub async fn wait_container(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<tokio::sync::oneshot::Receiver<(i64, Option<String>)>, EngineError> {
        todo!()
    }
    /// Attaches to its streams from now on; before the start: from the first byte.
    pub async fn attach_container(&self, name: &str, stdin: bool) -> Result<Session, EngineError> {
        todo!()
    }
    /// Sets the size of its terminal.
    pub async fn resize_container(&self, name: &str, columns: u16, rows: u16) -> Result<(), EngineError> {
        todo!()
    }
    /// Reads its log.
    pub async fn container_logs(
        &self,
        name: &str,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogEntry>, EngineError> {
        todo!()
    }
    /// Lists its processes: (titles, rows), as `ps ARGS` gives them.
    pub async fn container_top(
        &self,
        name: &str,
        ps_args: &str,
    ) -> Result<(Vec<String>, Vec<Vec<String>>), EngineError> {
        todo!()
    }
    /// Removes stopped containers (not pods'); returns ids and bytes given back.
    pub async fn prune_containers(&self) -> Result<(Vec<String>, u64), EngineError> {
        todo!()
    }

    /// Makes an exec instance; returns its id.
    pub async fn create_exec(&self, container: &str, request: ExecRequest) -> Result<String, EngineError> {
        todo!()
    }
    /// Starts it; the session carries its streams.
    pub async fn start_exec(&self, id: &str) -> Result<Session, EngineError> {
        todo!()
    }
    /// Sets the size of its terminal.
    pub async fn resize_exec(&self, id: &str, columns: u16, rows: u16) -> Result<(), EngineError> {
        todo!()
    }
    /// Returns it.
    pub fn exec(&self, id: &str) -> Result<Exec, EngineError> {
        todo!()
    }

    /// Lists images.
    pub async fn images(&self) -> Result<Vec<Image>, EngineError> {
        todo!()
    }
    /// Finds an image.
    pub async fn image(&self, name: &str) -> Result<Image, EngineError> {
        todo!()
    }
    /// Returns the size of each layer of an image, the lowest first.
    pub async fn layer_sizes(&self, image: &Image) -> Result<Vec<u64>, EngineError> {
        todo!()
    }
    /// Names an image.
    pub async fn tag_image(&self, name: &str, tag: &ImageReference) -> Result<(), EngineError> {
        todo!()
    }
    /// Removes a name or image.
    pub async fn remove_image(&self, name: &str, force: bool) -> Result<Vec<Removed>, EngineError> {
        todo!()
    }
    /// Removes images nobody needs; returns what went and bytes given back.
    pub async fn prune_images(&self, all: bool) -> Result<(Vec<Removed>, u64), EngineError> {
        todo!()
    }
    /// Loads an archive from a stream of bytes; lines for the person who waits go to `progress`.
    pub async fn load_images(
        &self,
        archive: mpsc::Receiver<Bytes>,
        progress: mpsc::Sender<String>,
    ) -> Result<Vec<Loaded>, EngineError> {
        todo!()
    }
    /// Imports a root filesystem tar.
    pub async fn import_image(
        &self,
        tar: mpsc::Receiver<Bytes>,
        config: ImageConfig,
        tag: Option<ImageReference>,
    ) -> Result<Digest, EngineError> {
        todo!()
    }
    /// Saves images; unknown names fail before the first byte.
    pub async fn save_images(
        &self,
        names: Vec<String>,
    ) -> Result<mpsc::Receiver<Result<Bytes, String>>, EngineError> {
        todo!()
    }
    /// Builds an image from a context tar (as the classic endpoint gets it). Events end with the image or the error.
    pub async fn build_image(
        &self,
        context: mpsc::Receiver<Bytes>,
        request: BuildRequest,
    ) -> Result<mpsc::Receiver<Result<BuildEvent, String>>, EngineError> {
        todo!()
    }

    /// Lists docker networks with their containers' endpoints (see [`Container::endpoint`]).
    pub fn networks(&self) -> Vec<DockerNetwork> {
        todo!()
    }
    /// Finds a docker network by name, id or id prefix.
    pub fn network(&self, name: &str) -> Result<DockerNetwork, EngineError> {
        todo!()
    }
    /// Makes a docker network.
    pub async fn create_network(&self, request: CreateDockerNetwork) -> Result<DockerNetwork, EngineError> {
        todo!()
    }
    /// Removes it; refused while containers are on it.
    pub async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        todo!()
    }

    /// Lists volumes.
    pub fn volumes(&self) -> Vec<Volume> {
        todo!()
    }
    /// Finds or makes a volume (a random name when empty).
    pub async fn create_volume(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Volume, EngineError> {
        todo!()
    }
    /// Removes a volume; refused while a container uses it.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), EngineError> {
        todo!()
    }

    /// Returns the seam that the kubelet uses.
    pub fn node(&self) -> Arc<dyn cirro_seams::node::NodeEngine> {
        todo!()
    }
    /// Returns the options it was started with.
    pub fn options(&self) -> &EngineOptions {
        todo!()
    }
}

/// What a wait waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// It is not running.
    NotRunning,
    /// It exits after now.
    NextExit,
    /// It is removed.
    Removed,
}
