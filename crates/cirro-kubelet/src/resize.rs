//! What a pod's containers have been given, and its change while they run.
//!
//! ```text
//! spec ─▶ does it fit this host? ─▶ allocated ─▶ the running container gets it, or is started again with it
//!          └▶ PodResizePending                     └▶ PodResizeInProgress while that lasts
//! ```
//! What was allocated is found again in the status by a kubelet that starts anew.
//!
//! Source: KEP-1287; upstream's `pkg/kubelet/allocation`, `kuberuntime_manager.go`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cirro_client::{Severity, text, uid};
use cirro_seams::container::{Container, Phase, Resources};
use cirro_types::Quantity;
use serde_json::Value;
use tracing::warn;

use crate::pods::container_name;
use crate::{Kubelet, node, spec};

/// A change that failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(10);
const COMPUTED: [&str; 2] = ["cpu", "memory"];

/// What is remembered of a pod's resources.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resizing {
    /// What each container has been given: requests and limits.
    pub(crate) allocated: HashMap<String, Value>,
    /// Containers that are started again for what they are to get.
    pub(crate) restarting: HashSet<String>,
    /// Why what the spec says is not given: reason and message.
    pub(crate) pending: Option<(&'static str, String)>,
    /// Whether something is on its way, and what went wrong with it.
    pub(crate) progress: Option<Option<String>>,
}

impl Resizing {
    /// Returns the members of a container's status that tell what it has: what it may use, and what was set
    /// aside for it; `before` is the status as it was.
    pub(crate) fn told(&self, spec: &Value, last: Option<&Container>, before: Option<&Value>) -> [Value; 2] {
        let allocated = self.allocated.get(text(spec, "/name")).unwrap_or(&spec["resources"]);
        let late = last.is_some_and(|last| {
            last.phase == Phase::Running && !has(&last.spec.resources, &spec::resources(allocated))
        });
        let actual = before.map(|before| &before["resources"]).filter(|actual| late && !actual.is_null());
        let requests = allocated["requests"].as_object().filter(|requests| !requests.is_empty());
        let requests = requests.map_or(Value::Null, |requests| Value::Object(requests.clone()));
        let actual = actual.unwrap_or(allocated);
        [if actual.is_null() { Value::Object(Default::default()) } else { actual.clone() }, requests]
    }
}

/// Makes the next step towards what the spec says; returns when to look again.
pub(crate) async fn step(
    kubelet: &Arc<Kubelet>,
    pod: &Arc<Value>,
    containers: &[Container],
) -> Option<Duration> {
    let id = uid(pod);
    let mut resizing = kubelet.workers.with(id, |memory| memory.resizing.clone());
    for spec in list(pod) {
        let name = text(spec, "/name");
        if !resizing.allocated.contains_key(name) {
            resizing.allocated.insert(name.to_owned(), found(pod, spec));
        }
    }
    resizing.pending = None;
    if list(pod).any(|spec| resizing.allocated.get(text(spec, "/name")) != Some(&spec["resources"])) {
        match fits(kubelet, pod) {
            Ok(()) => {
                for spec in list(pod) {
                    resizing.allocated.insert(text(spec, "/name").to_owned(), spec["resources"].clone());
                }
            }
            Err(pending) => resizing.pending = Some(pending),
        }
    }
    resizing.progress = None;
    let mut again = None;
    for spec in list(pod) {
        match actuate(kubelet, pod, spec, containers, &mut resizing).await {
            Ok(true) => {}
            Ok(false) => resizing.progress = Some(None),
            Err(why) => {
                resizing.progress = Some(Some(why));
                again = Some(AGAIN);
            }
        }
    }
    kubelet.workers.with(id, |memory| memory.resizing = resizing);
    again
}

/// Has the pods looked at again that wait for room on this host.
pub(crate) fn look_again(kubelet: &Kubelet) {
    for uid in kubelet.workers.which(|memory| memory.resizing.pending.is_some()) {
        kubelet.queue.add(uid);
    }
}

fn list(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["spec"]["containers"].as_array().into_iter().flatten()
}

fn status<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let statuses = pod["status"]["containerStatuses"].as_array();
    statuses.into_iter().flatten().find(|status| status["name"] == name)
}

/// Returns what a container was given by an earlier kubelet, else what it asks for.
fn found(pod: &Value, spec: &Value) -> Value {
    let told = status(pod, text(spec, "/name")).map(|status| &status["resources"]);
    told.filter(|told| !told.is_null()).unwrap_or(&spec["resources"]).clone()
}

