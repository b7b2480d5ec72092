//! The loop around the decision.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cirro_client::{
    Cache, EventRecorder, Next, Severity, WorkQueue, key_of, name, namespace, seconds, text, uid,
};
use cirro_seams::api::{Api, ApiError, Resource};
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

/// Places workloads until `stop` is cancelled.
pub async fn run(api: Arc<dyn Api>, stop: CancellationToken) {
    let cache = |group, plural| Cache::start(api.clone(), Resource::new(group, plural), stop.clone());
    let scheduler = Arc::new(Scheduler {
        nodes: cache("", "nodes"),
        pods: cache("", "pods"),
        instances: cache("compute.cirro.dev", "instances"),
        events: EventRecorder::start(api.clone(), "default-scheduler", None),
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
    /// Bound here and not yet seen in a cache: workload uid to node and request.
    assumed: Mutex<HashMap<String, (String, Request)>>,
    /// What did not fit anywhere; tried again when something is freed.
    waiting: Mutex<Vec<Key>>,
}

impl Scheduler {
    fn listen(self: &Arc<Self>, queue: &Arc<WorkQueue<Key>>) {
        for (kind, cache) in [(Kind::Pod, &self.pods), (Kind::Instance, &self.instances)] {
            let (this, queue) = (self.clone(), queue.clone());
            cache.on_change(move |old, new| match (old, new) {
                (_, Some(object)) if is_pending(kind, object) => {
                    let same_spec = old.is_some_and(|old| old["spec"] == object["spec"]);
                    if !same_spec {
                        queue.add((kind, namespace(object).to_owned(), name(object).to_owned()));
                    }
                }
                (_, new) => {
                    // Bound, finished or gone: room may have come free.
                    if new.is_none_or(|object| is_finished(kind, object)) {
                        this.wake(&queue);
                    }
                }
            });
        }
        let (this, queue) = (self.clone(), queue.clone());
        self.nodes.on_change(move |old, new| {
            let essence = |node: &Arc<Value>| (node["spec"].clone(), node["status"]["allocatable"].clone());
            if old.map(essence) != new.map(essence) {
                this.wake(&queue);
            }
        });
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
        let request = match kind {
            Kind::Pod => Request::of_pod(&object),
            Kind::Instance => Request::of_instance(&object),
        };
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
        let pods = self.pods.list();
        let instances = self.instances.list();
        for pod in pods.iter().filter(|pod| !is_finished(Kind::Pod, pod)) {
            let node = text(pod, "/spec/nodeName");
            if !node.is_empty() {
                assumed.remove(uid(pod));
                use_node(node, Request::of_pod(pod));
            }
        }
        for instance in &instances {
            let node = text(instance, "/status/node");
            if !node.is_empty() {
                assumed.remove(uid(instance));
                use_node(node, Request::of_instance(instance));
            }
        }
        assumed.retain(|assumed, _| pods.iter().chain(&instances).any(|object| uid(object) == assumed));
        for (node, request) in assumed.values() {
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

/// Whether a workload wants a node.
fn is_pending(kind: Kind, object: &Value) -> bool {
    let place = match kind {
        Kind::Pod => "/spec/nodeName",
        Kind::Instance => "/status/node",
    };
    text(object, place).is_empty()
        && text(object, "/metadata/deletionTimestamp").is_empty()
        && !is_finished(kind, object)
        && (kind == Kind::Instance || matches!(text(object, "/spec/schedulerName"), "" | "default-scheduler"))
}

/// Whether a workload has given back what it had.
fn is_finished(kind: Kind, object: &Value) -> bool {
    kind == Kind::Pod && matches!(text(object, "/status/phase"), "Succeeded" | "Failed")
}
