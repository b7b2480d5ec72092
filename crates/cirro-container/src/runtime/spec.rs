//! Makes a spec fit the host: what it asks for and the host cannot give is taken out, not insisted on.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process,
    RootBuilder, Spec,
};
use rustix::process::{Resource, getrlimit};

use crate::cgroup::Hierarchies;
use crate::error::ContainerError;

/// What this process may hand on.
#[derive(Debug)]
pub(super) struct Host {
    capabilities: HashSet<Capability>,
    oom_score_adj: i32,
    version_1_cgroups: bool,
    swap_limits: bool,
}

impl Host {
    pub(super) fn detect(hierarchies: &Hierarchies) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            u64::from_str_radix(line.trim(), 16).unwrap_or_default()
        };
        let mask = mask("CapBnd:") & mask("CapPrm:");
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        Self {
            capabilities: NUMBERED
                .iter()
                .filter(|(number, _)| mask >> number & 1 == 1)
                .map(|(_, one)| *one)
                .collect(),
            oom_score_adj: own.trim().parse().unwrap_or_default(),
            version_1_cgroups: hierarchies.has_version_1(),
            swap_limits: hierarchies.limits_swap(),
        }
    }

    fn may_raise_limits(&self) -> bool {
        self.capabilities.contains(&Capability::SysResource)
    }

    /// Makes a whole spec fit, and sets what is ours to say.
    pub(super) fn fit(
        &self,
        spec: &mut Spec,
        rootfs: &Path,
        cgroup: &str,
        tty: bool,
    ) -> Result<(), ContainerError> {
        let read_only = spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false);
        let root = RootBuilder::default().path(rootfs).readonly(read_only).build();
        spec.set_root(Some(root.map_err(|error| ContainerError::runtime("make spec", &error))?));
        if spec
            .hooks()
            .as_ref()
            .is_some_and(|hooks| hooks.poststart().is_some() || hooks.poststop().is_some())
        {
            return Err(ContainerError::State("poststart and poststop hooks are not supported".to_owned()));
        }
        let linux = spec.linux_mut().as_mut().ok_or_else(|| refuse("linux"))?;
        linux.set_cgroups_path(Some(cgroup.into()));
        let resources = linux.resources_mut().as_mut();
        if let Some(memory) =
            resources.and_then(|resources| resources.memory_mut().as_mut()).filter(|_| !self.swap_limits)
        {
            memory.set_swap(None);
        }
        let process = spec.process_mut().as_mut().ok_or_else(|| refuse("process"))?;
        process.set_terminal(Some(tty));
        self.fit_process(process);
        Ok(())
    }

    /// Leaves out what libcontainer gets wrong: it mounts version 1 hierarchies read-write even when asked for `ro`.
    pub(super) fn fit_libcontainer(&self, spec: &mut Spec) {
        if let Some(mounts) = spec.mounts_mut() {
            mounts.retain(|mount| !(self.version_1_cgroups && mount.typ().as_deref() == Some("cgroup")));
        }
    }

    /// Makes a process fit.
    pub(super) fn fit_process(&self, process: &mut Process) {
        if let Some(capabilities) = process.capabilities() {
            let fitting = self.fit_capabilities(capabilities);
            process.set_capabilities(Some(fitting));
        }
        if let Some(limits) = process.rlimits() {
            let fitting = limits.iter().map(|limit| self.fit_limit(*limit)).collect();
            process.set_rlimits(Some(fitting));
        }
        if let Some(score) = process.oom_score_adj() {
            let least = if self.may_raise_limits() { -1000 } else { self.oom_score_adj };
            process.set_oom_score_adj(Some(score.clamp(least, 1000)));
        }
        if process.no_new_privileges() == Some(false) {
            // libcontainer takes "present" for "set" and would load the seccomp filter too late to be allowed to.
            process.set_no_new_privileges(None);
        }
        let mut env = process.env().clone().unwrap_or_default();
        if !env.iter().any(|one| one.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
            // Otherwise the static glibc would ask the container's name service for it, inside the container.
            env.retain(|one| !one.starts_with("HOME="));
            env.push(format!("HOME={}", if process.user().uid() == 0 { "/root" } else { "/" }));
            process.set_env(Some(env));
        }
    }

    fn fit_capabilities(&self, wanted: &LinuxCapabilities) -> LinuxCapabilities {
        let fit = |set: &Option<Capabilities>| -> Option<Capabilities> {
            set.as_ref()
                .map(|set| set.iter().copied().filter(|one| self.capabilities.contains(one)).collect())
        };
        let mut fitting = wanted.clone();
        fitting
            .set_bounding(fit(wanted.bounding()))
            .set_effective(fit(wanted.effective()))
            .set_permitted(fit(wanted.permitted()))
            .set_inheritable(fit(wanted.inheritable()))
            .set_ambient(fit(wanted.ambient()));
        fitting
    }

    fn fit_limit(&self, limit: PosixRlimit) -> PosixRlimit {
        let own = getrlimit(resource(limit.typ())).maximum;
        let hard =
            own.filter(|_| !self.may_raise_limits()).map_or(limit.hard(), |most| limit.hard().min(most));
        let fitting =
            PosixRlimitBuilder::default().typ(limit.typ()).hard(hard).soft(limit.soft().min(hard)).build();
        fitting.unwrap_or(limit)
    }
}

