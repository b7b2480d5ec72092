//! The loop over the pods of this host: one step at a time for each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cirro_client::{Next, Severity, name, namespace, text, uid};
use cirro_seams::container::{Container, Owner};
use cirro_seams::network::{PortPublish, Protocol};
use cirro_seams::node::{NodeError, NodeEvent, Sandbox, SandboxSpec};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::due::ContainerPlan;
use crate::resize::Resizing;
use crate::status::{self, Observed, Waiting};
use crate::{Kubelet, projected, resize, termination};

/// Pods that are worked on at once.
const WORKERS: usize = 8;
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// A container that ran so long starts with a new back-off.
const BACKOFF_RESET: Duration = Duration::from_secs(600);

/// What is remembered of pods between steps.
#[derive(Default)]
pub(crate) struct PodWorkers {
    memories: Mutex<HashMap<String, Memory>>,
}

/// What is remembered of one pod; lost, and found anew, with a restart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// Why containers wait: by container.
    pub(crate) waiting: HashMap<String, Waiting>,
    /// Consecutive failures to start, by container.
    pub(crate) failures: HashMap<String, u32>,
    /// When a container's next start is due, by container.
    due: HashMap<String, Due>,
    /// The attempt that a container's back-off is counted from: the one after a long run.
    calm: HashMap<String, u32>,
    /// The pod as its status was written last.
    pub(crate) written: Option<Arc<Value>>,
    /// The shortest grace that its end has begun with: what is running is being stopped by another task.
    pub(crate) ending: Option<i64>,
    /// What the containers have been given, and what they wait for.
    pub(crate) resizing: Resizing,
}

/// The next start of a container. Whatever else happens to the pod, it is not tried before.
#[derive(Debug, Clone, Copy)]
struct Due {
    attempt: u32,
    at: Instant,
}

impl PodWorkers {
    /// Reads or changes what is remembered of a pod.
    pub(crate) fn with<T>(&self, uid: &str, change: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        change(memories.entry(uid.to_owned()).or_default())
    }

    /// Returns the pods of which something holds.
    pub(crate) fn which(&self, holds: impl Fn(&Memory) -> bool) -> Vec<String> {
        let memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        memories.iter().filter(|(_, memory)| holds(memory)).map(|(uid, _)| uid.clone()).collect()
    }

