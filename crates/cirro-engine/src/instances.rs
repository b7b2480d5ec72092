//! Virtual machines: a port with a tap, a disk from an image, a QEMU process under the supervisor.

use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use cirro_container::{ContainerError, CreateProcess, Exit, LogFile};
use cirro_machine::{BootRequest, GuestCommand, Machines};
use cirro_net::{CreatePort, PortTarget, SubnetId};
use cirro_seams::node::{InstanceRequest, InstanceState, NodeEvent};
use serde::{Deserialize, Serialize};

use crate::error::{EngineError, blocking, io};
use crate::journal::INSTANCES;
use crate::node::sandboxes::check_uid;
use crate::{Engine, signals};

/// Begins the ids of machines' processes and ports.
pub(crate) const PREFIX: &str = "vm-";
/// How long a guest may take to power off before its process is killed.
const POWER_DOWN: Duration = Duration::from_secs(20);
const KILL_WAIT: Duration = Duration::from_secs(10);
const MAX_CONSOLE: usize = 4 << 20;
const LOG_SIZE: u64 = 1 << 20;

/// What is kept of a machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct InstanceRecord {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub image_id: String,
    pub running: bool,
    pub address: Option<std::net::Ipv4Addr>,
    pub message: Option<String>,
}

impl InstanceRecord {
    fn state(&self) -> InstanceState {
        InstanceState {
            uid: self.uid.clone(),
            running: self.running,
            address: self.address,
            message: self.message.clone(),
        }
    }
}

/// Returns the id of a machine's process and port.
pub(crate) fn workload_id(uid: &str) -> String {
    format!("{PREFIX}{uid}")
}

