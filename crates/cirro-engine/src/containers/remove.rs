//! Removing containers.

use cirro_seams::container::{Container, Owner, Phase};

use super::changes::size_of;
use super::create::remove_dir;
use super::{is_active, wait};
use crate::error::{EngineError, blocking};
use crate::journal::CONTAINERS;
use crate::{Engine, fail};

impl Engine {
    /// Removes it (`force`: kills it first; `volumes`: its anonymous volumes too).
    pub async fn remove_container(&self, name: &str, force: bool, volumes: bool) -> Result<(), EngineError> {
        let id = self.find_own(name)?;
        self.remove_by_id(&id, force, volumes).await?;
        self.shared.journal.flush().await
    }

    /// Removes a container, a pod's too.
    pub(crate) async fn remove_by_id(&self, id: &str, force: bool, volumes: bool) -> Result<(), EngineError> {
        let container = self.container(id)?;
        if container.phase == Phase::Removing && !force {
            let text = format!("removal of container {} is already in progress", container.name);
            return Err(EngineError::Conflict(text));
        }
        if is_active(container.phase) || container.phase == Phase::Restarting {
            if !force {
                let what = if container.phase == Phase::Paused { "paused" } else { "running" };
                let text = format!(
                    "cannot remove container \"{}\": container is {what}: stop the container before removing or force remove",
                    container.name
                );
                return Err(EngineError::Conflict(text));
            }
            self.kill_and_wait(id).await?;
        }
        let _guard = match self.lock_container(id).await {
            Ok(guard) => guard,
            // It removed itself at its end.
            Err(_) if force => return Ok(()),
            Err(error) => return Err(error),
        };
        let phase = self.container(id)?.phase;
        if is_active(phase) {
            let text = format!("cannot remove container \"{}\": it was started meanwhile", container.name);
            return Err(EngineError::Conflict(text));
        }
        self.remove_locked(id, volumes).await
    }

    /// Removes a container that does not run and whose lock is held.
    pub(crate) async fn remove_locked(&self, id: &str, volumes: bool) -> Result<(), EngineError> {
        self.begin_removal(id)?;
        fail::passed("remove.begun");
        let removed = self.remove_files(id).await;
        self.finish_removal(id, volumes, removed).await
    }

    /// Notes that a container is going; only in memory, since a removal that a crash ends is begun again.
    pub(super) fn begin_removal(&self, id: &str) -> Result<(), EngineError> {
        let mut table = self.table();
        let entry = table.get_mut(id).ok_or_else(|| EngineError::no_container(id))?;
        entry.record.container.phase = Phase::Removing;
        entry.restart_plan += 1;
        Ok(())
    }

    /// Removes a container's root and directory.
    pub(crate) async fn remove_files(&self, id: &str) -> Result<(), EngineError> {
        let (engine, id) = (self.clone(), id.to_owned());
        blocking(move || {
            engine.shared.library.remove_root(&id)?;
            fail::passed("remove.root");
            remove_dir(&engine.shared.options.container_dir(&id))
        })
        .await
    }

    /// Forgets a container whose files are removed; one whose files are not is dead.
    pub(super) async fn finish_removal(
        &self,
        id: &str,
        volumes: bool,
        removed: Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        if let Err(error) = removed {
            let text = error.to_string();
            let _ = self.change(id, |entry| {
                entry.record.container.phase = Phase::Dead;
                entry.record.container.error = Some(text);
            });
            return Err(error);
        }
        fail::passed("remove.files");
        let entry = self.table().remove(id).ok_or_else(|| EngineError::no_container(id))?;
        self.shared.journal.delete(CONTAINERS, id);
        self.forget_execs(id);
        if volumes {
            self.drop_volumes(&entry.record.anonymous_volumes).await;
        }
        fail::passed("remove.forgotten");
        let container = entry.record.container;
        self.emit_container("destroy", &container, &[]);
        entry.ended.send_replace(true);
        wait::answer_all(entry.waiters, i64::from(container.exit_code.unwrap_or(0)));
        Ok(())
    }

    /// Removes stopped containers (not pods') that `wanted` takes; returns ids and bytes given back.
    pub async fn prune_containers(
        &self,
        wanted: impl Fn(&Container) -> bool,
    ) -> Result<(Vec<String>, u64), EngineError> {
        let stopped: Vec<_> = {
            let table = self.table();
            let prunable = |entry: &&super::Entry| {
                let container = &entry.record.container;
                matches!(container.phase, Phase::Created | Phase::Exited | Phase::Dead)
                    && container.spec.owner == Owner::Docker
                    && wanted(container)
            };
            let found = table.newest_first().filter(prunable);
            found.map(|entry| (entry.record.container.id.clone(), entry.record.root.upper.clone())).collect()
        };
        let (mut ids, mut bytes) = (Vec::new(), 0);
        for (id, upper) in stopped {
            let size = blocking(move || Ok(size_of(&upper))).await?;
            match self.remove_by_id(&id, false, false).await {
                Ok(()) => {
                    bytes += size;
                    ids.push(id);
                }
                // Started or removed meanwhile.
                Err(EngineError::Conflict(_) | EngineError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.shared.journal.flush().await?;
        self.collect_soon();
        Ok((ids, bytes))
    }
}
