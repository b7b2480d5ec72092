//! The API server as a whole: opened over a store, used in process or served over TLS.

use std::net::SocketAddrV4;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cirro_seams::api::{Api, ApiError, ResourceInfo};
use cirro_seams::node::NodeStreams;
use cirro_store::ObjectStore;
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::audit::{Audit, AuditOptions};
use crate::client::LocalClient;
use crate::custom::Definitions;
use crate::error;
use crate::fairness::{self, Fairness};
use crate::http::metrics::Metrics;
use crate::http::{Aggregator, NodeSeam, SharedLines};
use crate::kinds;
use crate::pki::{FrontProxy, Pki, PkiError};
use crate::rbac::{self, Rbac};
use crate::record::DecodeCache;
use crate::sealed::SealedStore;
use crate::storage::{Place, Storage};
use crate::tokens::Tokens;

/// What the server is told by its configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// Range of service addresses.
    pub service_cidr: Ipv4Net,
    /// Range of node ports.
    pub node_ports: RangeInclusive<u16>,
    /// Where pods of this cloud reach the server, for the service `kubernetes`.
    pub advertise: Option<SocketAddrV4>,
    /// Directory of the authority and of the key that signs tokens. Without one there is no authority, and
    /// tokens end with the server.
    pub keys: Option<PathBuf>,
    /// The audit log, when there is to be one.
    pub audit: Option<AuditOptions>,
    /// Parts of admission that are left out, as `--disable-admission-plugins` of upstream's server has it.
    pub without_admission: Vec<Plugin>,
}

/// A part of admission that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// Pods get their service account and its token.
    ServiceAccount,
    /// Pods bear a node that is not there for five minutes.
    DefaultTolerationSeconds,
    /// Claims and volumes stay while they are in use; a controller has to take the finalizers off again.
    StorageObjectInUseProtection,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            service_cidr: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 96, 0, 0), 16),
            node_ports: 30000..=32767,
            advertise: None,
            keys: None,
            audit: None,
            without_admission: Vec::new(),
        }
    }
}

/// The API server.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) storage: Arc<Storage>,
    /// The lines of the last changes, for all watchers.
    pub(crate) lines: Arc<SharedLines>,
    node_streams: NodeSeam,
    /// Servers of other groups.
    pub(crate) aggregator: Arc<Aggregator>,
    pub(crate) metrics: Arc<Metrics>,
}

/// What the server has by its keys.
struct Keys {
    tokens: Tokens,
    pki: Option<Arc<Pki>>,
    front_proxy: Option<FrontProxy>,
    store: Arc<dyn ObjectStore>,
    /// The same store, when it seals secrets.
    sealed: Option<Arc<SealedStore>>,
}

impl Keys {
    /// Opens, or makes, the keys of the server. Blocks.
    fn open(store: Arc<dyn ObjectStore>, directory: Option<&Path>) -> Result<Self, PkiError> {
        let Some(directory) = directory else {
            return Ok(Self {
                tokens: Tokens::open(None)?,
                pki: None,
                front_proxy: None,
                store,
                sealed: None,
            });
        };
        // The authority first: it makes the directory.
        let pki = Arc::new(Pki::open(directory)?);
        let sealed = Arc::new(SealedStore::open(store, directory)?);
        let tokens = Tokens::open(Some(directory))?;
        let front_proxy = Some(FrontProxy::open(directory)?);
        Ok(Self { tokens, pki: Some(pki), front_proxy, store: sealed.clone(), sealed: Some(sealed) })
    }
}

async fn open_audit(options: Option<AuditOptions>) -> Result<Option<Arc<Audit>>, ApiError> {
    let Some(options) = options else { return Ok(None) };
    let opened = tokio::task::spawn_blocking(move || Audit::open(&options)).await;
    let opened = opened.map_err(|why| error::internal(why.to_string()))?;
    opened.map(|audit| Some(Arc::new(audit))).map_err(|why| error::internal(chain(&why)))
}

/// Writes an error with its sources.
fn chain(why: &dyn std::error::Error) -> String {
    let mut text = why.to_string();
    let mut source = why.source();
    while let Some(why) = source {
        text = format!("{text}: {why}");
        source = why.source();
    }
    text
}

