//! A whole control plane over a simulated host, in one process, on tokio's paused clock.

use std::sync::Arc;
use std::time::Duration;

use cirro_apiserver::ApiServer;
use cirro_client::{Cache, key_of, name, namespace, text};
use cirro_kubelet::Kubelet;
use cirro_seams::Pending;
use cirro_seams::api::{Api, ApiError, DeleteOptions, ObjectEvent, ObjectKey, ObjectList, Resource};
use cirro_sim::SimEngine;
use cirro_store::MemoryObjectStore;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What does not happen within so much simulated time does not happen.
const PATIENCE: Duration = Duration::from_secs(900);
const LOOK: Duration = Duration::from_millis(20);

pub(crate) struct World {
    pub(crate) api: Arc<dyn Api>,
    pub(crate) engine: SimEngine,
    pub(crate) deployments: Cache,
    pub(crate) replica_sets: Cache,
    pub(crate) pods: Cache,
    pub(crate) slices: Cache,
    pub(crate) instances: Cache,
    pub(crate) namespaces: Cache,
    pub(crate) events: Cache,
    _stop: tokio_util::sync::DropGuard,
    kubelet: Option<(TaskTracker, CancellationToken, Arc<Kubelet>)>,
    directory: tempfile::TempDir,
}

/// The API, a second late for who watches one kind.
struct Late {
    api: Arc<dyn Api>,
    plural: &'static str,
}

impl Api for Late {
    fn get(&self, key: &ObjectKey) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        self.api.get(key)
    }

    fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
    ) -> Pending<'_, Result<ObjectList, ApiError>> {
        self.api.list(resource, namespace)
    }

    fn watch(
        &self,
        resource: &Resource,
        revision: u64,
    ) -> Pending<'_, Result<mpsc::Receiver<ObjectEvent>, ApiError>> {
        let late = resource.plural == self.plural;
        let watch = self.api.watch(resource, revision);
        Box::pin(async move {
            let mut events = watch.await?;
            if !late {
                return Ok(events);
            }
            let (sender, receiver) = mpsc::channel(64);
            tokio::spawn(async move {
                while let Some(event) = events.recv().await {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if sender.send(event).await.is_err() {
                        return;
                    }
                }
            });
            Ok(receiver)
        })
    }

    fn create(&self, resource: &Resource, object: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        self.api.create(resource, object)
    }

    fn update(&self, resource: &Resource, object: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        self.api.update(resource, object)
    }

    fn update_status(&self, resource: &Resource, object: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        self.api.update_status(resource, object)
    }

    fn merge_patch(
        &self,
        key: &ObjectKey,
        status: bool,
        patch: Value,
    ) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        self.api.merge_patch(key, status, patch)
    }

    fn bind(&self, namespace: &str, pod: &str, uid: &str, node: &str) -> Pending<'_, Result<(), ApiError>> {
        self.api.bind(namespace, pod, uid, node)
    }

    fn delete(&self, key: &ObjectKey, options: DeleteOptions) -> Pending<'_, Result<(), ApiError>> {
        self.api.delete(key, options)
    }
}

impl World {
    pub(crate) async fn start(seed: u64) -> Self {
        Self::start_late(seed, "").await
    }

    /// Starts a world whose controllers hear of changes of one kind late.
    pub(crate) async fn start_late(seed: u64, late: &'static str) -> Self {
        let engine = SimEngine::new(seed);
        engine.add_image("web");
        let server = ApiServer::open(Arc::new(MemoryObjectStore::new()), Default::default()).await.unwrap();
        let (api, stop) = (server.client(), CancellationToken::new());
        let slow = Arc::new(Late { api: api.clone(), plural: late });
        tokio::spawn(cirro_controllers::run(slow, server.resources(), stop.clone()));
        tokio::spawn(cirro_scheduler::run(api.clone(), stop.clone()));
        let cache = |group, plural| Cache::start(api.clone(), Resource::new(group, plural), stop.clone());
        let mut world = Self {
            deployments: cache("apps", "deployments"),
            replica_sets: cache("apps", "replicasets"),
            pods: cache("", "pods"),
            slices: cache("discovery.k8s.io", "endpointslices"),
            instances: cache("compute.cirro.dev", "instances"),
            namespaces: cache("", "namespaces"),
            events: cache("", "events"),
            api: api.clone(),
            engine,
            _stop: stop.clone().drop_guard(),
            kubelet: None,
            directory: tempfile::tempdir().unwrap(),
        };
        world.start_kubelet().await;
        world
    }

