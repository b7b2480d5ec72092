//! Everything that builds images, each with the base image.

use std::path::Path;

use super::{Buildah, Cloud, Dockerd, docker, image};

/// Ours and its peers, until they are dropped.
pub(crate) struct Builders {
    pub(crate) cloud: Cloud,
    pub(crate) dockerd: Dockerd,
    pub(crate) buildah: Buildah,
}

impl Builders {
    /// Starts them; buildah keeps its files in `work`.
    pub(crate) fn start(binary: &Path, work: &Path) -> anyhow::Result<Self> {
        let archive = image("busybox")?;
        let cloud = Cloud::new(binary)?;
        cloud.start_roles("engine,faces")?;
        let dockerd = Dockerd::start()?;
        let buildah = Buildah::new(work)?;
        for host in [&cloud.docker_host(), &dockerd.host] {
            docker(host, &["load", "-q", "-i", &archive])?;
        }
        buildah.load(&archive)?;
        Ok(Self { cloud, dockerd, buildah })
    }
}