    /// Forgets a pod.
    pub(crate) fn forget(&self, uid: &str) {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Runs the loop until `stop`; containers run on.
pub(crate) async fn run(kubelet: Arc<Kubelet>, stop: CancellationToken) {
    for cache in [&kubelet.pods, &kubelet.services, &kubelet.config_maps, &kubelet.secrets] {
        cache.synced().await;
    }
    let queue = kubelet.queue.clone();
    let own = queue.clone();
    kubelet.pods.on_change(move |old, new| {
        if let Some(pod) = new.or(old) {
            own.add(pod.head().uid.to_string());
        }
    });
    // Subscribed before the first look, so that no change falls between the two.
    let listener = tokio::spawn(listen(kubelet.clone(), kubelet.engine.events()));
    // What the engine has and the API does not know any more goes.
    for container in kubelet.engine.list_pod_containers().await.unwrap_or_default() {
        if let Owner::Pod { uid, .. } = container.spec.owner {
            queue.add(uid);
        }
    }
    for sandbox in kubelet.engine.list_sandboxes().await.unwrap_or_default() {
        queue.add(sandbox.uid);
    }
    let worker = kubelet.clone();
    cirro_client::run("pod", queue, WORKERS, stop, move |uid| {
        let kubelet = worker.clone();
        async move { kubelet.sync_pod(&uid).await }
    })
    .await;
    kubelet.probes.stop_all();
    listener.abort();
}

async fn listen(kubelet: Arc<Kubelet>, mut events: broadcast::Receiver<NodeEvent>) {
    loop {
        match events.recv().await {
            Ok(NodeEvent::Pod(uid)) => kubelet.queue.add(uid),
            Ok(NodeEvent::Instance(_)) => {}
            Ok(NodeEvent::Everything) | Err(broadcast::error::RecvError::Lagged(_)) => {
                for pod in kubelet.pods.list() {
                    kubelet.queue.add(uid(&pod).to_owned());
                }
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

impl Kubelet {
    async fn sync_pod(self: &Arc<Self>, wanted: &str) -> Result<Next, NodeError> {
        let written = self.workers.with(wanted, |memory| memory.written.clone());
        if written.is_some_and(|written| !self.pods.has_seen(&written)) {
            // What was written comes by soon and wakes this key; an older view would write its times back.
            return Ok(Next::After(Duration::from_secs(1)));
        }
        let pod = self.pods.by_uid(wanted);
        let containers = self.engine.containers_of_pod(wanted).await?;
        let Some(pod) = pod else {
            termination::clean_up(self, wanted, &containers).await?;
            resize::look_again(self);
            return Ok(Next::Wait);
        };
        if pod.pointer("/metadata/deletionTimestamp").is_some() {
            return termination::step(self, &pod, &containers).await;
        }
        if matches!(text(&pod, "/status/phase"), "Succeeded" | "Failed") {
            // Its ports and address are given back; its containers stay for their logs.
            self.probes.stop(wanted);
            self.engine.remove_sandbox(wanted).await?;
            resize::look_again(self);
            return Ok(Next::Wait);
        }
        self.run_pod(&pod, containers).await
    }

    async fn run_pod(
        self: &Arc<Self>,
        pod: &Arc<Value>,
        mut containers: Vec<Container>,
    ) -> Result<Next, NodeError> {
        let id = uid(pod);
        let sandbox = match self.engine.ensure_sandbox(sandbox_spec(pod)).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                self.events.record(pod, Severity::Warning, "FailedCreatePodSandBox", message);
                self.write_status(pod, &containers, None).await?;
                return Err(error);
            }
        };
        let resized = resize::step(self, pod, &containers).await;
        let plans = self.due_plans(pod, &containers);
        let mut again = match projected::prepare(self, pod, &sandbox, !plans.is_empty()).await {
            Ok(again) => sooner(again, resized),
            Err(error) => {
                let message = format!("MountVolume.SetUp failed for {error}");
                self.events.record(pod, Severity::Warning, "FailedMount", message);
                self.write_status(pod, &containers, Some(&sandbox)).await?;
                return Ok(Next::After(Duration::from_secs(1)));
            }
        };
        for plan in plans {
            match self.run_container(pod, &sandbox, &plan, &containers).await {
                Ok(()) => {}
                Err(delay) => again = sooner(again, Some(delay)),
            }
        }
        containers = self.engine.containers_of_pod(id).await?;
        self.forget_old(&containers).await?;
        self.probes.follow(pod, &containers, sandbox.address);
        self.write_status(pod, &containers, Some(&sandbox)).await?;
        Ok(again.map_or(Next::Wait, Next::After))
    }

    /// Starts one container; on failure returns when to try again.
    async fn run_container(
        &self,
        pod: &Arc<Value>,
        sandbox: &Sandbox,
        plan: &ContainerPlan,
        containers: &[Container],
    ) -> Result<(), Duration> {
        let (id, container) = (uid(pod), plan.name());
        if let Some(delay) = self.delay(pod, plan, containers) {
            return Err(delay);
        }
        let image = text(&plan.spec, "/image");
        match self.engine.find_image(image).await {
            Ok(Some(_)) if text(&plan.spec, "/imagePullPolicy") != "Always" => {}
            Ok(None) if text(&plan.spec, "/imagePullPolicy") == "Never" => {
                return Err(self.image_missing(pod, plan, image, None));
            }
            Ok(_) => {
                if let Err(error) = self.engine.pull_image(image).await {
                    return Err(self.image_missing(pod, plan, image, Some(error)));
                }
            }
            Err(error) => {
                self.wait_with(id, container, "ErrImagePull", error.to_string());
                return Err(self.hold(id, plan, soon));
            }
        }
        let spec = match self.container_spec(pod, sandbox, plan) {
            Ok(spec) => spec,
            Err(error) => {
                self.events.record(pod, Severity::Warning, "Failed", format!("Error: {error}"));
                self.wait_with(id, container, "CreateContainerConfigError", error.to_string());
                return Err(self.hold(id, plan, soon));
            }
        };
        match self.engine.run_container(spec).await {
            Ok(engine_id) => {
                info!(
                    pod = id,
                    container,
                    attempt = plan.attempt,
                    id = &engine_id[..engine_id.len().min(12)],
                    "started"
                );
                let present = format!("Container image \"{image}\" already present on machine");
                self.events.record(pod, Severity::Normal, "Pulled", present);
                self.events.record(
                    pod,
                    Severity::Normal,
                    "Created",
                    format!("Created container: {container}"),
                );
                self.events.record(
                    pod,
                    Severity::Normal,
                    "Started",
                    format!("Started container {container}"),
                );
                self.workers.with(id, |memory| {
                    memory.waiting.remove(container);
                    memory.due.remove(container);
                    memory.failures.remove(container);
                    memory.resizing.restarting.remove(container);
                });
                Ok(())
            }
            Err(error) => {
                debug!(pod = id, container, %error, "cannot start");
                self.events.record(pod, Severity::Warning, "Failed", format!("Error: {error}"));
                self.wait_with(id, container, "RunContainerError", error.to_string());
                Err(self.hold(id, plan, |failures| backoff(failures + 1)))
            }
        }
    }

    /// How long a container's start must still wait.
    ///
    /// Once begun, a wait is counted by the clock that does not jump.
    fn delay(&self, pod: &Value, plan: &ContainerPlan, containers: &[Container]) -> Option<Duration> {
        let (id, container) = (uid(pod), plan.name());
        let due = self.workers.with(id, |memory| memory.due.get(container).copied());
        if let Some(due) = due.filter(|due| due.attempt == plan.attempt) {
            return Some(due.at.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero());
        }
        let last = containers.iter().find(|last| container_name(last) == container)?;
        let time = |text: &Option<String>| text.as_deref()?.parse::<Timestamp>().ok();
        let finished = time(&last.finished_at)?;
        let ran = time(&last.started_at).and_then(|started| Duration::try_from(finished - started).ok());
        let calm = self.workers.with(id, |memory| {
            if ran.is_some_and(|ran| ran > BACKOFF_RESET) {
                memory.calm.insert(container.to_owned(), plan.attempt);
            }
            memory.calm.get(container).copied()
        });
        // The first restart is at once.
        let restarts = calm.map_or(plan.attempt, |calm| plan.attempt.saturating_sub(calm) + 1);
        if restarts <= 1 {
            return None;
        }
        let whole = backoff(restarts);
        let passed = Duration::try_from(Timestamp::now() - finished).unwrap_or_default();
        let left = Some(whole.saturating_sub(passed)).filter(|left| !left.is_zero())?;
        let message = format!(
            "back-off {}s restarting failed container={container} pod={}_{}({id})",
            whole.as_secs(),
            name(pod),
            namespace(pod)
        );
        self.wait_with(id, container, "CrashLoopBackOff", message);
        self.workers.with(id, |memory| {
            let due = Due { attempt: plan.attempt, at: Instant::now() + left };
            memory.due.insert(container.to_owned(), due);
        });
        Some(left)
    }

    /// Notes a failure to start and returns when to try again, by the number of failures.
    fn hold(&self, id: &str, plan: &ContainerPlan, delay: impl FnOnce(u32) -> Duration) -> Duration {
        self.workers.with(id, |memory| {
            let failures = memory.failures.entry(plan.name().to_owned()).or_insert(0);
            *failures = failures.saturating_add(1);
            let delay = delay(*failures);
            let due = Due { attempt: plan.attempt, at: Instant::now() + delay };
            memory.due.insert(plan.name().to_owned(), due);
            delay
        })
    }

    /// Tells that an image is not there: because it may not be pulled, or because that failed.
    fn image_missing(
        &self,
        pod: &Arc<Value>,
        plan: &ContainerPlan,
        image: &str,
        failure: Option<NodeError>,
    ) -> Duration {
        let id = uid(pod);
        let mut failures = 0;
        let delay = self.hold(id, plan, |count| {
            failures = count;
            soon(count)
        });
        let (reason, message) = match failure {
            None => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                ("ErrImageNeverPull", message)
            }
            Some(error) => {
                let message = format!("Failed to pull image \"{image}\": {error}");
                (if failures > 1 { "ImagePullBackOff" } else { "ErrImagePull" }, message)
            }
        };
        self.events.record(pod, Severity::Warning, "Failed", message.clone());
        self.wait_with(id, plan.name(), reason, message);
        delay
    }

    fn wait_with(&self, id: &str, container: &str, reason: &str, message: String) {
        let waiting = Waiting { reason: reason.to_owned(), message };
        self.workers.with(id, |memory| memory.waiting.insert(container.to_owned(), waiting));
    }

    /// Keeps the newest ended container of each name, for `logs --previous`.
    async fn forget_old(&self, containers: &[Container]) -> Result<(), NodeError> {
        let mut kept: HashMap<&str, u32> = HashMap::new();
        for container in containers {
            let count = kept.entry(container_name(container)).or_insert(0);
            *count += 1;
            if *count > 2 && container.pid.is_none() {
                self.engine.remove_container(&container.id).await?;
            }
        }
        Ok(())
    }

    /// Writes a pod's status where it differs from what the API has.
    pub(crate) async fn write_status(
        &self,
        pod: &Arc<Value>,
        containers: &[Container],
        sandbox: Option<&Sandbox>,
    ) -> Result<(), NodeError> {
        let (waiting, resizing) =
            self.workers.with(uid(pod), |memory| (memory.waiting.clone(), memory.resizing.clone()));
        let observed = Observed {
            containers,
            sandbox,
            waiting: &waiting,
            resizing: &resizing,
            probes: &self.probes.results(uid(pod)),
            host_address: self.options.address,
            now: Timestamp::now(),
        };
        let status = status::compute(pod, &observed);
        status::write(self, pod, status).await
    }
}

/// Returns a container's name in its pod.
pub(crate) fn container_name(container: &Container) -> &str {
    match &container.spec.owner {
        Owner::Pod { container, .. } => container,
        _ => "",
    }
}

/// Returns how often a container was started before this one.
pub(crate) fn attempt(container: &Container) -> u32 {
    container.name.rsplit_once('_').and_then(|(_, attempt)| attempt.parse().ok()).unwrap_or(0)
}

/// Returns the sooner of two times to look again.
fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

fn backoff(attempt: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << attempt.saturating_sub(2).min(5)).min(LONGEST_BACKOFF)
}

/// The wait for what may be there any moment (an image, a config map), where looking is cheap.
fn soon(failures: u32) -> Duration {
    Duration::from_secs(2).saturating_mul(failures.min(15))
}

fn sandbox_spec(pod: &Value) -> SandboxSpec {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let ports = containers.filter_map(|container| container["ports"].as_array()).flatten();
    let publish = ports.filter_map(|port| {
        let number = |member: &str| port[member].as_u64().and_then(|number| u16::try_from(number).ok());
        Some(PortPublish {
            last_host_port: None,
            host_address: port["hostIP"].as_str().and_then(|address| address.parse().ok()),
            host_port: Some(number("hostPort").filter(|number| *number > 0)?),
            port: number("containerPort")?,
            protocol: if port["protocol"] == "UDP" { Protocol::Udp } else { Protocol::Tcp },
        })
    });
    let host_network = pod["spec"]["hostNetwork"] == true;
    let subnet = text(pod, "/metadata/annotations/network.cirro.dev~1subnet");
    let hostname = Some(text(pod, "/spec/hostname")).filter(|hostname| !hostname.is_empty());
    SandboxSpec {
        uid: uid(pod).to_owned(),
        namespace: namespace(pod).to_owned(),
        name: name(pod).to_owned(),
        // A host name has at most 63 characters.
        hostname: hostname.unwrap_or(name(pod)).chars().take(63).collect(),
        host_network,
        publish: if host_network { Vec::new() } else { publish.collect() },
        subnet: (!subnet.is_empty()).then(|| match subnet.split_once('/') {
            Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
            None => (namespace(pod).to_owned(), subnet.to_owned()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn back_off_doubles_up_to_five_minutes() {
        let seconds: Vec<u64> = (2..9).map(|attempt| backoff(attempt).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_sandbox_publishes_host_ports_only() {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u",
            "annotations": {"network.cirro.dev/subnet": "web"}},
            "spec": {"containers": [{"ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]}]}});
        let spec = sandbox_spec(&pod);
        assert_eq!(spec.publish.len(), 1);
        assert_eq!((spec.publish[0].host_port, spec.publish[0].port), (Some(8080), 80));
        assert_eq!(spec.subnet, Some(("ns".into(), "web".into())));
    }
}
