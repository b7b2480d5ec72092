//! A pod's status from what was observed: a pure function, and the write that follows.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use cirro_client::{key_of, seconds, text, uid};
use cirro_seams::api::Resource;
use cirro_seams::container::{Container, Phase};
use cirro_seams::node::{NodeError, Sandbox};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Kubelet;
use crate::pods::{attempt, container_name};
use crate::probes::Results;
use crate::resize::Resizing;

/// Why a container does not run yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// `ErrImagePull`, `CrashLoopBackOff`, ...
    pub(crate) reason: String,
    /// For a person.
    pub(crate) message: String,
}

/// What a status is computed from, beside the pod.
pub(crate) struct Observed<'a> {
    /// The pod's containers, the newest first.
    pub(crate) containers: &'a [Container],
    /// Its sandbox, once there is one.
    pub(crate) sandbox: Option<&'a Sandbox>,
    /// Why containers wait.
    pub(crate) waiting: &'a HashMap<String, Waiting>,
    /// What the containers have been given.
    pub(crate) resizing: &'a Resizing,
    /// What the probes found.
    pub(crate) probes: &'a Results,
    /// The host's address.
    pub(crate) host_address: Ipv4Addr,
    /// The time of the look.
    pub(crate) now: Timestamp,
}

/// One container's part of the status.
struct ContainerState {
    status: Value,
    ready: bool,
    running: bool,
    exit_code: Option<i32>,
}

/// Computes the status of a pod.
pub(crate) fn compute(pod: &Value, observed: &Observed<'_>) -> Value {
    let states = |member: &str| -> Vec<ContainerState> {
        let specs = pod["spec"][member].as_array().into_iter().flatten();
        specs.map(|spec| container_state(pod, spec, member, observed)).collect()
    };
    let (init, main) = (states("initContainers"), states("containers"));
    let initialized = init.iter().all(|state| state.exit_code == Some(0));
    let phase = phase(pod, &init, &main);
    let ended = matches!(phase, "Succeeded" | "Failed");
    let ready = !ended && initialized && main.iter().all(|state| state.ready);
    let mut status = json!({
        "phase": phase,
        "hostIP": observed.host_address,
        "hostIPs": [{"ip": observed.host_address}],
        "startTime": pod.pointer("/status/startTime").cloned().unwrap_or_else(|| seconds(observed.now).into()),
        "qosClass": qos_class(pod),
        "containerStatuses": main.iter().map(|state| &state.status).collect::<Vec<_>>(),
        "conditions": conditions(pod, observed, &main, initialized, ready, ended),
    });
    if !init.is_empty() {
        status["initContainerStatuses"] = init.iter().map(|state| state.status.clone()).collect();
    }
    let looks = states("ephemeralContainers");
    if !looks.is_empty() {
        status["ephemeralContainerStatuses"] = looks.into_iter().map(|state| state.status).collect();
    }
    let address = observed.sandbox.map(|sandbox| sandbox.address);
    let earlier = text(pod, "/status/podIP").parse::<Ipv4Addr>().ok();
    if let Some(address) = address.or(earlier) {
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{"ip": address}]);
    }
    status
}

