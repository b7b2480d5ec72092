//! Mounts that a container takes over from others (`--volumes-from`).

use cirro_seams::container::{ContainerSpec, ResolvedMount};

use crate::Engine;
use crate::error::EngineError;

impl Engine {
    /// Collects the volumes and binds of the containers that are named; the first one to have a target wins.
    ///
    /// Source: moby `daemon/volumes.go`, `registerMountPoints`.
    pub(super) fn mounts_from(&self, spec: &ContainerSpec) -> Result<Vec<ResolvedMount>, EngineError> {
        let mut mounts: Vec<ResolvedMount> = Vec::new();
        for (name, read_only) in &spec.volumes_from {
            for mut mount in self.container(name)?.mounts {
                if mount.kind != "tmpfs" && !mounts.iter().any(|other| other.target == mount.target) {
                    mount.read_only |= *read_only;
                    mounts.push(mount);
                }
            }
        }
        Ok(mounts)
    }
}
