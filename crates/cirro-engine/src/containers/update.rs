//! Changing a container that exists.

use cirro_seams::container::{Resources, RestartPolicy};

use crate::Engine;
use crate::error::EngineError;
use crate::spec::limits::{self, Moment};

impl Engine {
    /// Changes limits and restart policy; returns warnings.
    pub async fn update_container(
        &self,
        name: &str,
        mut resources: Resources,
        restart: Option<RestartPolicy>,
    ) -> Result<Vec<String>, EngineError> {
        let id = self.find_own(name)?;
        limits::check(&mut resources, &self.shared.host, Moment::Update)?;
        if resources != Resources::default() {
            let text = "update: changing the limits of an existing container is not supported";
            return Err(EngineError::NotSupported(text.into()));
        }
        let _guard = self.lock_container(&id).await?;
        let auto_remove = self.container(&id)?.spec.auto_remove;
        if auto_remove && restart.is_some_and(|policy| policy != RestartPolicy::No) {
            let text = "Restart policy cannot be updated because AutoRemove is enabled for the container";
            return Err(EngineError::Invalid(text.into()));
        }
        let (record, ()) = self.change(&id, |entry| {
            if let Some(policy) = restart {
                entry.record.container.spec.restart = policy;
            }
        })?;
        self.shared.journal.flush().await?;
        self.emit_container("update", &record.container, &[]);
        Ok(Vec::new())
    }
}
