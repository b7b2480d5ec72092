//! The node's side of the control plane.
//!
//! [`NodeEngine`] is what the kubelet needs of an engine (the real one, or the simulated one of
//! `cirro-sim`); [`NodeStreams`] is what the API server needs of a kubelet for logs and exec.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use bytes::Bytes;
use cirro_types::kinds::{SecurityGroupSpec, SubnetSpec, VpcSpec};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::Pending;
use crate::container::{Container, ContainerSpec, Resources};
use crate::network::{NameRecord, PortPublish, ServicePort};
use crate::usage::{NodeUsage, UsageSample};

/// What a node's engine could not do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    /// There is no such workload, image or network.
    #[error("{0}")]
    NotFound(String),
    /// It is taken: a host port, a name, an address.
    #[error("{0}")]
    Conflict(String),
    /// The request cannot be served as it is.
    #[error("{0}")]
    Invalid(String),
    /// The host failed.
    #[error("{0}")]
    Failed(String),
}

/// The namespaces that the containers of one pod share.
#[derive(Debug, Clone, Default)]
pub struct SandboxSpec {
    /// The pod's uid; also the sandbox's id.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// Host name inside.
    pub hostname: String,
    /// Whether the host's network is used.
    pub host_network: bool,
    /// Host ports.
    pub publish: Vec<PortPublish>,
    /// A subnet of a tenant's VPC that the pod gets an interface on: namespace and name.
    pub subnet: Option<(String, String)>,
}

/// A sandbox as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The pod's uid.
    pub uid: String,
    /// The pod's address.
    pub address: Ipv4Addr,
}

/// A change of a workload that the kubelet looks at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// A container of this pod (uid) started, exited or was removed.
    Pod(String),
    /// This instance (uid) changed.
    Instance(String),
    /// So much happened that everything must be looked at again.
    Everything,
}

/// A virtual machine that is wanted.
#[derive(Debug, Clone)]
pub struct InstanceRequest {
    /// The object's uid; also the machine's id.
    pub uid: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object; also its host name.
    pub name: String,
    /// Image in the library.
    pub image: String,
    /// Virtual processors.
    pub cpu: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Name of the subnet object in the same namespace.
    pub subnet: String,
    /// Names of security groups in the same namespace.
    pub security_groups: Vec<String>,
    /// User data.
    pub user_data: Option<String>,
}

/// A virtual machine as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceState {
    /// The object's uid.
    pub uid: String,
    /// Whether its process runs.
    pub running: bool,
    /// Its address on its subnet.
    pub address: Option<Ipv4Addr>,
    /// Why it is not running.
    pub message: Option<String>,
}

/// The tenants' networks as the API has them, whole; what is not in it goes away.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TenantNetworks {
    /// (namespace, name) to spec.
    pub vpcs: BTreeMap<(String, String), VpcSpec>,
    /// (namespace, name) to spec.
    pub subnets: BTreeMap<(String, String), SubnetSpec>,
    /// (namespace, name) to spec.
    pub groups: BTreeMap<(String, String), SecurityGroupSpec>,
}

/// Options of a log read, as the Kubernetes API has them.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Whether to go on as lines come.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only what is newer.
    pub since: Option<SystemTime>,
    /// Whether each line begins with its time.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Of the run before the last restart.
    pub previous: bool,
}

/// A command to run in a container.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// Argument vector.
    pub command: Vec<String>,
    /// Environment over the container's.
    pub env: Vec<String>,
    /// The container's when absent.
    pub user: Option<String>,
    /// The container's when absent.
    pub working_dir: Option<String>,
    /// Whether stdio is a terminal.
    pub tty: bool,
    /// Whether there is a stdin.
    pub stdin: bool,
    /// Whether stdout is wanted.
    pub stdout: bool,
    /// Whether stderr is wanted.
    pub stderr: bool,
    /// All capabilities.
    pub privileged: bool,
    /// Keys that detach a terminal; docker's own when empty.
    pub detach_keys: String,
}

/// Bytes from a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From its standard output or terminal.
    Stdout(Bytes),
    /// From its standard error.
    Stderr(Bytes),
}

/// The stdio of a running process. Dropping `input` is end of file on its stdin.
#[derive(Debug)]
pub struct Session {
    /// To its stdin; `None` when it has none.
    pub input: Option<mpsc::Sender<Bytes>>,
    /// From its stdout and stderr; ends with the process.
    pub output: mpsc::Receiver<Output>,
    /// Terminal size changes: columns, rows.
    pub resize: mpsc::Sender<(u16, u16)>,
    /// The exit code, once.
    pub exit: tokio::sync::oneshot::Receiver<i32>,
}

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to a workload. Shutting its writing half down is end of file for the workload.
pub type Connection = Box<dyn Duplex>;

