//! The loop around the decision.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cirro_client::{
    Cache, EventRecorder, Next, Object, Severity, WorkQueue, key_of, name, namespace, seconds, text, uid,
};
use cirro_seams::api::{Api, ApiError, Packed, Resource};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::filter::place;
use crate::snapshot::{Node, Request, Snapshot};

/// A look at what could not be placed even if no change was seen.
const PERIOD: Duration = Duration::from_secs(60);

/// A workload by kind, namespace and name.
type Key = (Kind, String, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Pod,
    Instance,
}

impl Kind {
    /// Where a workload of the kind names its node.
    fn place(self) -> &'static str {
        match self {
            Self::Pod => "/spec/nodeName",
            Self::Instance => "/status/node",
        }
    }

    fn request(self, object: &Value) -> Request {
        match self {
            Self::Pod => Request::of_pod(object),
            Self::Instance => Request::of_instance(object),
        }
    }
}

/// Places workloads until `stop` is cancelled.
pub async fn run(api: Arc<dyn Api>, stop: CancellationToken) {
    let cache = |group, plural| Cache::start(api.clone(), Resource::new(group, plural), stop.clone());
    let scheduler = Arc::new(Scheduler {
        nodes: cache("", "nodes"),
        pods: Cache::start_where(api.clone(), Resource::new("", "pods"), stop.clone(), concerns),
        instances: cache("compute.cirro.dev", "instances"),
        events: EventRecorder::start(api.clone(), "default-scheduler", None),
        placed: Mutex::default(),
        assumed: Mutex::default(),
        waiting: Mutex::default(),
        api,
    });
    for cache in [&scheduler.nodes, &scheduler.pods, &scheduler.instances] {
        cache.synced().await;
    }
    let queue = WorkQueue::new();
    scheduler.listen(&queue);
    let worker = scheduler.clone();
    // One worker: a decision is made on what the one before it left.
    cirro_client::run("scheduler", queue, 1, stop, move |key| {
        let scheduler = worker.clone();
        async move { scheduler.schedule(&key).await }
    })
    .await;
}

struct Scheduler {
    api: Arc<dyn Api>,
    nodes: Cache,
    pods: Cache,
    instances: Cache,
    events: EventRecorder,
    /// What takes room: workload uid to node and request.
    placed: Mutex<HashMap<Box<str>, (String, Request)>>,
    /// Bound here and not yet seen in a cache: workload uid to node and request.
    assumed: Mutex<HashMap<String, (String, Request)>>,
    /// What did not fit anywhere; tried again when something is freed.
    waiting: Mutex<Vec<Key>>,
}

impl Scheduler {
    fn listen(self: &Arc<Self>, queue: &Arc<WorkQueue<Key>>) {
        for (kind, cache) in [(Kind::Pod, &self.pods), (Kind::Instance, &self.instances)] {
            let (this, queue) = (self.clone(), queue.clone());
            cache.on_change(move |old, new| {
                this.note_placed(kind, old, new);
                match new {
                    Some(object) if is_pending(kind, object) => {
                        let same_spec = old.is_some_and(|old| old["spec"] == object["spec"]);
                        if !same_spec {
                            let (namespace, name) = object.place();
                            queue.add((kind, namespace, name));
                        }
                    }
                    // Finished or gone: room may have come free.
                    None => this.wake(&queue),
                    Some(_) => {}
                }
            });
        }
        let (this, queue) = (self.clone(), queue.clone());
        self.nodes.on_change(move |old, new| {
            let essence = |node: &Object| (node["spec"].clone(), node["status"]["allocatable"].clone());
            if old.map(essence) != new.map(essence) {
                this.wake(&queue);
            }
        });
    }

    /// Notes what a workload takes of which node, or that it takes nothing any more.
    fn note_placed(&self, kind: Kind, old: Option<&Object>, new: Option<&Object>) {
        let node = new.map(|object| object.peek(kind.place())).unwrap_or_default();
        let taken = new.filter(|_| !node.is_empty()).map(|object| (node, kind.request(object)));
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = old {
            placed.remove(&old.head().uid);
        }
        if let Some((object, taken)) = new.zip(taken) {
            placed.insert(object.head().uid.clone(), taken);
        }
    }

