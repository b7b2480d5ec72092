//! Changing a container that exists: limits, on the spot when it runs, and the restart policy.
//!
//! Source: moby `daemon/update.go`, `container/container_unix.go` `UpdateContainer`.

use cirro_container::ContainerError;
use cirro_seams::container::{Phase, Resources, RestartPolicy};
use oci_spec::runtime::LinuxResources;

use super::is_active;
use crate::Engine;
use crate::error::EngineError;
use crate::spec::limits::{self, Moment};
use crate::spec::resources;

impl Engine {
    /// Changes limits (those that are set) and restart policy; returns warnings.
    pub async fn update_container(
        &self,
        name: &str,
        change: Resources,
        restart: Option<RestartPolicy>,
    ) -> Result<Vec<String>, EngineError> {
        let id = self.find_own(name)?;
        self.update_by_id(&id, change, restart).await
    }

    /// Changes a container, a pod's too.
    pub(crate) async fn update_by_id(
        &self,
        id: &str,
        mut change: Resources,
        restart: Option<RestartPolicy>,
    ) -> Result<Vec<String>, EngineError> {
        let warnings = limits::check(&mut change, &self.shared.host, Moment::Update)?;
        let _guard = self.lock_container(id).await?;
        let container = self.container(id)?;
        let refused = |text: &str| EngineError::Conflict(format!("Cannot update container {id}: {text}"));
        if matches!(container.phase, Phase::Removing | Phase::Dead) {
            return Err(refused("Container is marked for removal and cannot be \"update\"."));
        }
        if container.spec.auto_remove && restart.is_some_and(|policy| policy != RestartPolicy::No) {
            let text = "Restart policy cannot be updated because AutoRemove is enabled for the container";
            return Err(refused(text));
        }
        let merged = merge(&container.spec.resources, &change).map_err(refused)?;
        if is_active(container.phase) && change != Resources::default() {
            self.set_limits(id, &merged).await?;
        }
        let (record, ()) = self.change(id, |entry| {
            let spec = &mut entry.record.container.spec;
            spec.resources = merged;
            if let Some(policy) = restart {
                spec.restart = policy;
            }
        })?;
        self.shared.journal.flush().await?;
        self.emit_container("update", &record.container, &[]);
        Ok(warnings)
    }

    /// Gives a running container other limits.
    async fn set_limits(&self, id: &str, limits: &Resources) -> Result<(), EngineError> {
        let failed = |text: &dyn std::fmt::Display| {
            EngineError::Failed(format!("Cannot update container {id}: {text}"))
        };
        let document = resources::limits(limits, &self.shared.host)?;
        let document: LinuxResources = serde_json::from_value(document).map_err(|error| failed(&error))?;
        match self.shared.supervisor.update(id, document).await {
            // It has just ended; the next start takes the new limits.
            Ok(()) | Err(ContainerError::NotFound(_)) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// Puts what is set in `change` over `own`.
fn merge(own: &Resources, change: &Resources) -> Result<Resources, &'static str> {
    let sets_quota = change.cpu_period.is_some() || change.cpu_quota.is_some();
    if change.nano_cpus.is_some() && (own.cpu_period.is_some() || own.cpu_quota.is_some()) {
        return Err(
            "Conflicting options: NanoCPUs cannot be updated as CPU Period/Quota has already been set",
        );
    }
    if sets_quota && own.nano_cpus.is_some() {
        return Err(
            "Conflicting options: CPU Period/Quota cannot be updated as NanoCPUs has already been set",
        );
    }
    let swap = own.memory_swap.unwrap_or(0);
    if swap > 0 && change.memory_swap.is_none() && change.memory.is_some_and(|memory| memory > swap) {
        return Err(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        );
    }
    let mut merged = own.clone();
    macro_rules! over {
        ($($field:ident),*) => { $( if change.$field.is_some() { merged.$field.clone_from(&change.$field); } )* };
    }
    over!(memory, memory_swap, memory_reservation, nano_cpus, cpu_shares, cpu_quota, cpu_period, cpuset_cpus);
    over!(cpuset_mems, pids, cpu_realtime_runtime, cpu_realtime_period);
    if change.block_io.weight.is_some() {
        merged.block_io.weight = change.block_io.weight;
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_goes_over_what_was() {
        let own =
            Resources { memory: Some(64), memory_swap: Some(128), pids: Some(9), ..Resources::default() };
        let change = Resources { memory: Some(100), cpu_shares: Some(5), ..Resources::default() };
        let merged = merge(&own, &change).unwrap();
        assert_eq!((merged.memory, merged.memory_swap, merged.pids), (Some(100), Some(128), Some(9)));
        assert_eq!(merged.cpu_shares, Some(5));
        assert_eq!(merge(&own, &Resources::default()).unwrap(), own);
    }

    #[test]
    fn what_contradicts_the_old_is_refused() {
        let own = Resources { memory_swap: Some(128), nano_cpus: Some(1), ..Resources::default() };
        assert!(merge(&own, &Resources { memory: Some(200), ..Resources::default() }).is_err());
        let both = Resources { memory: Some(200), memory_swap: Some(-1), ..Resources::default() };
        assert!(merge(&own, &both).is_ok());
        assert!(merge(&own, &Resources { cpu_quota: Some(5000), ..Resources::default() }).is_err());
        let quota = Resources { cpu_quota: Some(5000), ..Resources::default() };
        assert!(merge(&quota, &Resources { nano_cpus: Some(1), ..Resources::default() }).is_err());
    }
}