/// Whether a pod with what it asks for has room on this host, beside the others; if not, why.
fn fits(kubelet: &Kubelet, pod: &Value) -> Result<(), (&'static str, String)> {
    let capacity = node::capacity();
    let wanted = requested(list(pod).map(|spec| &spec["resources"]));
    let mut used = [0; 2];
    for other in kubelet.pods.list() {
        if uid(&other) == uid(pod) || matches!(text(&other, "/status/phase"), "Succeeded" | "Failed") {
            continue;
        }
        let given = kubelet.workers.with(uid(&other), |memory| memory.resizing.allocated.clone());
        let own = list(&other).map(|spec| given.get(text(spec, "/name")).unwrap_or(&spec["resources"]));
        let amounts = requested(own);
        used = [used[0] + amounts[0], used[1] + amounts[1]];
    }
    // Memory first, as upstream tells it.
    for (index, resource) in [(1, "memory"), (0, "cpu")] {
        let (wanted, capacity) = (wanted[index], capacity[index]);
        if wanted > capacity {
            let why = format!(
                "Node didn't have enough capacity: {resource}, requested: {wanted}, capacity: {capacity}"
            );
            return Err(("Infeasible", why));
        }
    }
    for (index, resource) in COMPUTED.into_iter().enumerate() {
        let (wanted, used, capacity) = (wanted[index], used[index], capacity[index]);
        if wanted + used > capacity {
            let why = format!(
                "Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, capacity: {capacity}"
            );
            return Err(("Deferred", why));
        }
    }
    Ok(())
}

/// Returns thousandths of processors and bytes that containers ask for.
fn requested<'a>(all: impl Iterator<Item = &'a Value>) -> [i64; 2] {
    let mut sum = [0_i64; 2];
    for resources in all {
        let amount =
            |resource: &str| text(&resources["requests"], &format!("/{resource}")).parse::<Quantity>();
        sum[0] += amount("cpu").map_or(0, Quantity::milli);
        sum[1] += amount("memory").map_or(0, Quantity::units);
    }
    sum
}

/// Whether a container has the limits that it is to have.
fn has(own: &Resources, wanted: &Resources) -> bool {
    has_memory(own, wanted) && has_processors(own, wanted)
}

fn has_memory(own: &Resources, wanted: &Resources) -> bool {
    own.memory == wanted.memory
}

fn has_processors(own: &Resources, wanted: &Resources) -> bool {
    (own.cpu_shares, own.cpu_quota) == (wanted.cpu_shares, wanted.cpu_quota)
}

/// Gives a running container what was allocated; returns whether it has it.
async fn actuate(
    kubelet: &Arc<Kubelet>,
    pod: &Arc<Value>,
    spec: &Value,
    containers: &[Container],
    resizing: &mut Resizing,
) -> Result<bool, String> {
    let name = text(spec, "/name");
    let running =
        |container: &&Container| container_name(container) == name && container.phase == Phase::Running;
    let Some(container) = containers.iter().find(running) else {
        return Ok(!resizing.restarting.contains(name));
    };
    let wanted = spec::resources(resizing.allocated.get(name).unwrap_or(&Value::Null));
    let own = &container.spec.resources;
    if has(own, &wanted) {
        resizing.restarting.remove(name);
        return Ok(true);
    }
    let policies = || spec["resizePolicy"].as_array().into_iter().flatten();
    let restarts = |resource: &str| {
        policies().any(|one| one["resourceName"] == resource && one["restartPolicy"] == "RestartContainer")
    };
    if (!has_memory(own, &wanted) && restarts("memory")) || (!has_processors(own, &wanted) && restarts("cpu"))
    {
        if resizing.restarting.insert(name.to_owned()) {
            let message = format!("Container {name} resize requires restart");
            kubelet.events.record(pod, Severity::Normal, "Killing", message);
            // A grace may be long; its end wakes the pod.
            tokio::spawn(end(kubelet.clone(), pod.clone(), container.id.clone()));
        }
        return Ok(false);
    }
    kubelet.engine.update_container(&container.id, wanted).await.map(|()| true).map_err(|why| why.to_string())
}

async fn end(kubelet: Arc<Kubelet>, pod: Arc<Value>, container: String) {
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    if let Err(error) = kubelet.engine.stop_container(&container, grace).await {
        warn!(pod = uid(&pod), container, %error, "cannot stop a container that is to be resized");
        kubelet.workers.with(uid(&pod), |memory| memory.resizing.restarting.clear());
        kubelet.queue.add_after(uid(&pod).to_owned(), AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_summed_in_thousandths_and_bytes() {
        let all = [
            json!({"requests": {"cpu": "100m", "memory": "1Ki"}}),
            json!({"requests": {"cpu": "1"}}),
            json!({}),
        ];
        assert_eq!(requested(all.iter()), [1100, 1024]);
    }

    #[test]
    fn the_status_tells_what_was_allocated() {
        let spec = json!({"name": "c", "resources": {"requests": {"cpu": "2"}}});
        let given = json!({"requests": {"cpu": "1"}});
        let mut resizing = Resizing::default();
        assert_eq!(
            resizing.told(&spec, None, None),
            [json!({"requests": {"cpu": "2"}}), json!({"cpu": "2"})]
        );
        resizing.allocated.insert("c".into(), given.clone());
        assert_eq!(resizing.told(&spec, None, None), [given, json!({"cpu": "1"})]);
        assert_eq!(Resizing::default().told(&json!({"name": "c"}), None, None), [json!({}), Value::Null]);
    }

    #[test]
    fn what_an_earlier_kubelet_gave_is_found() {
        let pod = json!({"status": {"containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
        let spec = json!({"name": "c", "resources": {"requests": {"cpu": "2"}}});
        assert_eq!(found(&pod, &spec), json!({"requests": {"cpu": "1"}}));
        assert_eq!(found(&json!({}), &spec), spec["resources"]);
    }
}
