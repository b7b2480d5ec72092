//! Instances that are bound here become machines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cirro_client::{Cache, Next, Severity, WorkQueue, key_of, name, namespace, text, uid};
use cirro_seams::api::{ApiError, Resource};
use cirro_seams::node::{InstanceRequest, InstanceState, NodeError, NodeEvent};
use cirro_types::Quantity;
use cirro_types::kinds::{InstanceSpec, InstanceStatus};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Kubelet;

/// Keeps an instance object until its machine is gone.
const FINALIZER: &str = "compute.cirro.dev/machine";
/// A machine that ended or could not be made is tried again after so long.
const AGAIN: Duration = Duration::from_secs(5);

struct Instances {
    kubelet: Arc<Kubelet>,
    cache: Cache,
    /// When a start failed last, and at which generation of the object; by uid.
    failures: Mutex<HashMap<String, (Instant, Value)>>,
}

/// Runs the loop until `stop`.
pub(crate) async fn run(kubelet: Arc<Kubelet>, stop: CancellationToken) {
    let cache =
        Cache::start(kubelet.api.clone(), Resource::new("compute.cirro.dev", "instances"), stop.clone());
    cache.synced().await;
    let queue: Arc<WorkQueue<String>> = WorkQueue::new();
    let own = queue.clone();
    cache.on_change(move |old, new| {
        if let Some(instance) = new.or(old) {
            own.add(uid(instance).to_owned());
        }
    });
    let (mut events, from_engine) = (kubelet.engine.events(), queue.clone());
    if let Ok(machines) = kubelet.engine.list_instances().await {
        machines.into_iter().for_each(|machine| queue.add(machine.uid));
    }
    let known = cache.clone();
    let listener = async move {
        loop {
            match events.recv().await {
                Ok(NodeEvent::Instance(uid)) => from_engine.add(uid),
                Ok(NodeEvent::Pod(_)) => {}
                Ok(NodeEvent::Everything) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                    known.list().iter().for_each(|instance| from_engine.add(uid(instance).to_owned()));
                }
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    };
    let listener = tokio::spawn(listener);
    let instances = Arc::new(Instances { kubelet, cache, failures: Mutex::default() });
    cirro_client::run("instance", queue, 2, stop, move |uid| {
        let instances = instances.clone();
        async move { instances.sync(&uid).await }
    })
    .await;
    listener.abort();
}

impl Instances {
    async fn sync(&self, wanted: &str) -> Result<Next, NodeError> {
        let found = self.cache.list().into_iter().find(|instance| uid(instance) == wanted);
        let Some(instance) = found else {
            self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(wanted);
            self.kubelet.engine.remove_instance(wanted).await?;
            return Ok(Next::Wait);
        };
        if text(&instance, "/status/node") != self.kubelet.options.node_name {
            return Ok(Next::Wait);
        }
        if instance.pointer("/metadata/deletionTimestamp").is_some() {
            self.kubelet.engine.remove_instance(wanted).await?;
            self.write_finalizer(&instance, false).await?;
            return Ok(Next::Wait);
        }
        self.write_finalizer(&instance, true).await?;
        let spec = match InstanceSpec::deserialize(&instance["spec"]) {
            Ok(spec) => spec,
            Err(error) => {
                self.write_status(&instance, "Failed", None, Some(error.to_string())).await?;
                return Ok(Next::Wait);
            }
        };
        if spec.running { self.start(&instance, spec).await } else { self.stop(&instance).await }
    }

    /// How long a start that failed must still wait; an edited object is tried at once.
    fn delay(&self, instance: &Value) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, generation) = failures.get(uid(instance))?;
        let left = AGAIN.checked_sub(at.elapsed()).filter(|left| !left.is_zero())?;
        (*generation == instance["metadata"]["generation"]).then_some(left)
    }

    fn note(&self, instance: &Value, failed: bool) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failed {
            true => {
                let failure = (Instant::now(), instance["metadata"]["generation"].clone());
                failures.insert(uid(instance).to_owned(), failure);
            }
            false => drop(failures.remove(uid(instance))),
        }
    }

    async fn start(&self, instance: &Value, spec: InstanceSpec) -> Result<Next, NodeError> {
        if let Some(left) = self.delay(instance) {
            return Ok(Next::After(left));
        }
        let known = self.kubelet.engine.list_instances().await?;
        let running = known.iter().any(|machine| machine.uid == uid(instance) && machine.running);
        let request = InstanceRequest {
            uid: uid(instance).to_owned(),
            namespace: namespace(instance).to_owned(),
            name: name(instance).to_owned(),
            image: spec.image,
            cpu: spec.cpu,
            memory: spec.memory.parse::<Quantity>().map_or(0, |memory| memory.units().unsigned_abs()),
            subnet: spec.subnet,
            security_groups: spec.security_groups,
            user_data: spec.user_data,
        };
        let started = self.kubelet.engine.ensure_instance(request).await;
        self.note(instance, !started.as_ref().is_ok_and(|machine| machine.running));
        match started {
            Ok(InstanceState { address, running: true, .. }) => {
                if !running {
                    self.tell(instance, Severity::Normal, "Started", "Started machine".into());
                }
                self.write_status(instance, "Running", address, None).await?;
                Ok(Next::Wait)
            }
            Ok(InstanceState { address, message, .. }) => {
                self.write_status(instance, "Pending", address, message).await?;
                Ok(Next::After(AGAIN))
            }
            Err(error) => {
                self.tell(instance, Severity::Warning, "FailedStart", error.to_string());
                self.write_status(instance, "Pending", None, Some(error.to_string())).await?;
                Ok(Next::After(AGAIN))
            }
        }
    }

    async fn stop(&self, instance: &Value) -> Result<Next, NodeError> {
        self.kubelet.engine.stop_instance(uid(instance)).await?;
        let known = self.kubelet.engine.list_instances().await?;
        let state = known.into_iter().find(|machine| machine.uid == uid(instance));
        self.write_status(instance, "Stopped", state.and_then(|state| state.address), None).await?;
        Ok(Next::Wait)
    }

    fn tell(&self, instance: &Value, severity: Severity, reason: &'static str, message: String) {
        self.kubelet.events.record(instance, severity, reason, message);
    }

    async fn write_status(
        &self,
        instance: &Value,
        phase: &str,
        address: Option<std::net::Ipv4Addr>,
        message: Option<String>,
    ) -> Result<(), NodeError> {
        let node = Some(self.kubelet.options.node_name.clone());
        let status = InstanceStatus { phase: phase.into(), address, node, message };
        if InstanceStatus::deserialize(&instance["status"]).is_ok_and(|earlier| earlier == status) {
            return Ok(());
        }
        let mut members = json!(status);
        // A merge patch forgets only what is null.
        for member in ["address", "message"] {
            if members.get(member).is_none() {
                members[member] = Value::Null;
            }
        }
        self.patch(instance, true, json!({"metadata": {"uid": uid(instance)}, "status": members})).await
    }

    async fn write_finalizer(&self, instance: &Value, wanted: bool) -> Result<(), NodeError> {
        let list = instance.pointer("/metadata/finalizers").and_then(Value::as_array);
        let mut finalizers: Vec<Value> = list.cloned().unwrap_or_default();
        if finalizers.iter().any(|one| one == FINALIZER) == wanted {
            return Ok(());
        }
        finalizers.retain(|one| one != FINALIZER);
        if wanted {
            finalizers.push(FINALIZER.into());
        }
        let revision = text(instance, "/metadata/resourceVersion");
        let patch = json!({"metadata": {"resourceVersion": revision, "finalizers": finalizers}});
        self.patch(instance, false, patch).await
    }

    async fn patch(&self, instance: &Value, status: bool, patch: Value) -> Result<(), NodeError> {
        let key = key_of(&Resource::new("compute.cirro.dev", "instances"), instance);
        match self.kubelet.api.merge_patch(&key, status, patch).await {
            Err(error) if !ApiError::is_not_found(&error) => Err(NodeError::Failed(error.to_string())),
            _ => Ok(()),
        }
    }
}
