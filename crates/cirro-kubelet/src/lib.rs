//! The node's side of the control plane: what is bound here becomes calls on the engine.
//!
//! ## Theory of operation
//! ```text
//! caches, engine events, probes ─▶ queue of pods ─▶ sync: look at the pod and its containers,
//!                                                    make what lacks, end what must go, write status
//! services, slices ─▶ service proxy and DNS        (one task, whole state each time)
//! vpcs, subnets, groups ─▶ tenants' networks       (one task, whole state each time)
//! instances ─▶ queue of instances ─▶ machines
//! ```
//! The kubelet keeps nothing on disk: after a restart it finds sandboxes, containers and machines in the engine.

mod due;
mod environment;
mod instances;
mod networks;
mod node;
mod pods;
mod probes;
mod projected;
mod resize;
mod services;
mod spec;
mod status;
mod streams;
mod termination;
mod usage;
mod volumes;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use cirro_client::{Cache, EventRecorder, WorkQueue};
use cirro_seams::api::{Api, Packed, Resource};
use cirro_seams::node::NodeEngine;
use ipnet::Ipv4Net;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pods::PodWorkers;
use crate::probes::Probes;
use crate::services::ServicePlane;

/// What a kubelet is told of its host and cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// This host's name in the cluster.
    pub node_name: String,
    /// The host's own address.
    pub address: Ipv4Addr,
    /// This host's pod range.
    pub pod_cidr: Ipv4Net,
    /// Address of the cluster's DNS.
    pub dns_address: Ipv4Addr,
    /// Files of pods' volumes.
    pub data_dir: PathBuf,
    /// Version that the node reports (`v1.33.0`).
    pub version: String,
}

/// Suffix of every name in the cluster's DNS.
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";

/// The kubelet of one host.
pub struct Kubelet {
    pub(crate) api: Arc<dyn Api>,
    pub(crate) engine: Arc<dyn NodeEngine>,
    pub(crate) options: Options,
    pub(crate) pods: Cache,
    pub(crate) services: Cache,
    pub(crate) config_maps: Cache,
    pub(crate) secrets: Cache,
    pub(crate) events: EventRecorder,
    pub(crate) queue: Arc<WorkQueue<String>>,
    pub(crate) probes: Probes,
    pub(crate) plane: ServicePlane,
    pub(crate) workers: PodWorkers,
    pub(crate) samples: usage::Samples,
}

impl Kubelet {
    /// Starts a kubelet; it ends, and leaves everything running, when `stop` is cancelled.
    ///
    /// Returns when the node is registered; its condition `Ready` is written then too.
    pub async fn start(
        api: Arc<dyn Api>,
        engine: Arc<dyn NodeEngine>,
        options: Options,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let cache = |group, plural| Cache::start(api.clone(), Resource::new(group, plural), stop.clone());
        let queue = WorkQueue::new();
        let kubelet = Arc::new(Self {
            pods: own_pods(&api, &options.node_name, &stop),
            services: cache("", "services"),
            config_maps: cache("", "configmaps"),
            secrets: cache("", "secrets"),
            events: EventRecorder::start(api.clone(), "kubelet", Some(&options.node_name)),
            probes: Probes::new(engine.clone(), queue.clone()),
            plane: ServicePlane::default(),
            workers: PodWorkers::default(),
            samples: usage::Samples::default(),
            queue,
            api,
            engine,
            options,
        });
        node::register(&kubelet).await;
        tasks.spawn(node::run(kubelet.clone(), stop.clone()));
        tasks.spawn(services::run(kubelet.clone(), stop.clone()));
        tasks.spawn(networks::run(kubelet.clone(), stop.clone()));
        tasks.spawn(instances::run(kubelet.clone(), stop.clone()));
        tasks.spawn(pods::run(kubelet.clone(), stop));
        kubelet
    }
}

/// Follows the pods of one node.
fn own_pods(api: &Arc<dyn Api>, node: &str, stop: &CancellationToken) -> Cache {
    let node = node.to_owned();
    let is_own = move |pod: &Packed| pod.text("/spec/nodeName") == node;
    Cache::start_where(api.clone(), Resource::new("", "pods"), stop.clone(), is_own)
}
