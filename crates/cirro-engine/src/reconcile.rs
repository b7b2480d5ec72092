//! Brings records and reality together after a start: what runs is running, what ended has its exit, and what has no
//! record goes.

use std::collections::{BTreeMap, BTreeSet};

use cirro_container::{Exit, WorkloadPhase, WorkloadState};
use cirro_seams::container::Phase;
use futures_util::future::join_all;

use crate::build::step;
use crate::containers::{Record, create::remove_dir, is_active, restart};
use crate::error::{EngineError, blocking, io};
use crate::node::sandboxes;
use crate::{Engine, clock, fail, instances};

/// An end that nobody saw.
fn unseen() -> Exit {
    Exit { code: None, oom_killed: false, at: clock::now() }
}

impl Engine {
    /// Compares everything, once, before anybody else uses the engine. The supervisor answers when what a killed predecessor asked
    /// for has come to be or is gone, so that once is enough.
    pub(crate) async fn reconcile(&self) -> Result<(), EngineError> {
        let listed = self.shared.supervisor.list().await?;
        let mut workloads: BTreeMap<String, WorkloadState> =
            listed.into_iter().map(|workload| (workload.id.clone(), workload)).collect();
        let ids: Vec<String> = self.containers().into_iter().map(|container| container.id).collect();
        let adopted = ids.into_iter().map(|id| {
            let workload = workloads.remove(&id);
            async move { self.adopt(&id, workload).await }
        });
        join_all(adopted.collect::<Vec<_>>()).await;
        fail::point("reconcile.adopted")?;
        self.adopt_instances(&mut workloads).await;
        // What is left has no record: steps of builds that are gone, containers that were lost before they were noted.
        join_all(workloads.keys().map(|id| self.acknowledge(id))).await;
        fail::point("reconcile.acknowledged")?;
        self.forget_lost_sandboxes();
        self.sweep_network().await?;
        fail::point("reconcile.network")?;
        self.sweep_scratch().await?;
        self.sweep_disk(true).await?;
        self.sweep_volumes().await?;
        fail::point("reconcile.disk")?;
        self.start_wanted();
        Ok(())
    }

    /// Compares what runs with the supervisor's list while the engine works, after events may have been missed.
    pub(crate) async fn compare_workloads(&self) -> Result<(), EngineError> {
        let active: Vec<(String, Option<i32>)> = {
            let table = self.table();
            let running = table.newest_first().filter(|entry| is_active(entry.record.container.phase));
            running.map(|entry| (entry.record.container.id.clone(), entry.record.container.pid)).collect()
        };
        // After the records: what is started meanwhile is not among them.
        let listed = self.shared.supervisor.list().await?;
        let workloads: BTreeMap<_, _> =
            listed.into_iter().map(|workload| (workload.id.clone(), workload)).collect();
        for (id, pid) in active {
            match workloads.get(&id) {
                Some(workload) => {
                    if let Some(exit) = workload.exit.clone() {
                        self.handle_exit(&id, exit).await;
                    }
                }
                // The same run as before the list was made, not a later one.
                None if self.container(&id).is_ok_and(|container| container.pid == pid) => {
                    self.handle_exit(&id, unseen()).await;
                }
                None => {}
            }
        }
        let machines: Vec<String> = {
            let table = self.instance_table();
            table
                .values()
                .filter(|record| record.running)
                .map(|record| instances::workload_id(&record.uid))
                .collect()
        };
        for id in machines {
            match workloads.get(&id).map(|workload| workload.exit.clone()) {
                Some(None) => {}
                Some(Some(exit)) => self.handle_instance_exit(&id, exit).await,
                None => self.handle_instance_exit(&id, unseen()).await,
            }
        }
        Ok(())
    }

