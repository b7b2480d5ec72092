//! The mounts of a container: docker's default ones, its own, its three files.

use std::path::Path;

use cirro_container::SUBPATH;
use cirro_seams::container::{ContainerSpec, IpcMode, Mount, MountSource, Propagation, ResolvedMount};
use serde_json::{Value, json};

use super::host::HostFacts;

/// Bytes of shared memory when nothing else is asked for.
pub(crate) const SHM_SIZE: u64 = 64 << 20;
const SHM: &str = "/dev/shm";

/// What is hidden from a container (moby `oci/defaults.go`).
pub(crate) const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What a container may only read (moby `oci/defaults.go`).
pub(crate) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where a container that wants one has its init.
pub(crate) const INIT: &str = "/sbin/docker-init";

/// Mounts our executable as the container's init.
pub(crate) fn init(executable: &Path) -> Value {
    mount(INIT, "bind", &executable.to_string_lossy(), &["bind", "ro", "nosuid", "nodev"])
}

/// Returns what is hidden and what is read-only: the request's, else docker's; nothing for the privileged.
pub fn system_paths(spec: &ContainerSpec) -> (Vec<String>, Vec<String>) {
    let or_default = |own: &Option<Vec<String>>, default: &[&str]| match own {
        Some(own) => own.clone(),
        None if spec.privileged => Vec::new(),
        None => default.iter().map(|path| (*path).to_owned()).collect(),
    };
    (or_default(&spec.system_paths.masked, &MASKED), or_default(&spec.system_paths.read_only, &READ_ONLY))
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": kind, "source": source, "options": options })
}

/// Returns every mount of a container, in the order they are made. `files` has its hosts, hostname and resolv.conf;
/// `shm` is the directory of the host that is its shared memory, when that is not its own.
pub(crate) fn mounts(
    spec: &ContainerSpec,
    own: &[ResolvedMount],
    files: &Path,
    shm: Option<&Path>,
    host: &HostFacts,
) -> Vec<Value> {
    let mut all = defaults(spec, host);
    match (&spec.namespaces.ipc, shm) {
        (IpcMode::None, _) => all.retain(|mount| mount["destination"] != SHM),
        (_, Some(source)) => {
            all.retain(|mount| mount["destination"] != SHM);
            all.push(mount(SHM, "bind", &source.to_string_lossy(), &["rbind", "rprivate", "rw"]));
        }
        (_, None) => {}
    }
    for (name, target) in FILES {
        let source = files.join(name);
        all.push(mount(target, "bind", &source.to_string_lossy(), &["rbind", "rprivate", "rw"]));
    }
    let mut own: Vec<_> = own.iter().collect();
    // A mount below another one's target comes after it.
    own.sort_by_key(|mount| mount.target.matches('/').count());
    for resolved in own {
        all.retain(|present| present["destination"] != resolved.target.as_str());
        all.push(own_mount(spec, resolved, host));
    }
    all
}

/// The files that the engine keeps for a container, and where it sees them.
pub(crate) const FILES: [(&str, &str); 3] =
    [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")];

fn defaults(spec: &ContainerSpec, host: &HostFacts) -> Vec<Value> {
    let shm = format!("size={}", spec.shm_size.unwrap_or(SHM_SIZE));
    let sysfs_access = if spec.privileged { "rw" } else { "ro" };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sysfs_access]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
    ];
    // On version 1 the runtime would mount every hierarchy writable in spite of `ro` (SUPERVISOR.md section 7).
    if host.cgroup_v2 {
        let options = ["nosuid", "noexec", "nodev", sysfs_access];
        all.insert(4, mount("/sys/fs/cgroup", "cgroup", "cgroup", &options));
    }
    all
}

/// Whether a mount gets what the host mounts later, for which the root must let it through.
pub(crate) fn want_slave(own: &[ResolvedMount]) -> bool {
    own.iter().any(|mount| matches!(mount.options.propagation, Propagation::Slave | Propagation::RSlave))
}

fn own_mount(spec: &ContainerSpec, resolved: &ResolvedMount, host: &HostFacts) -> Value {
    let asked = &resolved.options;
    if resolved.kind != "tmpfs" {
        let bind = if asked.non_recursive { "bind" } else { "rbind" };
        // What is mounted below the source would else be a way to write.
        let recursive = host.recursive_read_only && !asked.read_only_non_recursive;
        // A source that the host has mounted read-only stays so: nothing is said of a mount that may be written to.
        let access = match resolved.read_only {
            true if recursive => Some("rro"),
            true => Some("ro"),
            false => None,
        };
        let subpath = asked.subpath.as_ref().map(|subpath| format!("{SUBPATH}{subpath}"));
        let mut options = vec![bind, asked.propagation.as_str()];
        options.extend(access);
        options.extend(subpath.as_deref());
        return mount(&resolved.target, "bind", &resolved.source.to_string_lossy(), &options);
    }
    let access = if resolved.read_only { "ro" } else { "rw" };
    let mut options = vec!["noexec".to_owned(), "nosuid".into(), "nodev".into(), access.into()];
    for word in &asked.tmpfs {
        // `exec` takes the `noexec` away that docker begins with, and so on.
        let bare = word.strip_prefix("no").unwrap_or(word);
        options.retain(|option| option.strip_prefix("no").unwrap_or(option) != bare);
        options.push(word.clone());
    }
    let (size, mode) = tmpfs_options(&spec.mounts, &resolved.target);
    options.push(format!("mode={:o}", mode.unwrap_or(0o1777)));
    options.extend(size.map(|size| format!("size={size}")));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    mount(&resolved.target, "tmpfs", "tmpfs", &options)
}

