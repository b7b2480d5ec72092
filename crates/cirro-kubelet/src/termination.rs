//! The end of a pod.
//!
//! ```text
//! deletionTimestamp ─▶ proxy forgets its address ─▶ preStop ─▶ stop signal ─▶ (grace) ─▶ SIGKILL
//!   ─▶ containers, sandbox, volumes removed ─▶ final status ─▶ object deleted with grace 0
//! ```

use std::sync::Arc;
use std::time::Duration;

use cirro_client::{Next, Severity, key_of, text, uid};
use cirro_seams::api::{DeleteOptions, Resource};
use cirro_seams::container::Container;
use cirro_seams::node::{ExecRequest, NodeError};
use serde_json::Value;
use tracing::{debug, warn};

use crate::pods::container_name;
use crate::{Kubelet, volumes};

/// A stop that failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(1);

/// Makes the next step towards a pod's end.
pub(crate) async fn step(
    kubelet: &Arc<Kubelet>,
    pod: &Arc<Value>,
    containers: &[Container],
) -> Result<Next, NodeError> {
    let id = uid(pod);
    kubelet.probes.stop(id);
    if containers.iter().any(|container| container.pid.is_some()) {
        let grace = grace_seconds(pod);
        let begun = kubelet.workers.with(id, |memory| {
            let begun = memory.ending;
            memory.ending = Some(begun.map_or(grace, |begun| begun.min(grace)));
            begun
        });
        // A grace may be long; the worker goes on with other pods meanwhile.
        match begun {
            None => drop(tokio::spawn(stop(kubelet.clone(), pod.clone(), containers.to_vec()))),
            Some(begun) if grace < begun => {
                for container in containers.iter().filter(|container| container.pid.is_some()) {
                    tokio::spawn(hurry(kubelet.clone(), id.to_owned(), container.id.clone(), grace));
                }
            }
            Some(_) => {}
        }
        return Ok(Next::Wait);
    }
    // What it ended with is told before it goes.
    kubelet.write_status(pod, containers, None).await?;
    clean_up(kubelet, id, containers).await?;
    let options =
        DeleteOptions { uid: Some(id.to_owned()), grace_period_seconds: Some(0), ..DeleteOptions::default() };
    match kubelet.api.delete(&key_of(&Resource::new("", "pods"), pod), options).await {
        Err(error) if !error.is_not_found() && error.code != 409 => Err(NodeError::Failed(error.to_string())),
        _ => Ok(Next::Wait),
    }
}

/// Removes everything of a pod that the API does not have any more.
pub(crate) async fn clean_up(kubelet: &Kubelet, id: &str, containers: &[Container]) -> Result<(), NodeError> {
    kubelet.probes.stop(id);
    for container in containers {
        if container.pid.is_some() {
            kubelet.engine.stop_container(&container.id, 0).await?;
        }
        match kubelet.engine.remove_container(&container.id).await {
            Err(NodeError::NotFound(_)) | Ok(()) => {}
            Err(error) => return Err(error),
        }
    }
    kubelet.engine.remove_sandbox(id).await?;
    volumes::remove(kubelet, id)
        .map_err(|error| NodeError::Failed(format!("remove the pod's volumes: {error}")))?;
    kubelet.workers.forget(id);
    Ok(())
}

fn grace_seconds(pod: &Value) -> i64 {
    pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30)
}

/// Stops a container that is being stopped already, with the shorter grace of a second deletion.
async fn hurry(kubelet: Arc<Kubelet>, pod: String, container: String, grace: i64) {
    if let Err(error) = kubelet.engine.stop_container(&container, grace).await {
        warn!(pod, container, %error, "cannot stop a container sooner");
    }
}

async fn stop(kubelet: Arc<Kubelet>, pod: Arc<Value>, containers: Vec<Container>) {
    let id = uid(&pod).to_owned();
    let grace = grace_seconds(&pod);
    let address = text(&pod, "/status/podIP").parse();
    if let (Ok(address), true) = (address, grace > 0) {
        kubelet.plane.forgotten(address).await;
    }
    let mut stops = tokio::task::JoinSet::new();
    for container in containers.into_iter().filter(|container| container.pid.is_some()) {
        let (kubelet, pod) = (kubelet.clone(), pod.clone());
        stops.spawn(async move {
            let name = container_name(&container).to_owned();
            kubelet.events.record(&pod, Severity::Normal, "Killing", format!("Stopping container {name}"));
            let begun = tokio::time::Instant::now();
            let hook = pre_stop(&kubelet, &pod, &container);
            let limit = Duration::from_secs(grace.max(0).unsigned_abs());
            if tokio::time::timeout(limit, hook).await.is_err() && grace > 0 {
                warn!(pod = uid(&pod), container = name, "preStop did not end within the grace");
            }
            // What the hook took is taken from the grace; at least two seconds are left, as upstream does.
            let used = i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
            let left = if grace == 0 { 0 } else { (grace - used).max(2) };
            kubelet.engine.stop_container(&container.id, left).await
        });
    }
    let mut failed = false;
    while let Some(stopped) = stops.join_next().await {
        if let Ok(Err(error)) = stopped {
            warn!(pod = id, %error, "cannot stop a container");
            failed = true;
        }
    }
    kubelet.workers.with(&id, |memory| memory.ending = None);
    if failed {
        kubelet.queue.add_after(id, AGAIN);
    } else {
        kubelet.queue.add(id);
    }
}

/// Runs a container's preStop hook.
async fn pre_stop(kubelet: &Kubelet, pod: &Arc<Value>, container: &Container) {
    let specs = pod["spec"]["containers"].as_array().into_iter().flatten();
    let spec = specs.into_iter().find(|spec| spec["name"] == container_name(container));
    let Some(hook) = spec.and_then(|spec| spec.pointer("/lifecycle/preStop")).filter(|hook| !hook.is_null())
    else {
        return;
    };
    if let Some(seconds) = hook.pointer("/sleep/seconds").and_then(Value::as_u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    } else if let Some(command) = hook.pointer("/exec/command").and_then(Value::as_array) {
        let command = command.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let request = ExecRequest { command, stdout: true, stderr: true, ..ExecRequest::default() };
        match kubelet.engine.exec(&container.id, request).await {
            Ok(mut session) => while session.output.recv().await.is_some() {},
            Err(error) => debug!(%error, "preStop failed"),
        }
    } else {
        let message = "preStop: only exec and sleep are supported yet";
        kubelet.events.record(pod, Severity::Warning, "FailedPreStopHook", message);
    }
}