    pub(crate) async fn start_kubelet(&mut self) {
        let options = cirro_kubelet::Options {
            node_name: "sim".into(),
            address: "192.0.2.1".parse().unwrap(),
            pod_cidr: "10.42.0.0/16".parse().unwrap(),
            dns_address: "10.96.0.10".parse().unwrap(),
            data_dir: self.directory.path().to_owned(),
            version: cirro_apiserver::VERSION.into(),
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let kubelet =
            Kubelet::start(self.api.clone(), self.engine.node(), options, &tasks, stop.clone()).await;
        tasks.close();
        self.kubelet = Some((tasks, stop, kubelet));
    }

    pub(crate) fn kubelet(&self) -> &Kubelet {
        &self.kubelet.as_ref().expect("a kubelet runs").2
    }

    pub(crate) async fn stop_kubelet(&mut self) {
        let (tasks, stop, kubelet) = self.kubelet.take().expect("a kubelet runs");
        stop.cancel();
        tasks.wait().await;
        drop(kubelet);
    }

    pub(crate) async fn create(&self, object: Value) -> Arc<Value> {
        self.api.create(&resource_of(&object), object).await.unwrap()
    }

    pub(crate) async fn patch(&self, object: &Value, patch: Value) -> Arc<Value> {
        let key = key_of(&resource_of(object), object);
        let patched = self.api.merge_patch(&key, false, patch).await.unwrap();
        if key.resource.plural == "deployments" {
            // What is asked of the cache from now on is about the new generation.
            self.until("the change is seen", || self.deployments.has_seen(&patched)).await;
        }
        patched
    }

    pub(crate) async fn delete(&self, object: &Value, policy: Option<&str>) {
        let options =
            DeleteOptions { propagation_policy: policy.map(str::to_owned), ..DeleteOptions::default() };
        self.api.delete(&key_of(&resource_of(object), object), options).await.unwrap();
    }

    pub(crate) async fn get(&self, object: &Value) -> Option<Arc<Value>> {
        self.api.get(&key_of(&resource_of(object), object)).await.ok()
    }

    pub(crate) async fn delete_namespace(&self, name: &str) {
        let key = ObjectKey {
            resource: Resource::new("", "namespaces"),
            namespace: String::new(),
            name: name.into(),
        };
        self.api.delete(&key, DeleteOptions::default()).await.unwrap();
    }

    /// Waits in simulated time until `holds`.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("never: {what}\n{}", self.dump());
        }
    }

    /// Lets everything come to rest.
    pub(crate) async fn rest(&self) {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    /// Returns the pods whose name begins so.
    pub(crate) fn pods_of(&self, prefix: &str) -> Vec<Arc<Value>> {
        self.pods.list().into_iter().filter(|pod| name(pod).starts_with(prefix)).collect()
    }

    pub(crate) fn ready_pods(&self, prefix: &str) -> usize {
        self.pods_of(prefix).iter().filter(|pod| is_ready(pod)).count()
    }

    pub(crate) async fn until_complete(&self, name: &str, replicas: i64) {
        self.until(&format!("deployment {name} is complete with {replicas}"), || {
            self.deployments.get("default", name).is_some_and(|deployment| is_complete(&deployment, replicas))
        })
        .await;
    }

    /// No container, sandbox or machine is left without its object, and none twice.
    pub(crate) fn assert_nothing_left_over(&self) {
        let pods = self.pods.list();
        let has = |uid: &str| pods.iter().any(|pod| cirro_client::uid(pod) == uid);
        for sandbox in self.engine.sandboxes() {
            assert!(has(&sandbox.uid), "sandbox {} has no pod\n{}", sandbox.uid, self.dump());
        }
        let mut running = std::collections::BTreeSet::new();
        for container in self.engine.containers() {
            let cirro_seams::container::Owner::Pod { uid, container: name, .. } = &container.spec.owner
            else {
                panic!("a container without a pod");
            };
            assert!(has(uid), "container {} has no pod\n{}", container.name, self.dump());
            if container.pid.is_some() {
                assert!(running.insert((uid.clone(), name.clone())), "{} runs twice", container.name);
            }
        }
    }

    fn dump(&self) -> String {
        let mut text = String::new();
        for object in self.deployments.list().iter().chain(&self.replica_sets.list()) {
            text += &format!("{} {} {}\n", object["kind"], name(object), object["status"]);
        }
        for pod in self.pods.list() {
            text += &format!(
                "pod {}/{} {} {}\n",
                namespace(&pod),
                name(&pod),
                pod["metadata"]["deletionTimestamp"],
                pod["status"]
            );
        }
        for container in self.engine.containers() {
            text +=
                &format!("container {} {:?} {:?}\n", container.name, container.phase, container.exit_code);
        }
        for event in self.events.list() {
            text += &format!("event {} {}\n", event["reason"], event["message"]);
        }
        text
    }
}

pub(crate) fn resource_of(object: &Value) -> Resource {
    let group = text(object, "/apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
    Resource::new(group, &format!("{}s", text(object, "/kind").to_lowercase()))
}

/// A deployment in `default`; `changes` are merged into its spec.
pub(crate) fn deployment(name: &str, replicas: i64, container: Value) -> Value {
    let mut container = container;
    for (member, value) in [("name", "main"), ("image", "web")] {
        if container.get(member).is_none() {
            container[member] = value.into();
        }
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
            },
        },
    })
}

pub(crate) fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "main", "image": "web"}]);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": name}}, "spec": spec})
}

pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
        && pod.pointer("/metadata/deletionTimestamp").is_none()
}

pub(crate) fn is_complete(deployment: &Value, replicas: i64) -> bool {
    let count = |member: &str| deployment["status"][member].as_i64().unwrap_or(0);
    let counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"].map(count);
    counts == [replicas; 4]
        && deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
}

/// Returns a member of the first container's status.
pub(crate) fn shown<'a>(pod: &'a Value, pointer: &str) -> &'a Value {
    const NONE: &Value = &Value::Null;
    pod["status"]["containerStatuses"][0].pointer(pointer).unwrap_or(NONE)
}
