//! Which containers of a pod are to be started now.

use cirro_client::{text, uid};
use cirro_seams::container::{Container, Phase};
use serde_json::Value;

use crate::Kubelet;
use crate::pods::{attempt, container_name};

/// A container that is to be started.
pub(crate) struct ContainerPlan {
    /// Its spec in the pod.
    pub(crate) spec: Value,
    /// How often it was started before.
    pub(crate) attempt: u32,
    /// The running container whose processes it sees too.
    pub(crate) beside: Option<String>,
}

impl ContainerPlan {
    /// Plans the run after `last`.
    pub(crate) fn next(spec: Value, last: Option<&Container>) -> Self {
        Self { spec, attempt: last.map_or(0, |last| attempt(last) + 1), beside: None }
    }

    /// The container's name in the pod.
    pub(crate) fn name(&self) -> &str {
        name_of(&self.spec)
    }
}

impl Kubelet {
    /// Returns what is to be started now: what looks at the pod, then the init container whose turn it is, else
    /// every container that does not run and may.
    pub(crate) fn due_plans(&self, pod: &Value, containers: &[Container]) -> Vec<ContainerPlan> {
        let latest = |name: &str| containers.iter().find(|container| container_name(container) == name);
        let policy = text(pod, "/spec/restartPolicy");
        // A look at a pod does not wait for what the pod itself waits for.
        let mut plans = ephemeral(pod, containers);
        let list = |member: &str| pod["spec"][member].as_array().cloned().unwrap_or_default();
        for init in list("initContainers") {
            match latest(name_of(&init)) {
                Some(container) if is_done(container) => continue,
                Some(container) if container.exit_code.is_none() => return plans,
                // A pod whose init failed and may not try again has failed.
                Some(_) if policy == "Never" => return plans,
                last => {
                    plans.push(ContainerPlan::next(init, last));
                    return plans;
                }
            }
        }
        let resizing = self.workers.with(uid(pod), |memory| memory.resizing.clone());
        for mut spec in list("containers") {
            let last = latest(name_of(&spec));
            let wanted = match last {
                None => true,
                Some(container) if container.exit_code.is_none() => {
                    container.pid.is_none() && is_stillborn(container)
                }
                Some(_) if resizing.restarting.contains(name_of(&spec)) => true,
                Some(container) => match policy {
                    "Never" => false,
                    "OnFailure" => container.exit_code != Some(0),
                    _ => true,
                },
            };
            if wanted {
                if let Some(allocated) = resizing.allocated.get(name_of(&spec)) {
                    spec["resources"] = allocated.clone();
                }
                plans.push(ContainerPlan::next(spec, last));
            }
        }
        plans
    }
}

/// Returns the ephemeral containers that never ran: none is started twice.
fn ephemeral(pod: &Value, containers: &[Container]) -> Vec<ContainerPlan> {
    let list = |path: &str| pod.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let latest = |name: &str| containers.iter().find(|container| container_name(container) == name);
    let mut plans = Vec::new();
    for spec in list("/spec/ephemeralContainers") {
        let last = latest(name_of(spec));
        let ran =
            last.is_some_and(|last| last.exit_code.is_some() || last.pid.is_some() || !is_stillborn(last));
        // Its container may be gone since.
        let told = list("/status/ephemeralContainerStatuses").find(|status| status["name"] == spec["name"]);
        if ran || told.is_some_and(|status| !status["state"]["terminated"].is_null()) {
            continue;
        }
        let target =
            latest(text(spec, "/targetContainerName")).filter(|target| target.phase == Phase::Running);
        let beside = target.map(|target| target.id.clone());
        plans.push(ContainerPlan { beside, ..ContainerPlan::next(spec.clone(), last) });
    }
    plans
}

fn name_of(spec: &Value) -> &str {
    text(spec, "/name")
}

fn is_done(container: &Container) -> bool {
    container.exit_code == Some(0)
}

/// Made and never started: its start failed.
fn is_stillborn(container: &Container) -> bool {
    container.phase == Phase::Created
}
