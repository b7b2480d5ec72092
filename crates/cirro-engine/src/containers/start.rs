//! Starting a container: network, files, document, process; each undone when a later one fails.

use cirro_container::{ContainerError, CreateContainer, LogFile, Stdio};
use cirro_seams::container::{Container, MountSource, Phase};

use super::create::open_layers;
use super::network::Joined;
use super::{Record, files};
use crate::error::{EngineError, blocking, io};
use crate::spec::cdi::{self, Injection, Registry};
use crate::spec::devices::{self, HostDevices};
use crate::spec::document::{DocumentInput, document};
use crate::spec::log;
use crate::spec::users::{self, User};
use crate::{Engine, clock, fail};

/// Docker's exit codes for a command that is missing, cannot be run, or whose container could not be made.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
const NOT_STARTED: i32 = 128;

/// Why a start failed, and the exit code that stands for it.
struct StartFailure {
    error: EngineError,
    code: i32,
}

impl From<EngineError> for StartFailure {
    fn from(error: EngineError) -> Self {
        Self { error, code: NOT_STARTED }
    }
}

impl StartFailure {
    /// Puts the supervisor's refusal into docker's words.
    fn of_task(error: ContainerError) -> Self {
        let task = "failed to create task for container";
        let refused = |code, text: String| Self { error: EngineError::Invalid(text), code };
        match error {
            ContainerError::CommandNotFound(text) => refused(NOT_FOUND, format!("{task}: {text}: unknown")),
            ContainerError::CommandNotExecutable(text) => {
                refused(NOT_EXECUTABLE, format!("{task}: {text}: unknown"))
            }
            error => Self { error: EngineError::Failed(format!("{task}: {error}")), code: NOT_STARTED },
        }
    }
}

impl Engine {
    /// Starts it.
    pub async fn start_container(&self, name: &str) -> Result<(), EngineError> {
        let id = self.find_own(name)?;
        self.start_by_hand(&id).await
    }

    /// Starts a container because somebody asked for it.
    pub(crate) async fn start_by_hand(&self, id: &str) -> Result<(), EngineError> {
        let _guard = self.lock_container(id).await?;
        {
            let mut table = self.table();
            let entry = table.get_mut(id).ok_or_else(|| EngineError::no_container(id))?;
            entry.record.stopped_by_hand = false;
            entry.record.container.restart_count = 0;
            entry.restart_plan += 1;
        }
        self.start_locked(id).await
    }

    /// Starts a container whose lock is held. A failed start leaves nothing but its error in the record.
    pub(crate) async fn start_locked(&self, id: &str) -> Result<(), EngineError> {
        let record = self.record(id)?;
        match record.container.phase {
            Phase::Running => return Err(EngineError::NotModified("container is already running".into())),
            Phase::Paused => {
                let text = "cannot start a paused container, try unpause instead";
                return Err(EngineError::Conflict(text.into()));
            }
            Phase::Removing | Phase::Dead => {
                let text = "container is marked for removal and cannot be started";
                return Err(EngineError::Conflict(text.into()));
            }
            Phase::Created | Phase::Restarting | Phase::Exited => {}
        }
        match self.launch(&record).await {
            Ok((pid, joined)) => {
                self.note_start(id, pid, joined)?;
                Ok(())
            }
            Err(failure) => {
                self.undo_start(&record.container).await;
                self.note_failure(id, &failure).await;
                Err(failure.error)
            }
        }
    }

    async fn launch(&self, record: &Record) -> Result<(Option<i32>, Joined), StartFailure> {
        let container = &record.container;
        fail::point("start.begun")?;
        let (request, joined) = self.prepare(record).await?;
        fail::point("start.prepared")?;
        let made = self.shared.supervisor.create(request).await;
        let state = made.map_err(StartFailure::of_task)?;
        fail::point("start.made")?;
        self.join_pending(&container.id).await?;
        let started = self.shared.supervisor.start(&container.id).await;
        started.map_err(StartFailure::of_task)?;
        fail::point("start.started")?;
        Ok((state.pid, joined))
    }

    /// Makes everything that the process needs.
    async fn prepare(&self, record: &Record) -> Result<(CreateContainer, Joined), EngineError> {
        let (engine, looked) = (self.clone(), record.clone());
        self.mount_volumes(&record.container).await?;
        // Both run to their end whatever happens to the other, so that an undo finds nothing half-done.
        let (user, joined) = tokio::join!(
            blocking(move || engine.prepare_root(&looked)),
            self.join_network(&record.container)
        );
        fail::point("start.joined")?;
        let (user, joined) = (user?, joined?);
        Ok((self.task_request(record, &user, &joined).await?, joined))
    }

    /// Makes everything that a process needs that is in no list.
    pub(crate) async fn prepare_task(&self, record: &Record) -> Result<CreateContainer, EngineError> {
        self.prepare(record).await.map(|(request, _)| request)
    }

