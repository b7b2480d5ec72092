//! Limits of a workload: from the OCI document's `linux.resources` to values in cgroup files.
//!
//! What is to be written is decided apart from the writing ([`settings`]). A limit that the host cannot enforce is refused;
//! three things are left out instead, as dockerd does: limits of swap on hosts that do not count it, weights of block devices
//! without a scheduler that knows them, and reservations of huge pages before Linux 5.7. Zero stands for "not set", as in Docker's
//! requests.

mod settings;

use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxMemory, LinuxResources};

use self::settings::{Need, Setting};
use super::{Group, Home, Version};
use crate::error::ContainerError;

impl Group {
    /// Sets what is given and leaves the rest as it is; on a running workload too. Devices are
    /// [`set_devices`](Group::set_devices)' business.
    ///
    /// # Errors
    /// [`ContainerError::State`] for what this host cannot enforce, [`ContainerError::Runtime`] for what the kernel refuses; what
    /// was set before stays set.
    pub(crate) fn set_resources(&self, resources: &LinuxResources) -> Result<(), ContainerError> {
        if let Some(memory) = resources.memory() {
            self.set_memory(memory)?;
        }
        if let Some(cpu) = resources.cpu() {
            self.set_in("cpu", |version| settings::cpu(cpu, version))?;
            self.set_in("cpuset", |_| Ok(settings::cpuset(cpu)))?;
        }
        if let Some(pids) = resources.pids() {
            self.set_in("pids", |_| Ok(settings::pids(pids)))?;
        }
        if let Some(block) = resources.block_io() {
            self.set_in("blkio", |version| Ok(settings::block(block, version)))?;
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            self.set_in("hugetlb", |version| settings::huge(limit, version))?;
        }
        if let Some(network) = resources.network() {
            self.set_in("net_cls", |version| Ok(settings::network_class(network, version)))?;
            self.set_in("net_prio", |version| Ok(settings::network_priorities(network, version)))?;
        }
        if let Some(rdma) = resources.rdma() {
            self.set_in("rdma", |_| Ok(settings::rdma(rdma)))?;
        }
        match resources.unified() {
            Some(unified) if !unified.is_empty() => self.set_unified(&settings::unified(unified)?),
            _ => Ok(()),
        }
    }

    fn set_in(
        &self,
        controller: &str,
        settings: impl Fn(Version) -> Result<Vec<Setting>, ContainerError>,
    ) -> Result<(), ContainerError> {
        let home = self.home(controller);
        let version = home.as_ref().map_or(Version::One, Home::version);
        let settings = settings(version)?;
        match home {
            Some(home) => write_all(home.directory(), &settings),
            None if settings.iter().all(|setting| setting.need == Need::WhereThere) => Ok(()),
            None => Err(ContainerError::State(format!("the host has no cgroup controller `{controller}`"))),
        }
    }

    fn set_memory(&self, memory: &LinuxMemory) -> Result<(), ContainerError> {
        match self.home("memory") {
            Some(Home::Version1(directory)) => {
                check_before_update(memory, &directory.join("memory.usage_in_bytes"))?;
                let (mut limits, rest) = settings::memory_version_1(memory);
                // Memory never above memory and swap together: which goes first depends on the old values.
                if write_all(&directory, &limits).is_err() {
                    limits.reverse();
                    write_all(&directory, &limits)?;
                }
                write_all(&directory, &rest)
            }
            Some(Home::Unified(directory)) => {
                check_before_update(memory, &directory.join("memory.current"))?;
                let limit = || Some(read(&directory.join("memory.max"))?.parse().unwrap_or(-1));
                write_all(&directory, &settings::memory_version_2(memory, limit)?)
            }
            None if settings::memory_version_1(memory).0.is_empty() => Ok(()),
            None => Err(ContainerError::State("the host has no cgroup controller `memory`".to_owned())),
        }
    }

    fn set_unified(&self, settings: &[Setting]) -> Result<(), ContainerError> {
        let directory = self.unified().ok_or_else(|| {
            ContainerError::State("unified resources need cgroup version 2, which the host lacks".to_owned())
        })?;
        write_all(&directory, settings)
    }
}

fn check_before_update(memory: &LinuxMemory, usage: &Path) -> Result<(), ContainerError> {
    let Some(limit) = memory.limit().filter(|limit| *limit > 0) else { return Ok(()) };
    if memory.check_before_update() != Some(true) {
        return Ok(());
    }
    match read(usage).and_then(|text| text.parse::<u64>().ok()) {
        Some(usage) if usage > limit as u64 => Err(ContainerError::State(format!(
            "unable to set memory limit to {limit} (current usage: {usage})"
        ))),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn write_all(directory: &Path, settings: &[Setting]) -> Result<(), ContainerError> {
    for setting in settings {
        write_one(directory, setting)?;
    }
    Ok(())
}

fn write_one(directory: &Path, setting: &Setting) -> Result<(), ContainerError> {
    let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
    for name in &setting.files {
        result = write(&directory.join(name.as_ref()), &setting.value);
        if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            break;
        }
    }
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound && setting.need == Need::WhereThere => Ok(()),
        Err(error) => {
            Err(ContainerError::runtime(&format!("set {} to `{}`", setting.files[0], setting.value), &error))
        }
        Ok(()) => Ok(()),
    }
}

/// Without creating the file: on a directory that is no cgroup that would go unnoticed.
fn write(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    std::fs::File::options().write(true).open(path)?.write_all(value.as_bytes())
}