fn tmpfs_options(asked: &[Mount], target: &str) -> (Option<u64>, Option<u32>) {
    let of = |mount: &Mount| match mount.source {
        MountSource::Tmpfs { size, mode } if super::merge::clean(&mount.target) == target => {
            Some((size, mode))
        }
        _ => None,
    };
    asked.iter().find_map(of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(mounts: &'a [Value], target: &str) -> Option<&'a Value> {
        mounts.iter().find(|mount| mount["destination"] == target)
    }

    #[test]
    fn a_plain_container_has_dockers_mounts_and_no_cgroups_of_version_1() {
        let all = mounts(&ContainerSpec::default(), &[], Path::new("/c"), None, &HostFacts::default());
        let targets: Vec<_> = all.iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
        assert_eq!(
            targets,
            [
                "/proc",
                "/dev",
                "/dev/pts",
                "/sys",
                "/dev/mqueue",
                "/dev/shm",
                "/etc/resolv.conf",
                "/etc/hostname",
                "/etc/hosts"
            ]
        );
        assert!(find(&all, "/sys").unwrap()["options"].as_array().unwrap().contains(&json!("ro")));
        assert!(
            find(&all, "/dev/shm").unwrap()["options"].as_array().unwrap().contains(&json!("size=67108864"))
        );
        let v2 = HostFacts { cgroup_v2: true, ..HostFacts::default() };
        assert!(
            find(&mounts(&ContainerSpec::default(), &[], Path::new("/c"), None, &v2), "/sys/fs/cgroup")
                .is_some()
        );
    }

    #[test]
    fn shared_memory_is_own_anothers_or_none_and_system_paths_are_asked_for() {
        let with = |ipc: IpcMode, shm: Option<&Path>| {
            let mut spec = ContainerSpec::default();
            spec.namespaces.ipc = ipc;
            mounts(&spec, &[], Path::new("/c"), shm, &HostFacts::default())
        };
        assert!(find(&with(IpcMode::None, None), "/dev/shm").is_none());
        let shared = with(IpcMode::Shareable, Some(Path::new("/run/shm/x")));
        assert_eq!(find(&shared, "/dev/shm").unwrap()["source"], "/run/shm/x");
        let mut spec = ContainerSpec::default();
        assert_eq!(system_paths(&spec).0.len(), MASKED.len());
        spec.system_paths.masked = Some(Vec::new());
        spec.system_paths.read_only = Some(vec!["/proc/x".into()]);
        assert_eq!(system_paths(&spec), (Vec::new(), vec!["/proc/x".to_owned()]));
        spec = ContainerSpec { privileged: true, ..ContainerSpec::default() };
        assert_eq!(system_paths(&spec), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_read_only_bind_is_so_with_what_is_below_it_where_the_kernel_can() {
        let options = |flat: bool, host: &HostFacts| {
            let resolved = ResolvedMount {
                kind: "volume".into(),
                name: None,
                source: "/v".into(),
                target: "/a".into(),
                read_only: true,
                options: cirro_seams::container::MountOptions {
                    read_only_non_recursive: flat,
                    subpath: Some("in/it".into()),
                    ..Default::default()
                },
            };
            own_mount(&ContainerSpec::default(), &resolved, host)["options"].clone()
        };
        let host = HostFacts { recursive_read_only: true, ..HostFacts::default() };
        let subpath = format!("{SUBPATH}in/it");
        assert_eq!(options(false, &host), json!(["rbind", "rprivate", "rro", subpath]));
        assert_eq!(options(true, &host)[2], "ro");
        assert_eq!(options(false, &HostFacts::default())[2], "ro");
    }

    #[test]
    fn own_mounts_come_parents_first_and_replace_ours() {
        let resolved = |kind: &str, target: &str| ResolvedMount {
            kind: kind.into(),
            name: None,
            source: "/host".into(),
            target: target.into(),
            read_only: true,
            options: Default::default(),
        };
        let spec = ContainerSpec {
            mounts: vec![Mount {
                source: MountSource::Tmpfs { size: Some(4096), mode: None },
                target: "/t/".into(),
                read_only: false,
                options: Default::default(),
            }],
            ..ContainerSpec::default()
        };
        let own = [
            resolved("bind", "/a/b"),
            resolved("bind", "/a"),
            resolved("bind", "/etc/hosts"),
            resolved("tmpfs", "/t"),
        ];
        let all = mounts(&spec, &own, Path::new("/c"), None, &HostFacts::default());
        let place = |target: &str| all.iter().position(|mount| mount["destination"] == target).unwrap();
        assert!(place("/a") < place("/a/b"));
        assert_eq!(all.iter().filter(|mount| mount["destination"] == "/etc/hosts").count(), 1);
        assert_eq!(find(&all, "/etc/hosts").unwrap()["source"], "/host");
        assert!(find(&all, "/t").unwrap()["options"].as_array().unwrap().contains(&json!("size=4096")));
    }
}
