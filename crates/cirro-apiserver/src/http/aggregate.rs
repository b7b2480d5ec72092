//! API servers beside this one: an APIService with a service has its group's version answered by others.
//!
//! ```text
//! APIServices ─▶ follow ─▶ table of the remote ones ─▶ forward: a request, who asks in its head, the answer
//!                  ├▶ available: one task per remote one keeps its condition
//!                  └▶ local: APIServices of what this server has itself
//! discovery, OpenAPI ◀─ documents: what remote ones say of themselves, asked when somebody asks us
//! ```
//! Nothing is asked for on a timer: a remote one is looked at when it, its service or its endpoints change, when a request
//! could not be delivered, and, with growing pauses, while it is not well.
//!
//! Source: kube-aggregator `pkg/apiserver`, `pkg/controllers`.

use std::sync::{Arc, RwLock};

use cirro_seams::api::ApiError;
use cirro_seams::node::NodeStreams;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::json;
use crate::pki::FrontProxy;
use crate::storage::Storage;

mod authentication;
mod available;
mod connect;
mod documents;
mod follow;
mod forward;
mod local;

use documents::Documents;
pub(super) use documents::{Foreign, Wanted};
pub(super) use local::priority;

/// Group of APIServices.
const GROUP: &str = "apiregistration.k8s.io";
/// Plural of APIServices.
const PLURAL: &str = "apiservices";

/// The way to the node, once there is one.
pub(crate) type NodeSeam = Arc<RwLock<Option<Arc<dyn NodeStreams>>>>;

/// What the server knows of other servers; its tasks end with it.
pub(crate) struct Aggregator {
    shared: Arc<Shared>,
    _end: DropGuard,
}

/// What the tasks have too.
struct Shared {
    /// The remote ones, the most important first.
    table: RwLock<Arc<Vec<Arc<Remote>>>>,
    front_proxy: Option<FrontProxy>,
    node: NodeSeam,
}

/// An APIService that others answer for.
pub(super) struct Remote {
    /// Name of the object.
    name: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) group_priority: i64,
    pub(super) version_priority: i64,
    service: ServiceReference,
    tls: Result<Arc<rustls::ClientConfig>, String>,
    /// What it was made from.
    spec: Value,
    /// What its condition says.
    available: bool,
    documents: Arc<Documents>,
    /// Told when it should be looked at.
    look: Arc<Notify>,
}

#[derive(Debug, Clone)]
struct ServiceReference {
    namespace: String,
    name: String,
    port: i64,
}

impl ServiceReference {
    /// Returns what the server's certificate must be for.
    fn host(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

impl Aggregator {
    /// Makes the APIServices of what is built in, and follows all of them from then on.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn start(
        storage: &Arc<Storage>,
        front_proxy: Option<FrontProxy>,
        node: NodeSeam,
    ) -> Result<Self, ApiError> {
        local::reconcile(storage).await?;
        if let (Some(front_proxy), Some(pki)) = (&front_proxy, &storage.pki) {
            authentication::publish(storage, pki.ca(), front_proxy).await?;
        }
        let shared = Arc::new(Shared { table: RwLock::default(), front_proxy, node });
        let stop = CancellationToken::new();
        let (reading, read) = tokio::sync::oneshot::channel();
        let follower = follow::Follower::new(Arc::downgrade(storage), shared.clone(), reading);
        tokio::spawn(follower.run(stop.clone()));
        let _ = read.await;
        Ok(Self { shared, _end: stop.drop_guard() })
    }

    /// Returns the remote ones, the most important first.
    pub(super) fn table(&self) -> Arc<Vec<Arc<Remote>>> {
        self.shared.table()
    }

    /// Finds who else answers for a path: what is below `/apis/GROUP/VERSION`.
    pub(super) fn remote_of(&self, path: &str) -> Option<Arc<Remote>> {
        let table = self.table();
        if table.is_empty() {
            return None;
        }
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        if parts.next() != Some("apis") {
            return None;
        }
        let (group, version) = (parts.next()?, parts.next()?);
        find(&table, group, version)
    }

    /// Finds who else answers for a group's version.
    pub(super) fn remote(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        find(&self.table(), group, version)
    }

    /// Has all remote ones looked at, since the way to them is another one.
    pub(crate) fn look_at_all(&self) {
        self.table().iter().for_each(|remote| remote.look.notify_one());
    }
}

impl Shared {
    fn table(&self) -> Arc<Vec<Arc<Remote>>> {
        self.table.read().expect("no panic while it is held").clone()
    }
}

impl Remote {
    /// Reads an APIService; `None` for one that is answered here. `before` is what it was.
    fn read(storage: &Storage, shared: &Shared, object: &Value, before: Option<&Self>) -> Option<Self> {
        let spec = &object["spec"];
        let service = json::at(spec, "service")?;
        let text = |path: &str| json::text(spec, path).to_owned();
        let conditions = json::array(object, "status.conditions");
        let available = conditions.iter().any(|one| one["type"] == "Available" && one["status"] == "True");
        let before = before.filter(|before| before.spec == *spec);
        Some(Self {
            name: json::name(object).to_owned(),
            group: text("group"),
            version: text("version"),
            group_priority: json::number(spec, "groupPriorityMinimum").unwrap_or(0),
            version_priority: json::number(spec, "versionPriority").unwrap_or(0),
            service: ServiceReference {
                namespace: json::text(service, "namespace").to_owned(),
                name: json::text(service, "name").to_owned(),
                port: json::number(service, "port").unwrap_or(443),
            },
            tls: match before {
                Some(before) => before.tls.clone(),
                None => connect::tls(storage, shared, spec),
            },
            spec: spec.clone(),
            available,
            documents: before.map(|before| before.documents.clone()).unwrap_or_default(),
            look: before.map(|before| before.look.clone()).unwrap_or_default(),
        })
    }

    /// Returns the path of its discovery.
    fn path(&self) -> String {
        format!("/apis/{}/{}", self.group, self.version)
    }
}

/// Returns the kind of APIServices.
fn service_kind(storage: &Storage) -> &Arc<crate::registry::Kind> {
    storage.registry.kind(GROUP, PLURAL).expect("APIServices are built in")
}

fn find(table: &[Arc<Remote>], group: &str, version: &str) -> Option<Arc<Remote>> {
    table.iter().find(|one| one.group == group && one.version == version).cloned()
}
