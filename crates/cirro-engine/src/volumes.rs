//! Volumes: directories that outlive containers.

mod copy;
mod sweep;

use std::collections::BTreeMap;
use std::path::PathBuf;

use cirro_seams::container::{ContainerSpec, MountSource, ResolvedMount};
use serde::{Deserialize, Serialize};

use crate::error::{EngineError, blocking, io};
use crate::journal::VOLUMES;
use crate::layers::{Found, Layers};
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
    ) -> Result<Volume, EngineError> {
        let (volume, _) = self.ensure_volume(name, labels).await?;
        self.shared.journal.flush().await?;
        Ok(volume)
    }

    /// Finds or makes a volume; says whether it is new.
    async fn ensure_volume(
        &self,
        name: &str,
        mut labels: BTreeMap<String, String>,
    ) -> Result<(Volume, bool), EngineError> {
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
            return Ok((volume.clone(), false));
        }
        let mountpoint = self.shared.options.volumes_dir().join(&name).join("_data");
        let path = mountpoint.clone();
        blocking(move || std::fs::create_dir_all(&path).map_err(io(format!("make {}", path.display()))))
            .await?;
        fail::passed("volume.made");
        let volume = Volume { name: name.clone(), mountpoint, created_at: clock::now(), labels };
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
        blocking(move || crate::containers::create::remove_dir(&dir)).await?;
        self.volume_table().remove(name);
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
    pub(crate) async fn resolve_mounts<F>(
        &self,
        spec: &ContainerSpec,
        merged: &Merged,
        layers: F,
    ) -> Result<(Vec<ResolvedMount>, Vec<String>), EngineError>
    where
        F: Fn() -> std::io::Result<Layers> + Send + Sync + 'static,
    {
        let (mut mounts, mut anonymous) = (Vec::new(), Vec::new());
        match self.resolve_all(spec, merged, layers, &mut mounts, &mut anonymous).await {
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

    async fn resolve_all<F>(
        &self,
        spec: &ContainerSpec,
        merged: &Merged,
        layers: F,
        mounts: &mut Vec<ResolvedMount>,
        anonymous: &mut Vec<String>,
    ) -> Result<(), EngineError>
    where
        F: Fn() -> std::io::Result<Layers> + Send + Sync + 'static,
    {
        let layers = std::sync::Arc::new(layers);
        let own =
            spec.mounts.iter().map(|mount| (mount.source.clone(), clean(&mount.target), mount.read_only));
        let of_image =
            merged.volumes.iter().map(|target| (MountSource::Volume { name: None }, target.clone(), false));
        for (source, target, read_only) in own.chain(of_image) {
            let resolved = |kind: &str, name: Option<String>, source: PathBuf| ResolvedMount {
                kind: kind.into(),
                name,
                source,
                target: target.clone(),
                read_only,
            };
            match source {
                MountSource::Bind { path, create } => {
                    check_bind(&path, create)?;
                    mounts.push(resolved("bind", None, path));
                }
                MountSource::Tmpfs { .. } => mounts.push(resolved("tmpfs", None, PathBuf::new())),
                MountSource::Volume { name } => {
                    let given = name.clone().unwrap_or_default();
                    let (volume, _) = self.ensure_volume(&given, BTreeMap::new()).await?;
                    if name.is_none() {
                        anonymous.push(volume.name.clone());
                    }
                    mounts.push(resolved("volume", Some(volume.name), volume.mountpoint.clone()));
                    let (layers, target) = (layers.clone(), target.clone());
                    blocking(move || fill(&volume.mountpoint, &target, &*layers)).await?;
                }
            }
        }
        Ok(())
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

/// Copies what the image has at `target` into an empty volume.
fn fill(
    volume: &std::path::Path,
    target: &str,
    layers: &(impl Fn() -> std::io::Result<Layers> + ?Sized),
) -> Result<(), EngineError> {
    let context = || format!("fill the volume for {target}");
    let mut entries = std::fs::read_dir(volume).map_err(io(context()))?;
    if entries.next().is_some() {
        return Ok(());
    }
    let found = layers().and_then(|layers| layers.find(target)).map_err(io(context()))?;
    match found {
        Some(Found::Directory(parts)) => copy::copy_tree(&parts, volume).map_err(io(context())),
        _ => Ok(()),
    }
}
