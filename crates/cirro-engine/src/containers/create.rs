//! Making a container: everything that can be refused is refused before the first side effect.

use cirro_container::Rootfs;
use cirro_image::Image;
use cirro_seams::container::{Container, ContainerSpec, IpcMode, NetworkMode, Phase, PidMode, ResolvedMount};

use super::{Entry, Record};
use crate::error::{EngineError, blocking, io};
use crate::journal::CONTAINERS;
use crate::layers::Layers;
use crate::spec::limits::{self, Moment};
use crate::spec::merge::{Merged, merge};
use crate::spec::{capabilities, document, log, resources, seccomp, security};
use crate::{Engine, clock, fail, names, signals};

const MAX_ARGUMENTS: usize = 2 << 20;

/// Refuses what can never be a container's name.
pub(super) fn check_name(name: &str) -> Result<(), EngineError> {
    if names::is_valid(name) {
        return Ok(());
    }
    let text = format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
    Err(EngineError::Invalid(text))
}

/// Refuses what cannot be run, before anything is made.
fn check(spec: &ContainerSpec, merged: &Merged) -> Result<i32, EngineError> {
    if let Some(name) = &spec.name {
        check_name(name)?;
    }
    let bytes: usize = merged.args.iter().chain(&merged.env).map(String::len).sum();
    if bytes > MAX_ARGUMENTS {
        return Err(EngineError::Invalid("arguments and environment are larger than 2 MiB".into()));
    }
    if spec.auto_remove && spec.restart != cirro_seams::container::RestartPolicy::No {
        let text = "can't create 'AutoRemove' container with restart policy";
        return Err(EngineError::Invalid(text.into()));
    }
    for mount in &spec.mounts {
        if !mount.target.starts_with('/') || crate::spec::merge::clean(&mount.target) == "/" {
            let text = format!(
                "invalid mount config: invalid mount path: '{}' mount path must be absolute",
                mount.target
            );
            return Err(EngineError::Invalid(text));
        }
    }
    document::check_sysctls(spec)?;
    let granted = capabilities::choose(&spec.cap_add, &spec.cap_drop, spec.privileged, &[])?;
    if let security::SeccompChoice::Profile(text) = security::parse(&spec.security_opt)?.seccomp {
        seccomp::parse_profile(&text, &granted)?;
    }
    log::check(&spec.log.attributes)?;
    resources::rlimits(spec, &Default::default())?;
    signals::parse(merged.stop_signal.as_deref().filter(|signal| !signal.is_empty()).unwrap_or("TERM"))
}