impl ApiServer {
    /// Opens the API over a store and makes what every cluster has: four namespaces, the default policy and
    /// the service `kubernetes`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open(store: Arc<dyn ObjectStore>, options: Options) -> Result<Self, ApiError> {
        let keys = options.keys.clone();
        let opened = tokio::task::spawn_blocking(move || Keys::open(store, keys.as_deref())).await;
        let opened = opened.map_err(|why| error::internal(why.to_string()))?;
        let Keys { tokens, pki, front_proxy, store, sealed } =
            opened.map_err(|why| error::internal(chain(&why)))?;
        if let Some(sealed) = sealed {
            sealed.seal_all().await.map_err(|source| error::store(source, store.revision()))?;
        }
        let audit = open_audit(options.audit.clone()).await?;
        let registry = kinds::registry();
        let storage = Storage {
            definitions: Definitions::new(&registry),
            rbac: Rbac::new(store.clone()),
            quotas: Default::default(),
            fairness: Fairness::new(store.clone()),
            audit,
            outside: Default::default(),
            tokens,
            pki,
            store,
            registry,
            decoded: Arc::new(DecodeCache::default()),
            service_cidr: options.service_cidr,
            node_ports: options.node_ports.clone(),
            without_admission: options.without_admission.clone(),
        };
        let storage = Arc::new(storage);
        bootstrap(&storage, &options).await?;
        storage.follow_definitions().await;
        let node_streams = NodeSeam::default();
        let aggregator = Aggregator::start(&storage, front_proxy, node_streams.clone()).await?;
        Ok(Self {
            storage,
            lines: Arc::default(),
            node_streams,
            aggregator: Arc::new(aggregator),
            metrics: Arc::default(),
        })
    }

    /// Returns a client in this process: the same storage path, admission and validation included.
    ///
    /// A namespace that is being deleted ends when an `update` takes the finalizers out of its
    /// `spec`; over HTTP that is its subresource `finalize`.
    pub fn client(&self) -> Arc<dyn Api> {
        Arc::new(LocalClient { storage: self.storage.clone() })
    }

    /// Returns the kinds whose objects are kept, as they change, for the controllers that follow all of them.
    pub fn resources(&self) -> tokio::sync::watch::Receiver<Vec<ResourceInfo>> {
        self.storage.definitions.resources()
    }

    /// Returns the authority's certificate as PEM, when there is one.
    pub fn root_ca(&self) -> Option<String> {
        self.storage.pki.as_ref().map(|pki| pki.ca().to_owned())
    }

    /// Says how logs, exec, attach and consoles reach the node.
    pub fn set_node_streams(&self, streams: Arc<dyn NodeStreams>) {
        *self.node_streams.write().expect("no panic while it is held") = Some(streams);
        self.aggregator.look_at_all();
    }

    /// Returns the way to the node.
    pub(crate) fn node_streams(&self) -> Result<Arc<dyn NodeStreams>, ApiError> {
        let streams = self.node_streams.read().expect("no panic while it is held").clone();
        streams.ok_or_else(|| error::unavailable("the node is not ready to serve streams".into()))
    }
}

async fn bootstrap(storage: &Storage, options: &Options) -> Result<(), ApiError> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(storage, "", "namespaces", "", json!({"metadata": {"name": name}})).await?;
    }
    rbac::bootstrap::reconcile(storage).await?;
    fairness::defaults::reconcile(storage).await?;
    for class in kinds::system_priorities() {
        ensure(storage, "scheduling.k8s.io", "priorityclasses", "", class).await?;
    }
    let first = std::net::Ipv4Addr::from(u32::from(options.service_cidr.network()) + 1);
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let target = options.advertise.map_or(6443, |address| address.port());
    let service = json!({"metadata": {"name": "kubernetes", "labels": labels}, "spec": {
        "clusterIP": first.to_string(),
        "ports": [{"name": "https", "port": 443, "targetPort": target}],
    }});
    ensure(storage, "", "services", "default", service).await?;
    if let Some(address) = options.advertise {
        advertise(storage, address).await?;
    }
    Ok(())
}

/// Writes where the service `kubernetes` leads to.
async fn advertise(storage: &Storage, address: SocketAddrV4) -> Result<(), ApiError> {
    let (ip, port) = (address.ip().to_string(), address.port());
    let skip = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let endpoints = json!({"metadata": {"name": "kubernetes", "labels": skip}, "subsets": [
        {"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]});
    let labels = json!({"kubernetes.io/service-name": "kubernetes"});
    let slice = json!({"metadata": {"name": "kubernetes", "labels": labels}, "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}]});
    put(storage, "", "endpoints", endpoints).await?;
    put(storage, "discovery.k8s.io", "endpointslices", slice).await
}

/// Creates an object unless it exists.
async fn ensure(
    storage: &Storage,
    group: &str,
    plural: &str,
    namespace: &str,
    object: Value,
) -> Result<(), ApiError> {
    let kind = storage.registry.kind(group, plural).expect("bootstrap knows its kinds");
    // Looked for first: a service that exists holds the very address that a second one would ask for.
    match storage.record(Place { kind, namespace, name: crate::json::name(&object) }).await {
        Err(refusal) if refusal.is_not_found() => {}
        found => return found.map(drop),
    }
    match storage.create(kind, namespace, object, false).await {
        Err(refusal) if !refusal.is_already_exists() => Err(refusal),
        _ => Ok(()),
    }
}

/// Creates or replaces an object in the namespace `default`.
async fn put(storage: &Storage, group: &str, plural: &str, object: Value) -> Result<(), ApiError> {
    ensure(storage, group, plural, "default", object.clone()).await?;
    let kind = storage.registry.kind(group, plural).expect("bootstrap knows its kinds");
    let place = Place { kind, namespace: "default", name: crate::json::name(&object) };
    let change = |_: &Value| Ok(object.clone());
    storage.modify(place, crate::storage::Target::Object, false, change).await.map(drop)
}
