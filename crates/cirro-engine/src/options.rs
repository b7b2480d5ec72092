//! Where an engine keeps things and what it may use.

use std::path::PathBuf;

use cirro_image::RegistryOptions;
use cirro_net::NetworkOptions;

use crate::pressure::DiskOptions;

/// Where an engine keeps things and what it may use.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Cloud name.
    pub name: String,
    /// Images, layers, containers, volumes, records.
    pub data_dir: PathBuf,
    /// Sockets, bundles, namespaces.
    pub run_dir: PathBuf,
    /// The executable to start the supervisor with.
    pub executable: PathBuf,
    /// Network ranges.
    pub network: NetworkOptions,
    /// How image registries are reached.
    pub registries: RegistryOptions,
    /// Directory with the guests' kernel; without it, `data_dir/kernel` or one that is installed on the host.
    pub guest_kernel: Option<PathBuf>,
    /// What is kept free of the disk.
    pub disk: DiskOptions,
}

impl EngineOptions {
    /// Returns the directory of a container's files: hosts, hostname, resolv.conf, log.
    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.containers_dir().join(id)
    }

    /// Returns the directory that has one directory per container.
    pub(crate) fn containers_dir(&self) -> PathBuf {
        self.data_dir.join("containers")
    }

    /// Returns the directory that has one directory per volume.
    pub(crate) fn volumes_dir(&self) -> PathBuf {
        self.data_dir.join("volumes")
    }

    /// Returns the directory for what lives no longer than one request.
    pub(crate) fn scratch_dir(&self) -> PathBuf {
        self.data_dir.join("tmp")
    }

    /// Returns the directory of a container's shared memory, when others may join it.
    pub(crate) fn shm_dir(&self, id: &str) -> PathBuf {
        self.shm_root().join(id)
    }

    /// Returns the directory that has one directory per shared memory.
    pub(crate) fn shm_root(&self) -> PathBuf {
        self.run_dir.join("shm")
    }

    /// Returns the file of a network namespace, whether it exists or not.
    pub(crate) fn namespace_path(&self, id: &str) -> PathBuf {
        self.namespaces_dir().join(id)
    }

    /// Returns the directory of the network namespaces' files.
    pub(crate) fn namespaces_dir(&self) -> PathBuf {
        self.network.run_dir.join("netns")
    }
}