fn refuse(section: &str) -> ContainerError {
    ContainerError::State(format!("the spec has no section `{section}`"))
}

pub(super) fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

/// The names of all capabilities that are known.
pub(crate) fn capability_names() -> Vec<String> {
    NUMBERED.iter().map(|(_, one)| one.to_string()).collect()
}

/// Source: linux/capability.h.
pub(super) const NUMBERED: [(u32, Capability); 41] = [
    (0, Capability::Chown),
    (1, Capability::DacOverride),
    (2, Capability::DacReadSearch),
    (3, Capability::Fowner),
    (4, Capability::Fsetid),
    (5, Capability::Kill),
    (6, Capability::Setgid),
    (7, Capability::Setuid),
    (8, Capability::Setpcap),
    (9, Capability::LinuxImmutable),
    (10, Capability::NetBindService),
    (11, Capability::NetBroadcast),
    (12, Capability::NetAdmin),
    (13, Capability::NetRaw),
    (14, Capability::IpcLock),
    (15, Capability::IpcOwner),
    (16, Capability::SysModule),
    (17, Capability::SysRawio),
    (18, Capability::SysChroot),
    (19, Capability::SysPtrace),
    (20, Capability::SysPacct),
    (21, Capability::SysAdmin),
    (22, Capability::SysBoot),
    (23, Capability::SysNice),
    (24, Capability::SysResource),
    (25, Capability::SysTime),
    (26, Capability::SysTtyConfig),
    (27, Capability::Mknod),
    (28, Capability::Lease),
    (29, Capability::AuditWrite),
    (30, Capability::AuditControl),
    (31, Capability::Setfcap),
    (32, Capability::MacOverride),
    (33, Capability::MacAdmin),
    (34, Capability::Syslog),
    (35, Capability::WakeAlarm),
    (36, Capability::BlockSuspend),
    (37, Capability::AuditRead),
    (38, Capability::Perfmon),
    (39, Capability::Bpf),
    (40, Capability::CheckpointRestore),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn poor_host() -> Host {
        Host {
            capabilities: [Capability::Kill].into_iter().collect(),
            oom_score_adj: 0,
            version_1_cgroups: true,
            swap_limits: false,
        }
    }

    #[test]
    fn a_spec_is_cut_down_to_what_the_host_has() {
        let json = serde_json::json!({
            "ociVersion": "1.0.2", "root": {"path": "x", "readonly": true},
            "process": {
                "user": {"uid": 7, "gid": 7}, "cwd": "/", "args": ["sh"], "env": ["HOME="], "oomScoreAdj": -500,
                "noNewPrivileges": false,
                "capabilities": {"bounding": ["CAP_KILL", "CAP_SYS_RESOURCE"], "permitted": ["CAP_CHOWN"]},
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": u64::MAX, "soft": u64::MAX}]
            },
            "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
                       {"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [], "resources": {"memory": {"limit": 5, "swap": 9}}}
        });
        let mut spec: Spec = serde_json::from_value(json).expect("spec");
        poor_host().fit(&mut spec, Path::new("/r"), "/cloud/id", false).expect("fit");
        assert_eq!(spec.root().as_ref().and_then(|root| root.readonly()), Some(true));
        poor_host().fit_libcontainer(&mut spec);
        assert_eq!(spec.mounts().as_ref().map(Vec::len), Some(1));
        let linux = spec.linux().as_ref().expect("linux");
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/cloud/id")));
        let process = spec.process().as_ref().expect("process");
        assert_eq!(process.env().as_deref(), Some(&["HOME=/".to_owned()][..]));
        assert_eq!((process.oom_score_adj(), process.no_new_privileges()), (Some(0), None));
        let capabilities = process.capabilities().as_ref().expect("capabilities");
        assert_eq!(capabilities.bounding().as_ref().map(HashSet::len), Some(1));
        assert_eq!(capabilities.permitted().as_ref().map(HashSet::len), Some(0));
        let limit = process.rlimits().as_ref().expect("limits")[0];
        assert!(limit.soft() <= limit.hard());
        assert_eq!(Some(limit.hard()).filter(|hard| *hard < u64::MAX), getrlimit(Resource::Nofile).maximum);
    }
}