/// Writes a status if it says something new.
pub(crate) async fn write(kubelet: &Kubelet, pod: &Arc<Value>, mut status: Value) -> Result<(), NodeError> {
    // The API keeps no nulls: a status with some would seem new for ever.
    drop_nulls(&mut status);
    let members = status.as_object().into_iter().flatten();
    if members.into_iter().all(|(member, value)| pod["status"].get(member) == Some(value)) {
        return Ok(());
    }
    let patch = json!({"metadata": {"uid": uid(pod)}, "status": status});
    match kubelet.api.merge_patch(&key_of(&Resource::new("", "pods"), pod), true, patch).await {
        Ok(written) => {
            kubelet.workers.with(uid(pod), |memory| memory.written = Some(written));
            Ok(())
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(NodeError::Failed(error.to_string())),
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn container_state(pod: &Value, spec: &Value, list: &str, observed: &Observed<'_>) -> ContainerState {
    let name = text(spec, "/name");
    let (init, ephemeral) = (list == "initContainers", list == "ephemeralContainers");
    let mut own = observed.containers.iter().filter(|container| container_name(container) == name);
    let (last, before) = (own.next(), own.next());
    let exit_code = last.filter(|last| last.pid.is_none()).and_then(|last| last.exit_code);
    let running = last.is_some_and(|last| last.phase == Phase::Running || last.phase == Phase::Paused);
    let waiting = observed.waiting.get(name).filter(|_| !running);
    let started = running && (init || observed.probes.started(name));
    let ready = if init { exit_code == Some(0) } else { started && observed.probes.ready(name) };
    let will_run_again = waiting.is_some() && exit_code.is_some();
    let state = match (last, waiting) {
        (Some(last), _) if running => json!({"running": {"startedAt": time(&last.started_at)}}),
        (_, Some(waiting)) => json!({"waiting": {"reason": waiting.reason, "message": waiting.message}}),
        (Some(last), None) if exit_code.is_some() => json!({"terminated": terminated(last)}),
        _ => json!({"waiting": {"reason": waiting_reason(pod, init)}}),
    };
    let former = if will_run_again { last } else { before };
    let last_state = former.filter(|former| former.exit_code.is_some());
    let mut status = json!({
        "name": name,
        "image": spec["image"],
        "imageID": last.map_or("", |last| &last.image_id),
        "containerID": last.map(|last| format!("cirro://{}", last.id)).unwrap_or_default(),
        "state": state,
        "lastState": last_state.map_or_else(|| json!({}), |last| json!({"terminated": terminated(last)})),
        "ready": ready,
        "started": started,
        "restartCount": last.map_or(0, attempt),
    });
    if ephemeral {
        // Nobody waits for it to be ready.
        status["ready"] = false.into();
        status["started"] = Value::Null;
        status["resources"] = json!({});
    } else if !init {
        let before = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        let before = before.into_iter().find(|status| status["name"] == name);
        let [resources, allocated] = observed.resizing.told(spec, last, before);
        status["resources"] = resources;
        status["allocatedResources"] = allocated;
    }
    ContainerState { status, ready, running, exit_code: exit_code.filter(|_| !will_run_again) }
}

/// Upstream's word for a container whose turn has not come.
fn waiting_reason(pod: &Value, init: bool) -> &'static str {
    let has_init = pod["spec"]["initContainers"].as_array().is_some_and(|list| !list.is_empty());
    if has_init || init { "PodInitializing" } else { "ContainerCreating" }
}

fn terminated(container: &Container) -> Value {
    let code = container.exit_code.unwrap_or(0);
    let reason = match (container.oom_killed, code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    };
    let mut state = json!({
        "exitCode": code,
        "reason": reason,
        "startedAt": time(&container.started_at),
        "finishedAt": time(&container.finished_at),
        "containerID": format!("cirro://{}", container.id),
    });
    if let Some(signal) = code.checked_sub(128).filter(|signal| (1..=64).contains(signal)) {
        state["signal"] = signal.into();
    }
    state
}

fn time(text: &Option<String>) -> Value {
    let parsed = text.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    parsed.map_or(Value::Null, |time| seconds(time).into())
}

fn phase(pod: &Value, init: &[ContainerState], main: &[ContainerState]) -> &'static str {
    let policy = text(pod, "/spec/restartPolicy");
    if policy == "Never" && init.iter().any(|state| state.exit_code.is_some_and(|code| code != 0)) {
        return "Failed";
    }
    let ended = |state: &ContainerState| {
        state.exit_code.is_some_and(|code| policy == "Never" || (policy == "OnFailure" && code == 0))
    };
    if !main.is_empty() && main.iter().all(ended) {
        return if main.iter().all(|state| state.exit_code == Some(0)) { "Succeeded" } else { "Failed" };
    }
    // Once every container has been made, the pod runs, whatever becomes of single ones.
    let made = |state: &ContainerState| state.running || state.status["containerID"] != "";
    if main.iter().all(made)
        && main.iter().any(|state| state.running || state.exit_code.is_some() || was_up(state))
    {
        "Running"
    } else {
        "Pending"
    }
}

fn was_up(state: &ContainerState) -> bool {
    state.status["lastState"].get("terminated").is_some()
}

fn conditions(
    pod: &Value,
    observed: &Observed<'_>,
    main: &[ContainerState],
    initialized: bool,
    ready: bool,
    ended: bool,
) -> Vec<Value> {
    let earlier = pod.pointer("/status/conditions").and_then(Value::as_array);
    let earlier = |kind: &str| earlier.into_iter().flatten().find(|condition| condition["type"] == kind);
    let make = |kind: &str, holds: bool, reason: Option<&str>, message: Option<String>| {
        let status = if holds { "True" } else { "False" };
        let same = earlier(kind).filter(|condition| condition["status"] == status);
        let since = same.map(|condition| condition["lastTransitionTime"].clone());
        let mut condition = json!({"type": kind, "status": status, 
            "lastTransitionTime": since.unwrap_or_else(|| seconds(observed.now).into())});
        if let Some(reason) = reason.filter(|_| !holds) {
            condition["reason"] = reason.into();
            condition["message"] = message.unwrap_or_default().into();
        }
        condition
    };
    let unready: Vec<&str> =
        main.iter().filter(|state| !state.ready).map(|state| text(&state.status, "/name")).collect();
    let (reason, message) = if ended {
        ("PodCompleted", String::new())
    } else {
        ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
    };
    let mut conditions = vec![
        make(
            "PodReadyToStartContainers",
            observed.sandbox.is_some() && !ended,
            Some("SandboxNotReady"),
            None,
        ),
        make(
            "Initialized",
            initialized,
            Some("ContainersNotInitialized"),
            Some("containers with incomplete status".into()),
        ),
        make("Ready", ready, Some(reason), Some(message.clone())),
        make("ContainersReady", ready, Some(reason), Some(message)),
        make("PodScheduled", true, None, None),
    ];
    let mut underway = |kind: &str, reason: Option<&str>, message: Option<&str>| {
        let mut condition = make(kind, true, None, None);
        condition["reason"] = reason.into();
        condition["message"] = message.into();
        conditions.push(condition);
    };
    if let Some((reason, message)) = &observed.resizing.pending {
        underway("PodResizePending", Some(reason), Some(message));
    }
    if let Some(failure) = &observed.resizing.progress {
        underway("PodResizeInProgress", failure.as_ref().map(|_| "Error"), failure.as_deref());
    }
    // Conditions of others, such as the disruption target, stay.
    let mut own: Vec<Value> = conditions.iter().map(|condition| condition["type"].clone()).collect();
    own.extend(["PodResizePending".into(), "PodResizeInProgress".into()]);
    let others = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.extend(others.into_iter().flatten().filter(|other| !own.contains(&other["type"])).cloned());
    conditions
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
fn qos_class(pod: &Value) -> &'static str {
    let lists = ["containers", "initContainers"];
    let containers: Vec<&Value> =
        lists.iter().filter_map(|list| pod["spec"][*list].as_array()).flatten().collect();
    let has =
        |container: &Value, kind: &str, resource: &str| !container["resources"][kind][resource].is_null();
    let any = containers.iter().any(|container| {
        ["limits", "requests"]
            .iter()
            .any(|kind| ["cpu", "memory"].iter().any(|resource| has(container, kind, resource)))
    });
    let guaranteed = |container: &&Value| {
        ["cpu", "memory"].iter().all(|resource| {
            let (limit, request) = (
                &container["resources"]["limits"][*resource],
                &container["resources"]["requests"][*resource],
            );
            !limit.is_null() && (request.is_null() || request == limit)
        })
    };
    match (any, containers.iter().all(guaranteed)) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use cirro_seams::container::Owner;

    use super::*;

    fn container(name: &str, attempt: u32, phase: Phase, exit_code: Option<i32>) -> Container {
        let id = format!("{attempt:064}");
        let spec = json!({"owner": {"pod": {"uid": "u", "namespace": "ns", "name": "p", "container": name}}});
        let value = json!({"id": id, "name": format!("k8s_{name}_p_ns_u_{attempt}"), "spec": spec, "image_id": "sha256:1",
            "args": [], "env": [], "working_dir": "/", "user": "", "labels": {}, "exposed_ports": [], "phase": phase,
            "pid": (phase == Phase::Running).then_some(7), "exit_code": exit_code, "oom_killed": false, "error": null,
            "created_at": "2026-01-01T00:00:00Z", "started_at": "2026-01-01T00:00:01.5Z",
            "finished_at": exit_code.map(|_| "2026-01-01T00:00:09Z"), "restart_count": 0, "endpoint": null, "ports": [],
            "log_path": "/l", "mounts": []});
        let container: Container = serde_json::from_value(value).unwrap();
        assert!(matches!(container.spec.owner, Owner::Pod { .. }));
        container
    }

    fn status(policy: &str, containers: &[Container], waiting: &HashMap<String, Waiting>) -> Value {
        let pod = json!({"metadata": {"uid": "u"}, "spec": {"restartPolicy": policy,
            "containers": [{"name": "a", "image": "x"}]}});
        let sandbox = Sandbox { uid: "u".into(), address: Ipv4Addr::new(10, 0, 0, 2) };
        let observed = Observed {
            containers,
            sandbox: Some(&sandbox),
            waiting,
            resizing: &Resizing::default(),
            probes: &Results::default(),
            host_address: Ipv4Addr::new(192, 0, 2, 1),
            now: "2026-01-01T00:00:10Z".parse().unwrap(),
        };
        compute(&pod, &observed)
    }

    #[test]
    fn a_running_pod_without_probes_is_ready() {
        let status = status("Always", &[container("a", 0, Phase::Running, None)], &HashMap::new());
        assert_eq!(status["phase"], "Running");
        assert_eq!(status["podIP"], "10.0.0.2");
        let ready =
            status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Ready").unwrap();
        assert_eq!(ready["status"], "True");
        assert_eq!(status["containerStatuses"][0]["state"]["running"]["startedAt"], "2026-01-01T00:00:01Z");
        assert_eq!(status["qosClass"], "BestEffort");
    }

    #[test]
    fn what_ended_decides_the_phase_by_the_restart_policy() {
        let ended = |code| [container("a", 0, Phase::Exited, Some(code))];
        assert_eq!(status("Never", &ended(0), &HashMap::new())["phase"], "Succeeded");
        assert_eq!(status("Never", &ended(3), &HashMap::new())["phase"], "Failed");
        assert_eq!(status("OnFailure", &ended(3), &HashMap::new())["phase"], "Running");
        let killed = status("Never", &ended(137), &HashMap::new());
        assert_eq!(killed["containerStatuses"][0]["state"]["terminated"]["signal"], 9);
    }

    #[test]
    fn a_crash_loop_shows_why_it_waits_and_how_it_ended() {
        let waiting = Waiting { reason: "CrashLoopBackOff".into(), message: "back-off".into() };
        let waiting = HashMap::from([("a".to_owned(), waiting)]);
        let containers =
            [container("a", 2, Phase::Exited, Some(1)), container("a", 1, Phase::Exited, Some(1))];
        let status = status("Always", &containers, &waiting);
        let shown = &status["containerStatuses"][0];
        assert_eq!(status["phase"], "Running");
        assert_eq!(shown["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(shown["lastState"]["terminated"]["exitCode"], 1);
        assert_eq!(shown["restartCount"], 2);
    }

    #[test]
    fn before_the_first_start_the_pod_is_pending() {
        let status = status("Always", &[], &HashMap::new());
        assert_eq!(status["phase"], "Pending");
        assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
    }
}
