//! Finds what should not be there, and what should be there and is not; and mends it.
//!
//! Records, the supervisor's workloads, the network, the disk and the kernel are compared pairwise. What is under way looks wrong for
//! a moment, so only what is found twice is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use cirro_container::WorkloadState;
use serde::{Deserialize, Serialize};

use crate::build::step;
use crate::containers::is_active;
use crate::error::{EngineError, blocking};
use crate::{Engine, instances};

/// Between two looks at something that may be under way.
const PAUSE: Duration = Duration::from_millis(150);
/// A busy host may have something under way for a while.
const LOOKS: usize = 20;

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fault {
    /// What it is about: `process`, `cgroup`, `mount`, `namespace`, `link`, `rule`, `address`, `root`, `volume`, `log`, `record`,
    /// `directory`, `socket`, `program`, `disk`.
    pub kind: String,
    /// What is wrong with which one.
    pub text: String,
    /// What mends it.
    pub mend: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

const FIX: &str = "cirro doctor --fix";

fn fault(kind: &str, text: String) -> Fault {
    Fault { kind: kind.into(), text, mend: FIX.into() }
}

impl Engine {
    /// Finds leaks and faults on this host, as texts.
    pub async fn leaks(&self) -> Result<Vec<String>, EngineError> {
        Ok(self.examine().await?.into_iter().map(|fault| fault.text).collect())
    }

    /// Finds leaks and faults on this host.
    pub async fn examine(&self) -> Result<Vec<Fault>, EngineError> {
        let mut found = self.look().await?;
        for _ in 0..LOOKS {
            if found.is_empty() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            let before = std::mem::replace(&mut found, self.look().await?);
            if before == found {
                break;
            }
            found.retain(|fault| before.contains(fault));
        }
        Ok(found)
    }

    /// Removes what has no record, and notes the end of what is gone. Returns what is still wrong then.
    pub async fn mend(&self) -> Result<Vec<Fault>, EngineError> {
        self.shared.supervisor.strays(true).await?;
        for id in self.unknown_workloads(&self.workloads().await?) {
            self.acknowledge(&id).await;
        }
        self.compare_workloads().await?;
        self.sweep_network().await?;
        self.shared.network.mend().await?;
        self.sweep_disk(false).await?;
        self.examine().await
    }

    async fn workloads(&self) -> Result<BTreeMap<String, WorkloadState>, EngineError> {
        let listed = self.shared.supervisor.list().await?;
        Ok(listed.into_iter().map(|workload| (workload.id.clone(), workload)).collect())
    }

    /// One look.
    async fn look(&self) -> Result<Vec<Fault>, EngineError> {
        let strays = self.shared.supervisor.strays(false).await?;
        let mut found: Vec<Fault> = strays
            .into_iter()
            .map(|stray| {
                fault(stray.split(' ').next().unwrap_or_default(), format!("{stray} has no workload"))
            })
            .collect();
        let workloads = self.workloads().await?;
        found.extend(self.compare_records(&workloads));
        found.extend(self.network_faults(&workloads).await?);
        let engine = self.clone();
        found.extend(blocking(move || Ok(engine.disk_faults())).await?);
        found.sort();
        Ok(found)
    }

    /// Workloads without a record. Steps of builds have none while they run.
    fn unknown_workloads(&self, workloads: &BTreeMap<String, WorkloadState>) -> Vec<String> {
        let machines: BTreeSet<String> =
            self.instances().iter().map(|machine| instances::workload_id(&machine.uid)).collect();
        let known = |id: &String| {
            machines.contains(id) || self.table().get(id).is_some() || id.starts_with(step::PREFIX)
        };
        workloads.keys().filter(|id| !known(id)).cloned().collect()
    }

    fn compare_records(&self, workloads: &BTreeMap<String, WorkloadState>) -> Vec<Fault> {
        let mut found = Vec::new();
        for container in self.containers().into_iter().filter(|container| is_active(container.phase)) {
            let id = &container.id;
            match workloads.get(id) {
                None => found.push(fault(
                    "record",
                    format!("container {id} is recorded as running and has no process"),
                )),
                Some(workload) if workload.pid != container.pid => found.push(fault(
                    "record",
                    format!(
                        "container {id} is recorded as process {:?} and is {:?}",
                        container.pid, workload.pid
                    ),
                )),
                Some(_) => {}
            }
            if let Some(pid) = container.pid.filter(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                found.push(fault("process", format!("process {pid} of container {id} does not exist")));
            }
        }
        for machine in self.instances().into_iter().filter(|machine| machine.running) {
            if !workloads.contains_key(&instances::workload_id(&machine.uid)) {
                let text = format!("machine {} is recorded as running and has no process", machine.uid);
                found.push(fault("record", text));
            }
        }
        let unknown = self.unknown_workloads(workloads).into_iter();
        found.extend(unknown.map(|id| fault("process", format!("workload {id} has no record"))));
        found
    }

    async fn network_faults(
        &self,
        workloads: &BTreeMap<String, WorkloadState>,
    ) -> Result<Vec<Fault>, EngineError> {
        let building = |id: &String| id.starts_with(step::PREFIX) && workloads.contains_key(id);
        let mut found = Vec::new();
        for (kind, what, ids) in [
            ("address", "port", self.stray_ports()),
            ("namespace", "network namespace", self.stray_namespaces()),
        ] {
            let strays = ids.into_iter().filter(|id| !building(id));
            found.extend(strays.map(|id| fault(kind, format!("{what} {id} has no workload"))));
        }
        for container in self.containers().into_iter().filter(|container| is_active(container.phase)) {
            let ports: Vec<_> = self.ports_of(&container).iter().map(|port| self.endpoint_of(port)).collect();
            for endpoint in container.endpoints.iter().filter(|endpoint| !ports.contains(endpoint)) {
                let text =
                    format!("container {} is recorded at {} and has no port", container.id, endpoint.address);
                found.push(fault("record", text));
            }
        }
        let engine = self.clone();
        let is_bare = move |id: &str| engine.owns_network_of(id) || id.starts_with(step::PREFIX);
        for leak in self.shared.network.leaks(is_bare).await? {
            let kind = match leak.split(' ').next() {
                Some("link") => "link",
                Some("nftables") => "rule",
                _ => "namespace",
            };
            found.push(fault(kind, leak));
        }
        Ok(found)
    }

    fn disk_faults(&self) -> Vec<Fault> {
        let mut found = Vec::new();
        if let Some(mark) = self.shared.pressure.low() {
            // Without the free bytes, which change from look to look.
            let text =
                format!("the disk is nearly full: less than the low-water mark of {mark} bytes is free");
            let mend = "remove what is not needed: docker system prune, cirro df shows what takes space";
            found.push(Fault { kind: "disk".into(), text, mend: mend.into() });
        }
        for id in self.stray_files(false) {
            found.push(fault("root", format!("files of container {id}, which does not exist")));
        }
        for id in self.stray_shared_memory() {
            found.push(fault("mount", format!("shared memory {id} has no workload")));
        }
        for name in self.idle_mounted_volumes() {
            found.push(fault("mount", format!("volume {name} is mounted and no container uses it")));
        }
        for container in self.containers() {
            let has_log = !container.log_path.as_os_str().is_empty();
            if has_log && is_active(container.phase) && !container.log_path.exists() {
                let text =
                    format!("log {} of container {} is gone", container.log_path.display(), container.id);
                let mend = "restart the container: its output is not kept until then";
                found.push(Fault { kind: "log".into(), text, mend: mend.into() });
            }
        }
        found.extend(self.volume_faults());
        found.extend(self.mount_faults());
        found
    }

    fn volume_faults(&self) -> Vec<Fault> {
        let mut found = Vec::new();
        for volume in self.volumes().iter().filter(|volume| !volume.mountpoint.exists()) {
            let mend =
                format!("docker volume rm {}, or put {} back", volume.name, volume.mountpoint.display());
            found.push(Fault {
                kind: "volume".into(),
                text: format!("volume {} has no directory", volume.name),
                mend,
            });
        }
        for name in self.stray_volumes() {
            let path = self.shared.options.volumes_dir().join(&name);
            let mend = format!("docker volume create {name} takes it over; or remove {}", path.display());
            found.push(Fault {
                kind: "volume".into(),
                text: format!("volume directory {name} has no volume"),
                mend,
            });
        }
        found
    }

    /// Mounts in our directories: namespaces' files, volumes' own and shared memory are all that may be there.
    fn mount_faults(&self) -> Vec<Fault> {
        let options = &self.shared.options;
        // Others look after these.
        let known = [options.namespaces_dir(), options.volumes_dir(), options.shm_root()];
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let targets = text.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
        let ours = targets.filter(|target| {
            let inside = target.starts_with(&options.run_dir) || target.starts_with(&options.data_dir);
            let whole = **target == options.run_dir || **target == options.data_dir;
            inside && !whole && !known.iter().any(|known| target.starts_with(known))
        });
        ours.map(|target| Fault {
            kind: "mount".into(),
            text: format!("mount {} belongs to nothing", target.display()),
            mend: format!("umount {}", target.display()),
        })
        .collect()
    }
}
