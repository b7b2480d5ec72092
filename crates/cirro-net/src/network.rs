//! The handle to one host's network.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use cirro_seams::network::{NameRecord, ServicePort};
use cirro_sys::netlink::Netlink;
use cirro_sys::netns::{Netns, unpin};
use tokio::sync::{mpsc, oneshot};

use crate::error::NetError;
use crate::model::{CreateDockerNetwork, CreatePort, DockerNetwork, NetworkOptions, Port, Tenants};
use crate::state::State;
use crate::worker::{Job, Worker};

/// Calls that may wait for the worker.
const QUEUE: usize = 256;

/// The network of one host. Cheap to clone; every call returns when the kernel agrees.
#[derive(Clone)]
pub struct Network {
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

/// What is read without asking the worker.
pub(crate) struct Shared {
    /// The records as last applied.
    pub(crate) state: RwLock<State>,
    /// What DNS answers.
    pub(crate) names: Arc<crate::dns::Names>,
    netns_dir: PathBuf,
}

impl Network {
    /// Brings the host to what the records say (also after a crash), starts DNS and DHCP.
    /// The default docker network `bridge` is made when it is missing.
    ///
    /// The host is the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetError::Conflict`] when a fixed range is taken; names the holder.
    pub async fn start(options: NetworkOptions, db: Arc<dyn cirro_store::NodeDb>) -> Result<Self, NetError> {
        let shared = Arc::new(Shared {
            state: RwLock::default(),
            names: Arc::default(),
            netns_dir: options.run_dir.join("netns"),
        });
        let (jobs, queue) = mpsc::channel(QUEUE);
        let told = jobs.downgrade();
        let (started, ready) = oneshot::channel();
        let worker = (options, db, shared.clone(), tokio::runtime::Handle::current());
        std::thread::Builder::new()
            .name("network".into())
            .spawn(move || {
                let (options, db, shared, runtime) = worker;
                match Worker::start(options, db, shared, runtime, told) {
                    Ok(worker) => {
                        let _ = started.send(Ok(()));
                        worker.run(queue);
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            })
            .map_err(|error| NetError::kernel("start the network's thread", error))?;
        ready.await.unwrap_or_else(|_| Err(ended()))?;
        Ok(Self { jobs, shared })
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Worker) -> Result<T, NetError> + Send + 'static,
    ) -> Result<T, NetError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |worker| {
            // The caller may have gone; the work is done all the same.
            let _ = reply.send(work(worker));
        });
        self.jobs.send(job).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Makes a network namespace and returns its file; `lo` is up. The same id again gives the same one.
    pub async fn create_namespace(&self, id: &str) -> Result<PathBuf, NetError> {
        let path = self.namespace_path(id)?;
        blocking(move || {
            let failed = |error| NetError::kernel(format!("make namespace {}", path.display()), error);
            if Netns::open(&path).is_err() {
                unpin(&path).map_err(failed)?;
                Netns::create_pinned(&path).map_err(failed)?;
            }
            let netns = Netns::open(&path).map_err(failed)?;
            let up = || {
                Netlink::open().and_then(|mut netlink| {
                    let lo = netlink.index("lo")?;
                    netlink.set_up(lo, true)
                })
            };
            netns.run(up).and_then(|result| result).map_err(failed)?;
            Ok(path)
        })
        .await
    }

    /// Removes a network namespace; no error when there is none.
    pub async fn delete_namespace(&self, id: &str) -> Result<(), NetError> {
        let path = self.namespace_path(id)?;
        blocking(move || {
            unpin(&path)
                .map_err(|error| NetError::kernel(format!("remove namespace {}", path.display()), error))
        })
        .await
    }

    fn namespace_path(&self, id: &str) -> Result<PathBuf, NetError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if id.is_empty() || id.len() > 128 || id.starts_with('.') || !id.chars().all(plain) {
            return Err(NetError::Invalid(format!("invalid namespace id {id:?}")));
        }
        Ok(self.shared.netns_dir.join(id))
    }

    /// Makes a port; the same request again gives the same port.
    ///
    /// # Errors
    /// [`NetError::NotFound`] without such a subnet, [`NetError::Conflict`] when the address or a host port
    /// is taken (in docker's words), [`NetError::Exhausted`] when the subnet is full. Nothing is left behind.
    pub async fn create_port(&self, request: CreatePort) -> Result<Port, NetError> {
        let made = self.create_ports(vec![request]).await?;
        Ok(made.into_iter().next().expect("one for each request"))
    }

