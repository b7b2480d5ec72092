//! Containers from start to removal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cirro_seams::container::{Container, ContainerSpec, NetworkMode, Owner, Phase};
use cirro_seams::node::{NodeError, NodeEvent};
use tokio::sync::Notify;

use crate::SimEngine;
use crate::script::{Run, Script, whole_name};
use crate::state::{ContainerEntry, State};

/// The exit code of what was killed.
const KILLED: i32 = 137;
/// The engine's images are told apart by more than their names; here not.
const DIGEST: &str = "sha256:";

impl SimEngine {
    /// Makes a container and starts it.
    pub(crate) async fn start_container(&self, spec: ContainerSpec) -> Result<String, NodeError> {
        let script = self.state().check(&spec)?;
        tokio::time::sleep(script.start).await;
        if let Some(error) = script.start_error {
            return Err(error);
        }
        let run = script.run;
        let (id, uid) = {
            let mut state = self.state();
            // The world may have changed while it started.
            state.check(&spec)?;
            state.add(spec, script, self.now())
        };
        self.tell(NodeEvent::Pod(uid));
        if let Run::Exit { after, code } = run {
            let (engine, id) = (self.clone(), id.clone());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                engine.end_container(&id, code);
            });
        }
        Ok(id)
    }

    /// Asks a container to stop and kills it after the grace.
    pub(crate) async fn stop(&self, id: &str, grace_seconds: i64) -> Result<(), NodeError> {
        let (script, ended) = {
            let mut state = self.state();
            let entry = state.find(id)?;
            if entry.container.pid.is_none() {
                return Ok(());
            }
            (entry.script.clone(), entry.ended.clone())
        };
        let over = ended.notified();
        let grace = Duration::from_secs(grace_seconds.max(0).unsigned_abs());
        let (after, code) = match script.on_stop {
            Some((after, code)) if after <= grace && !grace.is_zero() => (after, code),
            _ => (grace, KILLED),
        };
        // It may end by itself meanwhile.
        if tokio::time::timeout(after, over).await.is_err() {
            self.end_container(id, code);
        }
        Ok(())
    }

    /// Ends a container; returns whether it ran.
    pub(crate) fn end_container(&self, id: &str, code: i32) -> bool {
        let now = self.now();
        let uid = {
            let mut state = self.state();
            let Ok(entry) = state.find(id) else { return false };
            let container = &mut entry.container;
            if container.pid.take().is_none() {
                return false;
            }
            container.phase = Phase::Exited;
            container.exit_code = Some(code);
            container.finished_at = Some(now.to_string());
            entry.ended.notify_waiters();
            pod_uid(container).to_owned()
        };
        self.tell(NodeEvent::Pod(uid));
        true
    }

    /// Removes a container that does not run.
    pub(crate) fn forget_container(&self, id: &str) -> Result<(), NodeError> {
        let uid = {
            let mut state = self.state();
            let container = &state.find(id)?.container;
            if container.pid.is_some() {
                let text = format!(
                    "cannot remove container \"{}\": container is running: stop the container before removing",
                    container.name
                );
                return Err(NodeError::Conflict(text));
            }
            let uid = pod_uid(container).to_owned();
            state.containers.retain(|entry| entry.container.id != id);
            uid
        };
        self.tell(NodeEvent::Pod(uid));
        Ok(())
    }

    /// Removes a sandbox and what runs in it.
    pub(crate) fn forget_sandbox(&self, uid: &str) {
        for container in self.running().into_iter().filter(|container| pod_uid(container) == uid) {
            self.end_container(&container.id, KILLED);
            self.state().containers.retain(|entry| entry.container.id != container.id);
        }
        self.state().sandboxes.remove(uid);
    }
}

impl State {
    /// Refuses what the engine refuses; returns how the container will behave.
    fn check(&self, spec: &ContainerSpec) -> Result<Script, NodeError> {
        let Owner::Pod { uid, container, .. } = &spec.owner else {
            return Err(NodeError::Invalid("a pod's container needs its pod as its owner".into()));
        };
        if spec.network != NetworkMode::Sandbox(uid.clone()) {
            return Err(NodeError::Invalid(
                "a pod's container needs its pod's sandbox as its network".into(),
            ));
        }
        if !self.sandboxes.contains_key(uid) {
            return Err(NodeError::NotFound(format!("no sandbox for the pod with uid {uid}")));
        }
        let image = whole_name(&spec.image);
        if !self.images.contains(&image) {
            return Err(NodeError::NotFound(format!("No such image: {image}")));
        }
        let name = spec.name.as_deref();
        if let Some(other) = self.containers.iter().find(|other| Some(&*other.container.name) == name) {
            let text = format!("the name is taken by container {}", other.container.id);
            return Err(NodeError::Conflict(text));
        }
        let script = self.container_scripts.get(container).or_else(|| self.image_scripts.get(&image));
        Ok(script.cloned().unwrap_or_else(Script::forever))
    }

    fn add(&mut self, spec: ContainerSpec, script: Script, now: jiff::Timestamp) -> (String, String) {
        self.made += 1;
        let number = self.made;
        let id = format!("{number:064x}");
        // No two are made in the same instant: the kubelet orders them by this.
        let created = now + jiff::SignedDuration::from_nanos(i64::try_from(number).unwrap_or(0));
        let command = spec.entrypoint.iter().chain(&spec.command).flatten();
        let container = Container {
            id: id.clone(),
            name: spec.name.clone().unwrap_or_else(|| format!("container-{number}")),
            image_id: format!("{DIGEST}{}", whole_name(&spec.image)),
            args: command.cloned().collect(),
            env: spec.env.clone(),
            working_dir: spec.working_dir.clone().unwrap_or_else(|| "/".into()),
            user: spec.user.clone().unwrap_or_default(),
            labels: spec.labels.clone(),
            exposed_ports: spec.exposed_ports.clone(),
            phase: Phase::Running,
            pid: Some(i32::try_from(number).unwrap_or(i32::MAX)),
            exit_code: None,
            oom_killed: false,
            error: None,
            created_at: created.to_string(),
            started_at: Some(now.to_string()),
            finished_at: None,
            health_check: None,
            health: None,
            restart_count: 0,
            endpoints: Vec::new(),
            ports: Vec::new(),
            log_path: PathBuf::new(),
            mounts: Vec::new(),
            spec,
        };
        let uid = pod_uid(&container).to_owned();
        let log = script.log.clone();
        self.containers.push(ContainerEntry { container, script, log, ended: Arc::new(Notify::new()) });
        (id, uid)
    }

    /// Returns the id of an image in the library.
    pub(crate) fn image_id(&self, name: &str) -> Option<String> {
        let name = whole_name(name);
        self.images.contains(&name).then(|| format!("{DIGEST}{name}"))
    }
}

/// Returns the uid of a container's pod.
pub(crate) fn pod_uid(container: &Container) -> &str {
    match &container.spec.owner {
        Owner::Pod { uid, .. } => uid,
        _ => "",
    }
}