impl Engine {
    pub(crate) fn instance_table(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<String, InstanceRecord>> {
        self.shared.instances.lock().expect("no panic while it is held")
    }

    /// Returns the part that makes machines.
    pub(crate) fn machines(&self) -> Result<&Machines, EngineError> {
        if let Some(machines) = self.shared.machines.get() {
            return Ok(machines);
        }
        let options = &self.shared.options;
        let opened =
            Machines::open_with_kernel(&options.data_dir, &options.run_dir, options.guest_kernel.clone())?;
        Ok(self.shared.machines.get_or_init(|| opened))
    }

    /// Lists the machines that exist.
    pub(crate) fn instances(&self) -> Vec<InstanceState> {
        self.instance_table().values().map(InstanceRecord::state).collect()
    }

    /// Lists the images that machines are made from: machine and image id.
    pub(crate) fn instance_images(&self) -> Vec<(String, String)> {
        let table = self.instance_table();
        table.values().map(|record| (record.uid.clone(), record.image_id.clone())).collect()
    }

    /// Changes a machine's record; tells the kubelet.
    fn change_instance(&self, uid: &str, change: impl FnOnce(&mut InstanceRecord)) -> Option<InstanceState> {
        let state = {
            let mut table = self.instance_table();
            let record = table.get_mut(uid)?;
            change(record);
            self.shared.journal.put(INSTANCES, uid, record);
            record.state()
        };
        self.tell_node(NodeEvent::Instance(uid.to_owned()));
        Some(state)
    }

    /// Makes or finds a machine and starts it.
    pub(crate) async fn ensure_instance(
        &self,
        request: InstanceRequest,
    ) -> Result<InstanceState, EngineError> {
        check_uid(&request.uid)?;
        let _guard = self.shared.keyed.lock(&workload_id(&request.uid)).await;
        if let Some(record) = self.instance_table().get(&request.uid).filter(|record| record.running) {
            return Ok(record.state());
        }
        let image = self.image(&request.image).await?;
        let record = InstanceRecord {
            uid: request.uid.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            image_id: image.id.to_string(),
            running: false,
            address: None,
            message: None,
        };
        // The record comes first: what a crash leaves of a machine without one would be removed with its disk.
        self.shared.journal.put(INSTANCES, &record.uid, &record);
        self.instance_table().insert(record.uid.clone(), record);
        self.shared.journal.flush().await?;
        let uid = request.uid.clone();
        match self.boot(request, image).await {
            Ok(()) => {
                self.emit_instance("start", &uid, &[]);
                self.instance_table().get(&uid).map(InstanceRecord::state).ok_or_else(|| no_instance(&uid))
            }
            Err(error) => {
                self.acknowledge(&workload_id(&uid)).await;
                if let Err(undo) = self.shared.network.delete_port(&workload_id(&uid)).await {
                    tracing::warn!(instance = uid, error = %undo, "port of a failed machine not removed");
                }
                let text = error.to_string();
                self.change_instance(&uid, |record| {
                    record.running = false;
                    record.address = None;
                    record.message = Some(text);
                });
                Err(error)
            }
        }
    }

    async fn boot(&self, request: InstanceRequest, image: cirro_image::Image) -> Result<(), EngineError> {
        let id = workload_id(&request.uid);
        let subnet = SubnetId::Tenant { namespace: request.namespace.clone(), name: request.subnet.clone() };
        let port = CreatePort {
            names: vec![request.name.clone()],
            groups: request.security_groups.clone(),
            ..CreatePort::new(id.clone(), subnet, PortTarget::Tap)
        };
        let port = self.shared.network.create_port(port).await?;
        let (tap, mtu) = self.shared.network.open_tap(&id).await?;
        let uid = request.uid.clone();
        let (library, machines, boot_id) =
            (self.shared.library.clone(), self.machines()?.clone(), uid.clone());
        let process = blocking(move || {
            let layers = library.layer_dirs(&image.config.rootfs.diff_ids)?;
            let config = &image.config.config;
            let args = config.entrypoint.iter().chain(&config.cmd).cloned().collect();
            Ok(machines.prepare(BootRequest {
                id: boot_id,
                hostname: request.name,
                cpu: request.cpu,
                memory: request.memory,
                command: GuestCommand {
                    args,
                    env: config.env.clone(),
                    working_dir: config.working_dir.clone(),
                    user: config.user.clone(),
                },
                image: image.id.hex(),
                layers,
                tap,
                mac: port.mac,
                mtu,
                user_data: request.user_data,
            })?)
        })
        .await?;
        let (fd_numbers, fds): (Vec<i32>, Vec<OwnedFd>) = process.fds.into_iter().unzip();
        // A machine that ended and was not acknowledged would be in the way.
        self.acknowledge(&id).await;
        let log = LogFile {
            path: self.instance_log(&uid)?,
            max_size: LOG_SIZE,
            max_files: 1,
            ..LogFile::default()
        };
        let process = CreateProcess {
            id,
            args: process.args,
            env: Vec::new(),
            fd_numbers,
            netns: None,
            log: Some(log),
        };
        // Noted before it runs, so that an end that comes at once is noted after it.
        self.change_instance(&uid, |record| {
            record.running = true;
            record.address = Some(port.address);
        });
        self.shared.supervisor.spawn(process, fds).await?;
        Ok(())
    }

    /// Where QEMU's own messages go; the guest's console has a file of its own.
    fn instance_log(&self, uid: &str) -> Result<std::path::PathBuf, EngineError> {
        Ok(self.machines()?.console_path(uid).with_file_name("qemu.log"))
    }

    /// Handles the end of a machine's process.
    pub(crate) async fn handle_instance_exit(&self, id: &str, exit: Exit) {
        let Some(uid) = id.strip_prefix(PREFIX) else { return };
        let message = match exit.code {
            Some(0) => None,
            Some(code) => Some(format!("the machine's process ended with exit code {code}")),
            None => Some("the machine's process ended".to_owned()),
        };
        self.acknowledge(id).await;
        self.change_instance(uid, |record| {
            record.running = false;
            record.message = message;
        });
        self.emit_instance("die", uid, &[("exitCode", &exit.code.unwrap_or(255).to_string())]);
    }

    fn emit_instance(&self, action: &str, uid: &str, attributes: &[(&str, &str)]) {
        let name = self.instance_table().get(uid).map(|record| record.name.clone()).unwrap_or_default();
        let mut all = vec![("name", name.as_str())];
        all.extend_from_slice(attributes);
        self.shared.events.emit("instance", action, uid, &all);
    }

    /// Stops a machine; its disk stays.
    pub(crate) async fn stop_instance(&self, uid: &str) -> Result<(), EngineError> {
        check_uid(uid)?;
        let _guard = self.shared.keyed.lock(&workload_id(uid)).await;
        self.power_off(uid).await
    }

    async fn power_off(&self, uid: &str) -> Result<(), EngineError> {
        // From before the question, so that the end cannot be missed.
        let mut changes = self.shared.node_events.subscribe();
        if !self.instance_table().get(uid).is_some_and(|record| record.running) {
            return Ok(());
        }
        match self.machines()?.power_down(uid).await {
            Ok(()) if self.instance_ended(uid, &mut changes, POWER_DOWN).await => return Ok(()),
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(instance = uid, %error, "machine not asked to power off; it is killed")
            }
        }
        match self.shared.supervisor.kill(&workload_id(uid), signals::KILL, true).await {
            Ok(()) | Err(ContainerError::NotFound(_) | ContainerError::State(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if self.instance_ended(uid, &mut changes, KILL_WAIT).await {
            return Ok(());
        }
        Err(EngineError::Failed(format!("machine {uid} was killed, but did not end")))
    }

    /// Waits until a machine's record says that it ended.
    async fn instance_ended(
        &self,
        uid: &str,
        changes: &mut tokio::sync::broadcast::Receiver<NodeEvent>,
        limit: Duration,
    ) -> bool {
        let ended = async {
            // Missed events are no harm: the record is looked at again.
            while self.instance_table().get(uid).is_some_and(|record| record.running) {
                if let Err(tokio::sync::broadcast::error::RecvError::Closed) = changes.recv().await {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, ended).await.is_ok()
    }

    /// Removes a machine and its disk; no error when there is none.
    pub(crate) async fn remove_instance(&self, uid: &str) -> Result<(), EngineError> {
        check_uid(uid)?;
        let _guard = self.shared.keyed.lock(&workload_id(uid)).await;
        if !self.instance_table().contains_key(uid) {
            return Ok(());
        }
        self.power_off(uid).await?;
        self.acknowledge(&workload_id(uid)).await;
        self.shared.network.delete_port(&workload_id(uid)).await?;
        let (machines, id) = (self.machines()?.clone(), uid.to_owned());
        blocking(move || Ok(machines.remove(&id)?)).await?;
        self.emit_instance("destroy", uid, &[]);
        self.instance_table().remove(uid);
        self.shared.journal.delete(INSTANCES, uid);
        self.tell_node(NodeEvent::Instance(uid.to_owned()));
        self.shared.journal.flush().await
    }

    /// Returns the last bytes of a machine's serial console, at most `limit`.
    pub(crate) async fn instance_console(&self, uid: &str, limit: usize) -> Result<Bytes, EngineError> {
        if !self.instance_table().contains_key(uid) {
            return Err(no_instance(uid));
        }
        let (path, limit) = (self.machines()?.console_path(uid), limit.min(MAX_CONSOLE));
        blocking(move || {
            let mut file = match std::fs::File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Bytes::new()),
                Err(error) => return Err(io("open the console's log")(error)),
            };
            let length = file.metadata().map_err(io("look at the console's log"))?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(limit as u64)))
                .map_err(io("read the console's log"))?;
            let mut bytes = Vec::new();
            file.take(limit as u64).read_to_end(&mut bytes).map_err(io("read the console's log"))?;
            Ok(bytes.into())
        })
        .await
    }
}

fn no_instance(uid: &str) -> EngineError {
    EngineError::NotFound(format!("no machine with uid {uid}"))
}