    /// Makes several ports, of one namespace say, in one change: all of them or none.
    ///
    /// # Errors
    /// As [`Self::create_port`].
    pub async fn create_ports(&self, requests: Vec<CreatePort>) -> Result<Vec<Port>, NetError> {
        self.call(move |worker| worker.create_ports(requests)).await
    }

    /// Removes a port, gives its address back; no error when there is none.
    ///
    /// What it published passes to another port of its namespace, if there is one.
    pub async fn delete_port(&self, id: &str) -> Result<(), NetError> {
        self.delete_ports(vec![id.to_owned()]).await
    }

    /// Removes several ports in one change.
    pub async fn delete_ports(&self, ids: Vec<String>) -> Result<(), NetError> {
        self.call(move |worker| worker.delete_ports(&ids)).await
    }

    /// Returns a port.
    pub fn port(&self, id: &str) -> Option<Port> {
        self.state().ports.get(id).map(|record| record.port.clone())
    }

    /// Lists the ports whose ids begin so.
    pub fn ports_of(&self, prefix: &str) -> Vec<Port> {
        let state = self.state();
        let found = state.ports.range(prefix.to_owned()..).take_while(|(id, _)| id.starts_with(prefix));
        found.map(|(_, record)| record.port.clone()).collect()
    }

    /// Lists every port.
    pub fn ports(&self) -> Vec<Port> {
        self.state().ports.values().map(|record| record.port.clone()).collect()
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.shared.state.read().expect("nothing panics while it writes the state")
    }

    /// Opens the tap of a port (`IFF_TAP|IFF_NO_PI|IFF_VNET_HDR`) for QEMU: the descriptor and the MTU.
    ///
    /// # Errors
    /// [`NetError::Conflict`] while another process has it open.
    pub async fn open_tap(&self, id: &str) -> Result<(OwnedFd, u32), NetError> {
        let id = id.to_owned();
        self.call(move |worker| worker.open_tap(&id)).await
    }

    /// Lists docker networks.
    pub fn docker_networks(&self) -> Vec<DockerNetwork> {
        self.state().networks.values().map(|network| network.as_ref().clone()).collect()
    }

    /// Makes a docker network.
    pub async fn create_docker_network(
        &self,
        request: CreateDockerNetwork,
    ) -> Result<DockerNetwork, NetError> {
        self.call(move |worker| worker.create_docker_network(request)).await
    }

    /// Removes a docker network; refused while it has ports.
    pub async fn delete_docker_network(&self, id: &str) -> Result<(), NetError> {
        let id = id.to_owned();
        self.call(move |worker| worker.delete_docker_network(&id)).await
    }

    /// Makes tenants' VPCs, subnets and groups agree, whole. What still has ports stays until they go.
    pub async fn set_tenants(&self, tenants: Tenants) -> Result<(), NetError> {
        self.call(move |worker| worker.set_tenants(tenants)).await
    }

    /// Makes the service proxy agree, whole.
    pub async fn set_services(&self, services: Vec<ServicePort>) -> Result<(), NetError> {
        self.call(move |worker| worker.set_services(services)).await
    }

    /// Makes the cluster's DNS agree, whole.
    pub fn set_names(&self, names: Vec<NameRecord>) {
        self.shared.names.set_cluster(names);
    }

    /// Ends DNS and DHCP; the kernel's state stays, workloads go on.
    pub async fn stop(&self) {
        let _ = self.call(|worker| worker.stop()).await;
    }

    /// Removes everything of this cloud from the kernel: links, namespaces, tables. After all workloads ended.
    pub async fn tear_down(&self) -> Result<(), NetError> {
        self.call(|worker| worker.tear_down()).await
    }

    /// Lists every link, namespace and table of a cloud, by name; for `cirro doctor` where no daemon runs.
    ///
    /// Looks in the calling thread's network namespace; starts nothing.
    pub fn leftovers(options: NetworkOptions) -> Result<Vec<String>, NetError> {
        crate::leaks::list(&crate::plan::Context::new(options))
    }

    /// Finds what belongs to this cloud by name but to none of its records; for `cirro doctor`.
    ///
    /// `is_bare` knows, by the id that it was made with, a namespace whose workload wants no port (`--network none`).
    pub async fn leaks(
        &self,
        is_bare: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<Vec<String>, NetError> {
        self.call(move |worker| worker.leaks(&is_bare)).await
    }

    /// Makes the kernel agree with the records, whatever somebody else did to it.
    pub async fn mend(&self) -> Result<(), NetError> {
        self.call(crate::worker::Worker::adopt).await
    }
}

fn ended() -> NetError {
    NetError::Kernel("the network has been stopped".into())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|_| Err(NetError::Kernel("a blocking call ended early".into())))
}