    fn wake(&self, queue: &WorkQueue<Key>) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for key in waiting {
            queue.add(key);
        }
    }

    /// Notes a key once; who waits longest is tried first.
    fn note_waiting(&self, key: &Key) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.contains(key) {
            waiting.push(key.clone());
        }
    }

    async fn schedule(&self, key: &Key) -> Result<Next, ApiError> {
        let (kind, namespace, name) = key;
        let cache = match kind {
            Kind::Pod => &self.pods,
            Kind::Instance => &self.instances,
        };
        let Some(object) = cache.get(namespace, name).filter(|object| is_pending(*kind, object)) else {
            return Ok(Next::Wait);
        };
        if self.is_assumed(uid(&object)) {
            return Ok(Next::Wait);
        }
        let request = kind.request(&object);
        // Noted before the look: what comes free meanwhile wakes it too.
        self.note_waiting(key);
        let snapshot = self.snapshot();
        match place(&snapshot, &request) {
            Ok(node) => {
                self.waiting.lock().unwrap_or_else(PoisonError::into_inner).retain(|waiting| waiting != key);
                self.bind(*kind, &object, &node.name, request).await?;
                Ok(Next::Wait)
            }
            Err(refusal) => {
                self.report(*kind, &object, &refusal.to_string()).await?;
                Ok(Next::After(PERIOD))
            }
        }
    }

    fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.lock().unwrap_or_else(PoisonError::into_inner).contains_key(uid)
    }

    fn snapshot(&self) -> Snapshot {
        let mut nodes: Vec<Node> = self.nodes.list().iter().map(|node| Node::read(node)).collect();
        let mut assumed = self.assumed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut use_node = |node_name: &str, request: Request| {
            if let Some(node) = nodes.iter_mut().find(|node| node.name == node_name) {
                node.used.push(request);
            }
        };
        let placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = |uid: &str| self.pods.contains_uid(uid) || self.instances.contains_uid(uid);
        assumed.retain(|uid, _| !placed.contains_key(uid.as_str()) && is_there(uid));
        for (node, request) in placed.values().chain(assumed.values()) {
            use_node(node, request.clone());
        }
        Snapshot { nodes }
    }

    async fn bind(&self, kind: Kind, object: &Value, node: &str, request: Request) -> Result<(), ApiError> {
        let (of, name) = (namespace(object), name(object));
        let bound = match kind {
            Kind::Pod => self.api.bind(of, name, uid(object), node).await,
            Kind::Instance => {
                let key = key_of(&Resource::new("compute.cirro.dev", "instances"), object);
                let patch = json!({"status": {"node": node, "message": null}});
                self.api.merge_patch(&key, true, patch).await.map(drop)
            }
        };
        match bound {
            Ok(()) => {}
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut assumed = self.assumed.lock().unwrap_or_else(PoisonError::into_inner);
        assumed.insert(uid(object).to_owned(), (node.to_owned(), request));
        drop(assumed);
        info!(?kind, namespace = of, name, node, "bound");
        let message = format!("Successfully assigned {of}/{name} to {node}");
        self.events.record(object, Severity::Normal, "Scheduled", message);
        Ok(())
    }

    /// Tells why a workload waits; writes only when that is news.
    async fn report(&self, kind: Kind, object: &Value, message: &str) -> Result<(), ApiError> {
        self.events.record(object, Severity::Warning, "FailedScheduling", message);
        let (resource, patch) = match kind {
            Kind::Pod => {
                let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
                let mut conditions: Vec<Value> = conditions.cloned().unwrap_or_default();
                let told = |condition: &Value| {
                    condition["type"] == "PodScheduled"
                        && condition["status"] == "False"
                        && condition["message"] == message
                };
                if conditions.iter().any(told) {
                    return Ok(());
                }
                conditions.retain(|condition| condition["type"] != "PodScheduled");
                conditions.push(json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "message": message, "lastProbeTime": null, "lastTransitionTime": seconds(jiff::Timestamp::now())}));
                let phase = object.pointer("/status/phase").cloned().unwrap_or_else(|| "Pending".into());
                (Resource::new("", "pods"), json!({"status": {"phase": phase, "conditions": conditions}}))
            }
            Kind::Instance if text(object, "/status/message") == message => return Ok(()),
            Kind::Instance => (
                Resource::new("compute.cirro.dev", "instances"),
                json!({"status": {"phase": "Pending", "message": message}}),
            ),
        };
        match self.api.merge_patch(&key_of(&resource, object), true, patch).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether a pod takes room on a node or wants some from this scheduler.
fn concerns(pod: &Packed) -> bool {
    let ours = |pod: &Packed| matches!(pod.text("/spec/schedulerName").as_str(), "" | "default-scheduler");
    (!pod.text("/spec/nodeName").is_empty() || ours(pod))
        && !matches!(pod.text("/status/phase").as_str(), "Succeeded" | "Failed")
}

/// Whether a workload wants a node.
fn is_pending(kind: Kind, object: &Value) -> bool {
    text(object, kind.place()).is_empty()
        && text(object, "/metadata/deletionTimestamp").is_empty()
        && !is_finished(kind, object)
        && (kind == Kind::Instance || matches!(text(object, "/spec/schedulerName"), "" | "default-scheduler"))
}

/// Whether a workload has given back what it had.
fn is_finished(kind: Kind, object: &Value) -> bool {
    kind == Kind::Pod && matches!(text(object, "/status/phase"), "Succeeded" | "Failed")
}
