//! The control plane of this host: API server, controllers, scheduler, kubelet.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cirro_apiserver::pki::Pki;
use cirro_apiserver::{ApiServer, Options};
use cirro_client::Candidate;
use cirro_engine::Engine;
use cirro_kubelet::Kubelet;
use cirro_seams::api::{Api, ObjectKey, Resource};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::config::Config;
use crate::daemon::listen_tcp;
use crate::store;

/// A node that is not Ready after so long is a fault.
const PATIENCE: Duration = Duration::from_secs(30);

const DEFAULT_PORT: u16 = 6443;
/// Names that the server's certificate is for.
const SERVER_NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// The running control plane.
pub(crate) struct ControlPlane {
    /// Where the API listens.
    pub(crate) addresses: Vec<SocketAddr>,
    api: Arc<dyn Api>,
    node_name: String,
}

impl ControlPlane {
    /// Starts everything; returns when the API listens and the node is registered.
    pub(crate) async fn start(
        config: &Config,
        engine: &Engine,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let store = store::open(config).await?;
        let gateway = pod_gateway(config);
        let listeners = listen(config, gateway).await?;
        let options = Options {
            service_cidr: config.service_cidr,
            node_ports: config.node_ports.0..=config.node_ports.1,
            advertise: Some(SocketAddrV4::new(gateway, listeners.port)),
            keys: Some(config.data_dir.join("pki")),
            audit: config.audit.as_ref().map(|audit| audit.options()),
            ..Options::default()
        };
        let server = ApiServer::open(store, options).await.context("open the API")?;
        let addresses = listeners.addresses.clone();
        serve(config, &server, gateway, listeners, tasks, stop)?;

        let api = server.client();
        let kinds = server.resources();
        let (followed, scheduled) = (api.clone(), api.clone());
        let control = move |stop| cirro_controllers::run(followed.clone(), kinds.clone(), stop);
        let schedule = move |stop| cirro_scheduler::run(scheduled.clone(), stop);
        if config.store.is_some() {
            // Other servers may be on the same store.
            let identity = format!("{}_{}", config.node_name, random_uuid()?);
            let candidate = |name: &str| Candidate::new(api.clone(), name, &identity);
            tasks.spawn(candidate("kube-controller-manager").run(stop.clone(), control));
            tasks.spawn(candidate("kube-scheduler").run(stop.clone(), schedule));
        } else {
            tasks.spawn(control(stop.clone()));
            tasks.spawn(schedule(stop.clone()));
        }
        if let Some(certificate) = server.root_ca() {
            tasks.spawn(cirro_controllers::publish_root_ca(api.clone(), certificate, stop.clone()));
        }
        let options = cirro_kubelet::Options {
            node_name: config.node_name.clone(),
            address: host_address().unwrap_or(gateway),
            pod_cidr: config.pod_cidr,
            dns_address: config.dns_address(),
            data_dir: config.data_dir.clone(),
            version: cirro_apiserver::VERSION.into(),
        };
        let kubelet = Kubelet::start(api.clone(), engine.node(), options, tasks, stop.clone()).await;
        server.set_node_streams(kubelet);
        Ok(Self { addresses, api, node_name: config.node_name.clone() })
    }

    /// Resolves when the node is Ready.
    pub(crate) async fn wait_until_ready(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let key = ObjectKey {
            resource: Resource::new("", "nodes"),
            namespace: String::new(),
            name: self.node_name.clone(),
        };
        let look = async {
            loop {
                let node = self.api.get(&key).await;
                let conditions =
                    node.as_ref().ok().and_then(|node| node.pointer("/status/conditions")?.as_array());
                let is_ready = |one: &serde_json::Value| one["type"] == "Ready" && one["status"] == "True";
                if conditions.into_iter().flatten().any(is_ready) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            ready = tokio::time::timeout(PATIENCE, look) => ready.context("the node does not become Ready"),
            () = stop.cancelled() => Ok(()),
        }
    }
}

/// The bound sockets of the API.
struct Listeners {
    sockets: Vec<TcpListener>,
    /// The configured addresses as they were bound.
    addresses: Vec<SocketAddr>,
    /// Port at the pod network's gateway.
    port: u16,
}

/// Binds every configured address, and for this host's pods the gateway of their network.
async fn listen(config: &Config, gateway: Ipv4Addr) -> anyhow::Result<Listeners> {
    let mut listeners = Listeners { sockets: Vec::new(), addresses: Vec::new(), port: DEFAULT_PORT };
    for address in &config.kubernetes_listen {
        let socket = listen_tcp(*address).await?;
        listeners.addresses.push(socket.local_addr()?);
        listeners.sockets.push(socket);
    }
    if let Some(first) = listeners.addresses.first() {
        listeners.port = first.port();
    }
    // A listener on every address has the gateway's too.
    let covered = |address: &SocketAddr| address.port() == listeners.port && address.ip().is_unspecified();
    if !listeners.addresses.iter().any(covered) {
        listeners.sockets.push(listen_tcp((gateway, listeners.port).into()).await?);
    }
    Ok(listeners)
}

/// Serves with one certificate for all addresses, and writes the administrator's kubeconfig.
fn serve(
    config: &Config,
    server: &ApiServer,
    gateway: Ipv4Addr,
    listeners: Listeners,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let service = Ipv4Addr::from(u32::from(config.service_cidr.network()) + 1);
    let mut ips: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), gateway.into(), service.into()];
    ips.extend(host_address().map(IpAddr::V4));
    ips.extend(config.kubernetes_listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()));
    let pki = Pki::open(&config.data_dir.join("pki")).context("open the certificate authority")?;
    let tls =
        pki.server_tls(&SERVER_NAMES.map(str::to_owned), &ips).context("make the server's certificate")?;
    for socket in listeners.sockets {
        let (server, tls, stop) = (server.clone(), tls.clone(), stop.clone());
        tasks.spawn(async move { server.serve(socket, tls, stop).await });
    }
    if let Some(first) = listeners.addresses.first() {
        info!(address = %first, "the Kubernetes API listens");
        let kubeconfig = pki.admin_kubeconfig(&format!("https://{}", reachable(*first)))?;
        write_private(&config.kubeconfig(), &kubeconfig)?;
    }
    Ok(())
}

fn random_uuid() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("a random name")?;
    Ok(text.trim().to_owned())
}

/// An address that a client on this host can use.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
    } else {
        address
    }
}

fn pod_gateway(config: &Config) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(config.pod_cidr.network()) + 1)
}

/// The address that the host would use towards the world; no packet is sent.
fn host_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) if !address.is_unspecified() => Some(address),
        _ => None,
    }
}

/// Writes a file that only its owner may read; whole or not at all.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let draft = path.with_extension("part");
    let _ = std::fs::remove_file(&draft);
    let mut file = std::fs::File::options().create_new(true).write(true).mode(0o600).open(&draft)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path).with_context(|| format!("write {}", path.display()))
}
