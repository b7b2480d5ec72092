//! Volumes: directories that outlive containers.

mod from;
mod local;
mod mounting;
mod propagation;
mod sweep;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cirro_container::Rootfs;
use cirro_image::files::Files;
use cirro_seams::container::{ContainerSpec, Mount, MountOptions, MountSource, ResolvedMount};
use cirro_sys::mounts::Overlay;
use cirro_sys::views;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::containers::create::open_layers;
use crate::error::{EngineError, blocking, io};
use crate::journal::VOLUMES;
use crate::layers::Found;
use crate::spec::merge::{Merged, clean};
use crate::{Engine, clock, fail, names};

/// Docker's mark of a volume that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// A named or anonymous volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub mountpoint: PathBuf,
    /// RFC 3339.
    pub created_at: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver `local`: `type`, `o`, `device`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

impl Engine {
    /// Lists volumes.
    pub fn volumes(&self) -> Vec<Volume> {
        self.volume_table().values().cloned().collect()
    }

    fn volume_table(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Volume>> {
        self.shared.volumes.lock().expect("no panic while it is held")
    }

    /// Finds or makes a volume (a random name when empty).
    pub async fn create_volume(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<Volume, EngineError> {
        let (volume, _) = self.ensure_volume(name, labels, options).await?;
        self.shared.journal.flush().await?;
        Ok(volume)
    }

    /// Finds or makes a volume; says whether it is new.
    async fn ensure_volume(
        &self,
        name: &str,
        mut labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<(Volume, bool), EngineError> {
        local::check(&options)?;
        let named = !name.is_empty();
        let name = if name.is_empty() {
            labels.insert(ANONYMOUS.into(), String::new());
            names::new_id()?
        } else {
            name.to_owned()
        };
        if !names::is_valid(&name) {
            return Err(EngineError::Invalid(format!(
                "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )));
        }
        let _guard = self.shared.keyed.lock(&format!("volume {name}")).await;
        if let Some(volume) = self.volume_table().get(&name) {
            if !options.is_empty() && options != volume.options {
                return Err(EngineError::Conflict(format!(
                    "create {name}: conflict: volume name must be unique: it exists with other options"
                )));
            }
            return Ok((volume.clone(), false));
        }
        let mountpoint = self.shared.options.volumes_dir().join(&name).join("_data");
        let path = mountpoint.clone();
        blocking(move || std::fs::create_dir_all(&path).map_err(io(format!("make {}", path.display()))))
            .await?;
        fail::passed("volume.made");
        let volume = Volume { name: name.clone(), mountpoint, created_at: clock::now(), labels, options };
        self.shared.journal.put(VOLUMES, &name, &volume);
        self.volume_table().insert(name.clone(), volume.clone());
        fail::passed("volume.noted");
        if named {
            // Before anything is in it: what is in a directory that no record knows is nobody's.
            self.shared.journal.flush().await?;
        }
        self.shared.events.emit("volume", "create", &name, &[("driver", "local")]);
        Ok((volume, true))
    }

    /// Removes a volume; refused while a container uses it.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), EngineError> {
        let _guard = self.shared.keyed.lock(&format!("volume {name}")).await;
        if !self.volume_table().contains_key(name) {
            // `force` is for volumes whose driver lost them; one that is not there is removed already.
            return if force {
                Ok(())
            } else {
                Err(EngineError::NotFound(format!("get {name}: no such volume")))
            };
        }
        let users = self.volume_users(name);
        if !users.is_empty() {
            let text = format!("remove {name}: volume is in use - [{}]", users.join(", "));
            return Err(EngineError::Conflict(text));
        }
        let dir = self.shared.options.volumes_dir().join(name);
        blocking(move || {
            // What is mounted there is somebody else's, and is not removed with it.
            mounting::unmount(&dir.join("_data"))?;
            crate::containers::create::remove_dir(&dir)
        })
        .await?;
        self.volume_table().remove(name);
        self.shared.volume_users.lock().expect("no panic while it is held").remove(name);
        self.shared.journal.delete(VOLUMES, name);
        self.shared.events.emit("volume", "destroy", name, &[("driver", "local")]);
        self.shared.journal.flush().await
    }

    fn volume_users(&self, name: &str) -> Vec<String> {
        let table = self.table();
        let uses = |entry: &&crate::containers::Entry| {
            entry.record.container.mounts.iter().any(|mount| mount.name.as_deref() == Some(name))
        };
        table.newest_first().filter(uses).map(|entry| entry.record.container.id.clone()).collect()
    }

    /// Resolves a container's mounts; makes volumes and fills new ones from the image. Returns the anonymous ones' names too.
    /// On failure the anonymous ones are gone again.
    pub(crate) async fn resolve_mounts(
        &self,
        spec: &ContainerSpec,
        merged: &Merged,
        root: &Rootfs,
    ) -> Result<(Vec<ResolvedMount>, Vec<String>), EngineError> {
        let (mut mounts, mut anonymous) = (Vec::new(), Vec::new());
        match self.resolve_all(spec, merged, root, &mut mounts, &mut anonymous).await {
            Ok(()) => Ok((mounts, anonymous)),
            Err(error) => {
                self.drop_volumes(&anonymous).await;
                Err(error)
            }
        }
    }

    /// Removes volumes of a container that did not come to be.
    pub(crate) async fn drop_volumes(&self, names: &[String]) {
        for name in names {
            if let Err(error) = self.remove_volume(name, true).await {
                tracing::warn!(volume = name, %error, "volume of a half-made container not removed");
            }
        }
    }

    async fn resolve_all(
        &self,
        spec: &ContainerSpec,
        merged: &Merged,
        root: &Rootfs,
        mounts: &mut Vec<ResolvedMount>,
        anonymous: &mut Vec<String>,
    ) -> Result<(), EngineError> {
        let inherited = self.mounts_from(spec)?;
        let taken =
            |target: &str, mounts: &[ResolvedMount]| mounts.iter().any(|mount| mount.target == target);
        for asked in &spec.mounts {
            let target = clean(&asked.target);
            // An anonymous volume gives way to what another container has there.
            if asked.source == (MountSource::Volume { name: None })
                && inherited.iter().any(|mount| mount.target == target)
            {
                continue;
            }
            let (mount, made) = self.resolve_mount(asked, target, root).await?;
            anonymous.extend(made);
            mounts.push(mount);
        }
        for mount in inherited {
            if !taken(&mount.target, mounts) {
                mounts.push(mount);
            }
        }
        for target in &merged.volumes {
            if !taken(target, mounts) {
                let asked = Mount {
                    source: MountSource::Volume { name: None },
                    target: target.clone(),
                    read_only: false,
                    options: MountOptions::default(),
                };
                let (mount, made) = self.resolve_mount(&asked, target.clone(), root).await?;
                anonymous.extend(made);
                mounts.push(mount);
            }
        }
        Ok(())
    }

    /// Resolves one mount; returns the name of the anonymous volume that was made for it, too.
    async fn resolve_mount(
        &self,
        asked: &Mount,
        target: String,
        root: &Rootfs,
    ) -> Result<(ResolvedMount, Option<String>), EngineError> {
        let mut mount = ResolvedMount {
            kind: String::new(),
            name: None,
            source: PathBuf::new(),
            target,
            read_only: asked.read_only,
            options: asked.options.clone(),
        };
        match &asked.source {
            MountSource::Bind { path, create } => {
                check_bind(path, *create)?;
                propagation::check(path, mount.options.propagation)?;
                (mount.kind, mount.source) = ("bind".into(), path.clone());
                Ok((mount, None))
            }
            MountSource::Tmpfs { .. } => {
                mount.kind = "tmpfs".into();
                Ok((mount, None))
            }
            MountSource::Volume { name } => {
                let given = name.clone().unwrap_or_default();
                let options = &asked.options;
                let (volume, _) = self
                    .ensure_volume(&given, options.labels.clone(), options.driver_options.clone())
                    .await?;
                let made = name.is_none().then(|| volume.name.clone());
                let filled = self.use_volume(&volume, &mut mount, root).await;
                if let (Err(_), Some(made)) = (&filled, &made) {
                    self.drop_volumes(std::slice::from_ref(made)).await;
                }
                filled.map(|()| (mount, made))
            }
        }
    }

    async fn use_volume(
        &self,
        volume: &Volume,
        mount: &mut ResolvedMount,
        root: &Rootfs,
    ) -> Result<(), EngineError> {
        (mount.kind, mount.name) = ("volume".into(), Some(volume.name.clone()));
        mount.source = volume.mountpoint.clone();
        if mount.options.no_copy {
            return Ok(());
        }
        let (looked, target) = (root.clone(), mount.target.clone());
        // Most targets are in no image at all, which is cheaper to see than to mount.
        if !blocking(move || has_directory(&looked, &target)).await? {
            return Ok(());
        }
        let _guard = self.shared.keyed.lock(&format!("volume {}", volume.name)).await;
        self.mount_locked(volume).await?;
        let (source, target, root) = (mount.source.clone(), mount.target.clone(), root.clone());
        let at = self.shared.options.scratch_dir();
        let filled = blocking(move || fill(&source, &target, &root, &at)).await;
        let unmounted = self.unmount_unused_locked(volume, None).await;
        filled.and(unmounted)
    }

    /// Returns the bytes that the files of a volume take; none for one whose files are elsewhere.
    pub async fn volume_size(&self, volume: &Volume) -> Result<Option<u64>, EngineError> {
        if !volume.options.is_empty() {
            return Ok(None);
        }
        let path = volume.mountpoint.clone();
        blocking(move || Ok(Some(crate::containers::changes::size_of(&path)))).await
    }
}

fn check_bind(path: &std::path::Path, create: bool) -> Result<(), EngineError> {
    let invalid = |why: &str| EngineError::Invalid(format!("invalid mount config for type \"bind\": {why}"));
    if !path.is_absolute() {
        return Err(invalid(&format!(
            "invalid mount path: '{}' mount path must be absolute",
            path.display()
        )));
    }
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    if !create {
        return Err(invalid(&format!("bind source path does not exist: {}", path.display())));
    }
    std::fs::create_dir_all(path).map_err(io(format!("make {}", path.display())))
}

/// Whether the image has a directory at `target`.
fn has_directory(root: &Rootfs, target: &str) -> Result<bool, EngineError> {
    let context = || format!("look for {target} in the image");
    let layers = open_layers(root).map_err(io(context()))?;
    Ok(matches!(layers.find(target).map_err(io(context()))?, Some(Found::Directory(_))))
}

/// Copies what the image has at `target` into an empty volume.
fn fill(volume: &Path, target: &str, root: &Rootfs, at: &Path) -> Result<(), EngineError> {
    let context = || format!("fill the volume for {target}");
    let mut entries = std::fs::read_dir(volume).map_err(io(context()))?;
    if entries.next().is_some() {
        return Ok(());
    }
    let mut lower = vec![root.upper.clone()];
    lower.extend(root.lower.iter().cloned());
    let overlay = Overlay { lower: &lower, upper: None };
    let image = views::assemble(&overlay, &[], at).map_err(io(context()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let volume =
        rustix::fs::open(volume, flags, Mode::empty()).map_err(|errno| io(context())(errno.into()))?;
    Files::new(image).copy_directory(target, &volume).map(drop).map_err(io(context()))
}