/// What the kubelet needs of an engine.
pub trait NodeEngine: Send + Sync {
    /// Returns changes from now on.
    fn events(&self) -> tokio::sync::broadcast::Receiver<NodeEvent>;
    /// Makes or finds the sandbox of a pod.
    fn ensure_sandbox(&self, spec: SandboxSpec) -> Pending<'_, Result<Sandbox, NodeError>>;
    /// Removes a sandbox and whatever still runs in it; no error when there is none.
    fn remove_sandbox(&self, uid: &str) -> Pending<'_, Result<(), NodeError>>;
    /// Lists the sandboxes (pod uids) that exist.
    fn list_sandboxes(&self) -> Pending<'_, Result<Vec<Sandbox>, NodeError>>;
    /// Makes a container and starts it; returns its id.
    fn run_container(&self, spec: ContainerSpec) -> Pending<'_, Result<String, NodeError>>;
    /// Lists the containers, dead ones too, of all pods.
    fn list_pod_containers(&self) -> Pending<'_, Result<Vec<Container>, NodeError>>;
    /// Lists the containers, dead ones too, of one pod, the newest first.
    fn containers_of_pod(&self, uid: &str) -> Pending<'_, Result<Vec<Container>, NodeError>>;
    /// Asks a container to stop and kills it after the grace.
    fn stop_container(&self, id: &str, grace_seconds: i64) -> Pending<'_, Result<(), NodeError>>;
    /// Gives a container other limits (those that are set), at once when it runs.
    fn update_container(&self, id: &str, limits: Resources) -> Pending<'_, Result<(), NodeError>>;
    /// Removes a container that does not run.
    fn remove_container(&self, id: &str) -> Pending<'_, Result<(), NodeError>>;
    /// Returns the id of an image that is in the library.
    fn find_image(&self, name: &str) -> Pending<'_, Result<Option<String>, NodeError>>;
    /// Fetches an image from its registry, or finds it here when it was made here; returns its id.
    fn pull_image(&self, name: &str) -> Pending<'_, Result<String, NodeError>>;
    /// Reads what the host and each running container of a pod have used until now.
    fn usage(&self) -> Pending<'_, Result<UsageSample, NodeError>>;
    /// Reads a container's log as plain text.
    fn logs(&self, id: &str, options: LogOptions) -> Pending<'_, Result<mpsc::Receiver<Bytes>, NodeError>>;
    /// Runs a command in a container.
    fn exec(&self, id: &str, request: ExecRequest) -> Pending<'_, Result<Session, NodeError>>;
    /// Attaches to a container's own process.
    fn attach(&self, id: &str, stdin: bool) -> Pending<'_, Result<Session, NodeError>>;
    /// Connects to a port on the loopback of a sandbox.
    fn connect_sandbox(&self, uid: &str, port: u16) -> Pending<'_, Result<Connection, NodeError>>;
    /// Makes the service proxy agree with `services`, whole.
    fn set_services(&self, services: Vec<ServicePort>) -> Pending<'_, Result<(), NodeError>>;
    /// Makes the cluster's DNS agree with `names`, whole.
    fn set_names(&self, names: Vec<NameRecord>) -> Pending<'_, Result<(), NodeError>>;
    /// Makes the tenants' networks agree with `networks`, whole.
    fn set_tenant_networks(&self, networks: TenantNetworks) -> Pending<'_, Result<(), NodeError>>;
    /// Makes or finds a machine and starts it.
    fn ensure_instance(&self, request: InstanceRequest) -> Pending<'_, Result<InstanceState, NodeError>>;
    /// Stops a machine; its disk stays.
    fn stop_instance(&self, uid: &str) -> Pending<'_, Result<(), NodeError>>;
    /// Removes a machine and its disk; no error when there is none.
    fn remove_instance(&self, uid: &str) -> Pending<'_, Result<(), NodeError>>;
    /// Lists the machines that exist.
    fn list_instances(&self) -> Pending<'_, Result<Vec<InstanceState>, NodeError>>;
    /// Returns the last bytes of a machine's serial console, at most `limit`.
    fn instance_console(&self, uid: &str, limit: usize) -> Pending<'_, Result<Bytes, NodeError>>;
}

/// What the API server needs of the node that a pod runs on.
pub trait NodeStreams: Send + Sync {
    /// Reads the log of a pod's container.
    fn logs(
        &self,
        pod_uid: &str,
        container: &str,
        options: LogOptions,
    ) -> Pending<'_, Result<mpsc::Receiver<Bytes>, NodeError>>;
    /// Runs a command in a pod's container.
    fn exec(
        &self,
        pod_uid: &str,
        container: &str,
        request: ExecRequest,
    ) -> Pending<'_, Result<Session, NodeError>>;
    /// Attaches to a pod's container.
    fn attach(&self, pod_uid: &str, container: &str, stdin: bool) -> Pending<'_, Result<Session, NodeError>>;
    /// Returns the serial console of an instance, at most `limit` bytes from its end.
    fn instance_console(&self, uid: &str, limit: usize) -> Pending<'_, Result<Bytes, NodeError>>;
    /// Returns what the node and its pods used lately.
    fn usage(&self) -> Pending<'_, Result<NodeUsage, NodeError>>;
    /// Connects to a port on the loopback of a pod.
    fn connect_pod(&self, pod_uid: &str, port: u16) -> Pending<'_, Result<Connection, NodeError>>;
    /// Connects to an address that the node reaches: of a pod, or of whatever is behind a service.
    fn connect(&self, address: SocketAddr) -> Pending<'_, Result<Connection, NodeError>>;
}