    /// Puts one container's record right.
    async fn adopt(&self, id: &str, workload: Option<WorkloadState>) {
        let Ok(_guard) = self.lock_container(id).await else { return };
        let Ok(record) = self.record(id) else { return };
        let was_active = is_active(record.container.phase);
        match workload.map(|workload| (workload.phase, workload)) {
            Some((WorkloadPhase::Running | WorkloadPhase::Paused, workload)) => {
                self.adopt_running(id, &workload)
            }
            Some((WorkloadPhase::Exited, workload)) => {
                if !was_active {
                    // It was started and ended before the start was noted.
                    let _ = self.change(id, |entry| entry.record.container.phase = Phase::Running);
                }
                self.exit_locked(id, workload.exit.unwrap_or_else(unseen)).await;
            }
            Some((WorkloadPhase::Created, _)) => self.undo_half_start(&record).await,
            None if was_active => self.exit_locked(id, unseen()).await,
            None => {}
        }
        let Ok(container) = self.container(id) else { return };
        let lost = container.spec.auto_remove && container.phase == Phase::Exited;
        if (lost || container.phase == Phase::Removing)
            && let Err(error) = self.remove_locked(id, container.spec.auto_remove).await
        {
            tracing::error!(container = id, %error, "half-removed container not removed");
        }
    }

    fn adopt_running(&self, id: &str, workload: &WorkloadState) {
        let Ok(container) = self.container(id) else { return };
        let ports = self.ports_of(&container);
        let endpoints = ports.iter().map(|port| self.endpoint_of(port)).collect();
        let _ = self.change(id, |entry| {
            let container = &mut entry.record.container;
            let paused = workload.phase == WorkloadPhase::Paused;
            container.phase = if paused { Phase::Paused } else { Phase::Running };
            container.pid = workload.pid;
            container.started_at.get_or_insert_with(clock::now);
            container.endpoints = endpoints;
            container.ports = ports.into_iter().flat_map(|port| port.publish).collect();
            entry.ended.send_replace(false);
        });
        if workload.phase == WorkloadPhase::Running {
            self.watch_health(id, false);
        }
    }

    async fn undo_half_start(&self, record: &Record) {
        let container = &record.container;
        self.acknowledge(&container.id).await;
        if let Err(error) = self.leave_network(container).await {
            tracing::error!(container = container.id, %error, "network of a half-started container not removed");
        }
        if is_active(container.phase) {
            self.exit_locked(&container.id, unseen()).await;
        }
    }

    async fn adopt_instances(&self, workloads: &mut BTreeMap<String, WorkloadState>) {
        let known: Vec<String> = self.instance_table().keys().cloned().collect();
        for uid in known {
            let id = instances::workload_id(&uid);
            let exit = match workloads.remove(&id) {
                Some(workload) if workload.exit.is_none() => None,
                Some(workload) => workload.exit,
                None => Some(unseen()),
            };
            let running = self.instance_table().get(&uid).is_some_and(|record| record.running);
            match exit {
                Some(exit) if running => self.handle_instance_exit(&id, exit).await,
                Some(_) => self.acknowledge(&id).await,
                None => {
                    let address = self.shared.network.port(&id).map(|port| port.address);
                    if let Some(record) = self.instance_table().get_mut(&uid) {
                        record.running = true;
                        record.address = address.or(record.address);
                    }
                }
            }
        }
    }

    /// Says whether a namespace or port belongs to something that is there.
    pub(crate) fn owns_network_of(&self, id: &str) -> bool {
        if let Some(uid) = id.strip_prefix(instances::PREFIX) {
            return self.instance_table().contains_key(uid);
        }
        if id.starts_with(sandboxes::PREFIX) {
            let uids: BTreeSet<String> = self.sandboxes().into_iter().map(|sandbox| sandbox.uid).collect();
            return uids
                .iter()
                .any(|uid| sandboxes::port_id(uid) == id || sandboxes::subnet_port_id(uid) == id);
        }
        // A container's ports have its id and the network's.
        let id = id.split('@').next().unwrap_or(id);
        // One that is being worked on has a namespace before it runs and after it ended.
        self.table().get(id).is_some_and(|entry| is_active(entry.record.container.phase) || entry.is_busy())
    }