impl Engine {
    /// Makes a container; returns its id and warnings.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<(String, Vec<String>), EngineError> {
        let image = {
            let (library, name) = (self.shared.library.clone(), spec.image.clone());
            blocking(move || Ok(library.find(&name)?)).await?
        };
        let merged = merge(&spec, &image.config.config)?;
        let stop_signal = check(&spec, &merged)?;
        self.check_references(&spec)?;
        self.check_links(&spec.links)?;
        let mut spec = spec;
        let mut warnings = limits::check(&mut spec.resources, &self.shared.host, Moment::Create)?;
        warnings.extend(self::warnings(&spec));
        let spec = self.with_networks(spec)?;
        let id = names::new_id()?;
        let name = self.take_name(&spec, &id)?;
        match self.make(&id, &name, spec, image, merged, stop_signal).await {
            Ok(()) => Ok((id, warnings)),
            Err(error) => {
                self.table().release(&name);
                self.undo_create(&id).await;
                Err(error)
            }
        }
    }

    /// Reserves the name that was asked for, or a made-up one.
    fn take_name(&self, spec: &ContainerSpec, id: &str) -> Result<String, EngineError> {
        if let Some(name) = &spec.name {
            self.table().reserve(name, id)?;
            return Ok(name.clone());
        }
        loop {
            let name = self.free_name()?;
            if self.table().reserve(&name, id).is_ok() {
                return Ok(name);
            }
        }
    }

    /// Finds the networks that a container is to be on, and refuses what they cannot give.
    fn with_networks(&self, mut spec: ContainerSpec) -> Result<ContainerSpec, EngineError> {
        let mut attachments = spec.attachments();
        for attachment in &mut attachments {
            self.check_attachment(attachment)?;
            let found = self.find_attached(attachment)?;
            if !attachment.network.contains('/') {
                attachment.network = found.name;
                attachment.network_id = Some(found.id);
            }
        }
        spec.networks = Some(attachments);
        Ok(spec)
    }

    /// Refuses containers that do not exist.
    fn check_references(&self, spec: &ContainerSpec) -> Result<(), EngineError> {
        for other in [
            if let NetworkMode::Container(other) = &spec.network { Some(other) } else { None },
            if let PidMode::Container(other) = &spec.pid_mode { Some(other) } else { None },
            if let IpcMode::Container(other) = &spec.namespaces.ipc { Some(other) } else { None },
        ]
        .into_iter()
        .flatten()
        {
            self.find_id(other)?;
        }
        Ok(())
    }

    async fn make(
        &self,
        id: &str,
        name: &str,
        spec: ContainerSpec,
        image: Image,
        merged: Merged,
        stop_signal: i32,
    ) -> Result<(), EngineError> {
        fail::point("create.named")?;
        let dir = self.shared.options.container_dir(id);
        let log_path = dir.join(format!("{id}-json.log"));
        let (engine, own_id, log) = (self.clone(), id.to_owned(), spec.log.keep.then(|| log_path.clone()));
        let image_id = image.id;
        let limit = spec.storage_size;
        let root = blocking(move || engine.make_root(&own_id, &image_id, log, limit)).await?;
        fail::point("create.rooted")?;
        let (mounts, anonymous_volumes) = self.resolve_mounts(&spec, &merged, &root).await?;
        fail::passed("create.mounted");
        let shell = image.config.config.shell.clone();
        let container = new_container(id, name, spec, &image, merged, log_path, mounts);
        let lazily = container.spec.auto_remove;
        let record =
            Record { container, root, stop_signal, stopped_by_hand: false, anonymous_volumes, shell };
        let container = record.container.clone();
        // A container that removes itself is not worth waiting for the disk; it is noted for good when it starts.
        if lazily {
            self.shared.journal.put_lazily(CONTAINERS, id, &record);
            self.table().insert(Entry::new(record));
        } else {
            self.shared.journal.put(CONTAINERS, id, &record);
            self.table().insert(Entry::new(record));
            fail::passed("create.noted");
            if let Err(error) = self.shared.journal.flush().await {
                let forgotten = self.table().remove(id);
                self.shared.journal.delete(CONTAINERS, id);
                self.drop_volumes(&forgotten.map(|entry| entry.record.anonymous_volumes).unwrap_or_default())
                    .await;
                return Err(error);
            }
        }
        fail::passed("create.durable");
        self.emit_container("create", &container, &[]);
        Ok(())
    }

    /// Makes the container's directory, its empty log and its root.
    fn make_root(
        &self,
        id: &str,
        image: &cirro_types::Digest,
        log: Option<std::path::PathBuf>,
        limit: Option<u64>,
    ) -> Result<Rootfs, EngineError> {
        let dir = self.shared.options.container_dir(id);
        std::fs::create_dir_all(&dir).map_err(io(format!("make {}", dir.display())))?;
        fail::point("create.directory")?;
        if let Some(path) = log {
            use std::os::unix::fs::OpenOptionsExt;
            let mut options = std::fs::OpenOptions::new();
            options.create(true).append(true).mode(0o640).open(&path).map_err(io("make the log file"))?;
        }
        fail::point("create.logged")?;
        let root = self.shared.library.create_bounded_root(id, image, limit)?;
        Ok(Rootfs { lower: root.lower, upper: root.upper, work: root.work })
    }

    async fn undo_create(&self, id: &str) {
        let (engine, id) = (self.clone(), id.to_owned());
        let undone = blocking(move || {
            engine.shared.library.remove_root(&id)?;
            remove_dir(&engine.shared.options.container_dir(&id))
        });
        if let Err(error) = undone.await {
            tracing::warn!(%error, "half-made container not removed");
        }
    }
}

/// Removes a directory with all that is in it; no error when there is none.
pub(crate) fn remove_dir(dir: &std::path::Path) -> Result<(), EngineError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io(format!("remove {}", dir.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Opens a root's layers, what was written in it on top.
pub(crate) fn open_layers(root: &Rootfs) -> std::io::Result<Layers> {
    let dirs = std::iter::once(&root.upper).chain(&root.lower);
    Layers::open(dirs.map(|dir| dir.as_path()))
}

fn warnings(spec: &ContainerSpec) -> Vec<String> {
    let discarded = matches!(spec.network, NetworkMode::Host) && !spec.publish.is_empty();
    discarded
        .then(|| "Published ports are discarded when using host network mode".to_owned())
        .into_iter()
        .collect()
}

fn new_container(
    id: &str,
    name: &str,
    spec: ContainerSpec,
    image: &Image,
    merged: Merged,
    log_path: std::path::PathBuf,
    mounts: Vec<ResolvedMount>,
) -> Container {
    Container {
        id: id.to_owned(),
        name: name.to_owned(),
        image_id: image.id.to_string(),
        args: merged.args,
        env: merged.env,
        working_dir: merged.working_dir,
        user: merged.user,
        labels: merged.labels,
        exposed_ports: merged.exposed_ports,
        phase: Phase::Created,
        pid: None,
        exit_code: None,
        oom_killed: false,
        error: None,
        created_at: clock::now(),
        started_at: None,
        finished_at: None,
        health_check: merged.health_check,
        health: None,
        restart_count: 0,
        endpoints: Vec::new(),
        ports: Vec::new(),
        log_path: if spec.log.keep { log_path } else { Default::default() },
        mounts,
        spec,
    }
}