    /// Makes what must be in the root and finds out who the process is.
    fn prepare_root(&self, record: &Record) -> Result<User, EngineError> {
        let container = &record.container;
        for mount in &container.spec.mounts {
            // A file may be bound, too; what is gone since the creation becomes a directory.
            if let MountSource::Bind { path, create: true } = &mount.source
                && path.symlink_metadata().is_err()
            {
                std::fs::create_dir_all(path).map_err(io(format!("make {}", path.display())))?;
            }
        }
        fail::point("start.bound")?;
        let layers = open_layers(&record.root).map_err(io("open the container's layers"))?;
        let dir = &container.working_dir;
        let below =
            |target: &str| dir == target || dir.starts_with(&format!("{}/", target.trim_end_matches('/')));
        // What lies in a mount of its own is not in the root.
        if dir != "/" && !container.mounts.iter().any(|mount| below(&mount.target)) {
            layers.ensure_dir(dir).map_err(io(format!("make the working directory {dir}")))?;
        }
        let read = |path: &str| match layers.read(path, users::MAX_FILE) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()),
            Err(error) => Err(io(format!("read {path} of the image"))(error)),
        };
        let (spec, group) = (&container.spec, read("/etc/group")?);
        let mut user = users::resolve(&container.user, &spec.additional_gids, &read("/etc/passwd")?, &group)?;
        users::add_groups(&mut user, &spec.additional_groups, &group)?;
        Ok(user)
    }

    /// Writes the container's files and puts its document together.
    async fn task_request(
        &self,
        record: &Record,
        user: &User,
        joined: &Joined,
    ) -> Result<CreateContainer, EngineError> {
        let container = &record.container;
        let hostname = self.hostname_of(container);
        let dir = self.shared.options.container_dir(&container.id);
        let (devices, injection) = self.host_devices(container).await?;
        let links = self.links_of(container)?;
        let input = DocumentInput {
            container,
            user,
            hostname: &hostname,
            joined: self.join_namespaces(container, joined.namespace.clone()).await?,
            files: dir.clone(),
            devices,
            injection,
            links_env: links.env,
            init: self.shared.options.executable.clone(),
            host: &self.shared.host,
        };
        let spec = document(&input)?;
        let (ports, mut own) = (joined.ports.clone(), container.clone());
        own.spec.extra_hosts.extend(links.hosts);
        blocking(move || files::write_files(&dir, &own, &hostname, &ports)).await?;
        let size = self.table().get(&container.id).and_then(|entry| entry.size);
        let asked = &container.spec;
        let log_attributes = log::attributes(container)?;
        Ok(CreateContainer {
            id: container.id.clone(),
            spec,
            rootfs: record.root.clone(),
            stdio: Stdio { tty: asked.tty, stdin: asked.open_stdin, stdin_once: asked.stdin_once, size },
            log: asked.log.keep.then(|| LogFile {
                path: container.log_path.clone(),
                max_size: asked.log.max_size,
                max_files: asked.log.max_files,
                compress: asked.log.compress,
                attributes: log_attributes,
            }),
            cgroup_parent: asked.cgroup_parent.clone(),
        })
    }

    /// Looks up the devices that it asked for, by path and by name.
    async fn host_devices(&self, container: &Container) -> Result<(HostDevices, Injection), EngineError> {
        let spec = &container.spec;
        if !spec.privileged && spec.devices == Default::default() {
            return Ok(Default::default());
        }
        let (asked, privileged) = (spec.devices.clone(), spec.privileged);
        blocking(move || {
            let mut devices = devices::look_up(&asked, privileged)?;
            if asked.cdi.is_empty() {
                return Ok((devices, Injection::default()));
            }
            let mut injection =
                Registry::read(&cdi::DIRECTORIES.map(std::path::Path::new)).inject(&asked.cdi)?;
            devices.nodes.append(&mut injection.devices.nodes);
            if !privileged {
                devices.rules.append(&mut injection.devices.rules);
            }
            Ok((devices, injection))
        })
        .await
    }

    fn note_start(&self, id: &str, pid: Option<i32>, joined: Joined) -> Result<(), EngineError> {
        let (record, ()) = self.change(id, |entry| {
            let container = &mut entry.record.container;
            container.phase = Phase::Running;
            container.pid = pid;
            container.exit_code = None;
            container.oom_killed = false;
            container.error = None;
            container.started_at = Some(clock::now());
            let own = !joined.endpoints.is_empty();
            let published = joined.ports.into_iter().filter(|_| own).flat_map(|port| port.publish);
            container.ports = published.collect();
            container.endpoints = joined.endpoints;
            entry.ended.send_replace(false);
        })?;
        fail::passed("start.noted");
        self.emit_container("start", &record.container, &[]);
        self.watch_health(id, true);
        Ok(())
    }

    /// Takes away what a failed start made; what is not there is no error.
    async fn undo_start(&self, container: &Container) {
        let deleted = self.shared.supervisor.delete(&container.id, true).await;
        if let Err(error) = deleted.or_else(|error| match error {
            ContainerError::NotFound(_) => Ok(()),
            error => Err(error),
        }) {
            tracing::warn!(container = container.id, %error, "process of a failed start not removed");
        }
        fail::passed("start.undone.process");
        if let Err(error) = self.leave_network(container).await {
            tracing::warn!(container = container.id, %error, "network of a failed start not removed");
        }
    }

    async fn note_failure(&self, id: &str, failure: &StartFailure) {
        let noted = self.change(id, |entry| {
            let container = &mut entry.record.container;
            container.error = Some(failure.error.to_string());
            container.exit_code = Some(failure.code);
            container.pid = None;
            container.endpoints = Vec::new();
            container.ports = Vec::new();
            if container.phase != Phase::Created {
                container.phase = Phase::Exited;
            }
            entry.ended.send_replace(true);
            // Their clients see the end of the streams.
            entry.pending.clear();
        });
        let auto_remove = noted.is_ok_and(|(record, ())| record.container.spec.auto_remove);
        if auto_remove && let Err(error) = self.remove_locked(id, true).await {
            tracing::warn!(container = id, %error, "container that failed to start not removed");
        }
    }
}