    /// Lists the network namespaces that have a name of ours and no owner.
    pub(crate) fn stray_namespaces(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.shared.options.namespaces_dir()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // Tenants' VPCs have namespaces there too; the network looks after those.
        let ours = |name: &String| {
            name.starts_with(sandboxes::PREFIX)
                || name.starts_with(step::PREFIX)
                || (name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        names.filter(|name| ours(name) && !self.owns_network_of(name)).collect()
    }

    /// Lists the ports that have no owner.
    pub(crate) fn stray_ports(&self) -> Vec<String> {
        let ports = self.shared.network.ports().into_iter().map(|port| port.id);
        ports.filter(|id| !self.owns_network_of(id)).collect()
    }

    pub(crate) async fn sweep_network(&self) -> Result<(), EngineError> {
        for id in self.stray_ports() {
            tracing::info!(port = id, "port without a workload removed");
            self.shared.network.delete_port(&id).await?;
        }
        for id in self.stray_namespaces() {
            tracing::info!(namespace = id, "network namespace without a workload removed");
            self.shared.network.delete_namespace(&id).await?;
        }
        Ok(())
    }

    /// Lists the directories and roots of containers that neither exist nor are being made. Those of builds' steps are the builder's
    /// own affair, unless no build can be running.
    pub(crate) fn stray_files(&self, steps: bool) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.shared.options.containers_dir()).into_iter().flatten().flatten();
        let mut ids: BTreeSet<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.extend(self.shared.library.roots());
        let table = self.table();
        ids.retain(|id| !table.is_known(id) && (steps || !id.starts_with(step::PREFIX)));
        ids
    }

    /// Removes files of containers that are not there.
    pub(crate) async fn sweep_disk(&self, steps: bool) -> Result<(), EngineError> {
        self.sweep_mounted_volumes().await?;
        let engine = self.clone();
        blocking(move || {
            engine.sweep_shared_memory()?;
            for id in engine.stray_files(steps) {
                tracing::info!(container = id, "files without a container removed");
                engine.shared.library.remove_root(&id)?;
                remove_dir(&engine.shared.options.container_dir(&id))?;
            }
            if engine.shared.options.data_dir.join("machines").exists() {
                engine.sweep_machines()?;
            }
            Ok(())
        })
        .await
    }

    async fn sweep_scratch(&self) -> Result<(), EngineError> {
        let scratch = self.shared.options.scratch_dir();
        let contents = self.shared.options.run_dir.join("build");
        blocking(move || {
            remove_dir(&contents)?;
            for entry in std::fs::read_dir(&scratch).map_err(io("read the scratch directory"))?.flatten() {
                remove_dir(&entry.path())?;
            }
            Ok(())
        })
        .await
    }

    fn sweep_machines(&self) -> Result<(), EngineError> {
        let machines = self.machines()?;
        for uid in machines.list()? {
            if !self.instance_table().contains_key(&uid) {
                tracing::info!(instance = uid, "disk without a machine removed");
                machines.remove(&uid)?;
            }
        }
        Ok(())
    }

    /// Starts what its policy wants running; nobody waits for it.
    fn start_wanted(&self) {
        let wanted: Vec<String> = {
            let table = self.table();
            let wants = |entry: &&crate::containers::Entry| {
                let container = &entry.record.container;
                // Those that ended just now have been planned by their exit already.
                let left_waiting = container.phase == Phase::Restarting && entry.restart_plan == 0;
                let stopped = container.phase == Phase::Exited
                    && restart::wanted_at_startup(container.spec.restart, entry.record.stopped_by_hand);
                left_waiting || stopped
            };
            table.newest_first().filter(wants).map(|entry| entry.record.container.id.clone()).collect()
        };
        for id in wanted {
            let engine = self.clone();
            self.shared.tasks.spawn(async move {
                if let Err(error) = engine.start_by_hand(&id).await {
                    tracing::warn!(container = id, %error, "container not started again");
                }
            });
        }
    }
}
