//! Directories of volumes that a crash left without a record.

use std::collections::BTreeSet;

use crate::Engine;
use crate::containers::create::remove_dir;
use crate::error::{EngineError, blocking};

impl Engine {
    /// Lists directories that no volume owns.
    pub(crate) fn stray_volumes(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.shared.options.volumes_dir()).into_iter().flatten().flatten();
        let mut names: BTreeSet<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let volumes = self.volume_table();
        names.retain(|name| !name.starts_with('.') && !volumes.contains_key(name));
        names
    }

    /// Removes what a crash left of volumes that were about to be made: those that nobody named, and empty ones. A named one has a
    /// record before anything is in it, so one with something in it was lost otherwise and is somebody's data.
    pub(crate) async fn sweep_volumes(&self) -> Result<(), EngineError> {
        let engine = self.clone();
        blocking(move || {
            for name in engine.stray_volumes() {
                let dir = engine.shared.options.volumes_dir().join(&name);
                let anonymous = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
                if anonymous {
                    tracing::info!(volume = name, "directory without a volume removed");
                    remove_dir(&dir)?;
                } else {
                    let _ = std::fs::remove_dir(dir.join("_data"));
                    let _ = std::fs::remove_dir(&dir);
                }
            }
            Ok(())
        })
        .await
    }
}
