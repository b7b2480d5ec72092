//! Which namespaces a container gets: its own, the host's, another container's.

use std::path::{Path, PathBuf};

use cirro_seams::container::{CgroupNamespace, ContainerSpec, IpcMode, PidMode};
use serde_json::{Value, json};

use super::host::HostFacts;

/// Files of namespaces that exist, for a container that joins them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    /// The host's network when absent.
    pub network: Option<PathBuf>,
    /// Another container's pids.
    pub pid: Option<PathBuf>,
    /// Another container's shared memory.
    pub ipc: Option<PathBuf>,
    /// Directory of the host that is the container's `/dev/shm`.
    pub shm: Option<PathBuf>,
}

/// Returns docker's default when nothing was asked for: version 1 has none of its own.
pub(crate) fn cgroup_namespace(spec: &ContainerSpec, host: &HostFacts) -> CgroupNamespace {
    spec.namespaces.cgroup.unwrap_or(match host.cgroup_v2 {
        true => CgroupNamespace::Private,
        false => CgroupNamespace::Host,
    })
}

/// Returns `linux.namespaces`.
pub(crate) fn namespaces(spec: &ContainerSpec, joined: &Joined, host: &HostFacts) -> Value {
    let own = |kind: &str| json!({ "type": kind });
    let joining = |kind: &str, path: &Path| json!({ "type": kind, "path": path });
    let mut all = vec![own("mount")];
    match (&spec.namespaces.ipc, &joined.ipc) {
        (IpcMode::Host, _) => {}
        (IpcMode::Container(_), Some(path)) => all.push(joining("ipc", path)),
        _ => all.push(own("ipc")),
    }
    if !spec.namespaces.host_uts {
        all.push(own("uts"));
    }
    match (&spec.pid_mode, &joined.pid) {
        (PidMode::Host, _) => {}
        (_, Some(path)) => all.push(joining("pid", path)),
        (_, None) => all.push(own("pid")),
    }
    if let Some(path) = &joined.network {
        all.push(joining("network", path));
    }
    if cgroup_namespace(spec, host) == CgroupNamespace::Private {
        all.push(own("cgroup"));
    }
    Value::Array(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cirro_seams::container::Namespaces;

    fn kinds(namespaces: Namespaces, joined: &Joined, host: &HostFacts) -> Vec<String> {
        let spec = ContainerSpec { namespaces, ..ContainerSpec::default() };
        let value = super::namespaces(&spec, joined, host);
        let text = |value: &Value| match value["path"].as_str() {
            Some(path) => format!("{}={path}", value["type"].as_str().unwrap()),
            None => value["type"].as_str().unwrap().to_owned(),
        };
        value.as_array().unwrap().iter().map(text).collect()
    }

    #[test]
    fn each_namespace_is_own_shared_or_the_hosts() {
        let (v1, none) = (HostFacts::default(), Joined::default());
        assert_eq!(kinds(Namespaces::default(), &none, &v1), ["mount", "ipc", "uts", "pid"]);
        let v2 = HostFacts { cgroup_v2: true, ..HostFacts::default() };
        assert_eq!(kinds(Namespaces::default(), &none, &v2), ["mount", "ipc", "uts", "pid", "cgroup"]);
        let host = Namespaces { ipc: IpcMode::Host, host_uts: true, cgroup: Some(CgroupNamespace::Host) };
        assert_eq!(kinds(host, &none, &v2), ["mount", "pid"]);
        let joined = Joined { ipc: Some("/proc/7/ns/ipc".into()), ..Joined::default() };
        let other = Namespaces {
            ipc: IpcMode::Container("x".into()),
            cgroup: Some(CgroupNamespace::Private),
            ..Namespaces::default()
        };
        assert_eq!(kinds(other, &joined, &v1), ["mount", "ipc=/proc/7/ns/ipc", "uts", "pid", "cgroup"]);
    }
}
