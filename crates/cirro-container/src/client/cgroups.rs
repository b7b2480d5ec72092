//! What the daemon does to a workload's cgroups by itself: limits and counts.
//!
//! The supervisor has no part in it. It must never block, and the kernel may take its time to take memory back.

use oci_spec::runtime::LinuxResources;

use super::Supervisor;
use crate::cgroup::{Group, Statistics};
use crate::error::ContainerError;

impl Supervisor {
    /// Sets limits of a workload, running or not yet started; what is absent or zero stays as it is.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`], [`ContainerError::State`] for what this host cannot enforce, [`ContainerError::Runtime`] for
    /// what the kernel refuses; what was set before stays set.
    pub async fn update(&self, id: &str, resources: LinuxResources) -> Result<(), ContainerError> {
        self.with_group(id, move |group| {
            if let Some(devices) = resources.devices().as_ref().filter(|devices| !devices.is_empty()) {
                group.set_devices(devices)?;
            }
            group.set_resources(&resources)
        })
        .await
    }

    /// Reads what a workload has used so far, and its limits.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`] when it has ended or never was.
    pub async fn statistics(&self, id: &str) -> Result<Statistics, ContainerError> {
        self.with_group(id, Group::statistics).await
    }

    async fn with_group<T: Send + 'static>(
        &self,
        id: &str,
        work: impl FnOnce(&Group) -> Result<T, ContainerError> + Send + 'static,
    ) -> Result<T, ContainerError> {
        if !crate::arguments::is_safe_name(id) {
            return Err(ContainerError::NotFound(id.to_owned()));
        }
        let (hierarchies, options, id) = (self.hierarchies.clone(), self.options.clone(), id.to_owned());
        let work = move || {
            let own = hierarchies.group(&crate::cgroup::path(&options.name, None, &id));
            if own.exists() {
                return work(&own);
            }
            // It may be below another cgroup than the cloud's, which its record tells.
            let parent = crate::supervisor::cgroup_parent(&options.run_dir, &id);
            let group = parent
                .map(|parent| hierarchies.group(&crate::cgroup::path(&options.name, Some(&parent), &id)));
            match group.filter(Group::exists) {
                Some(group) => work(&group),
                None => Err(ContainerError::NotFound(id)),
            }
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(ContainerError::runtime("work on cgroups", &error)))
    }
}
