//! A bundle of somebody else: reads its `config.json` and makes every path in it stand for itself.

use std::io;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Hook, Linux, LinuxNamespaceType, Mount, Spec};

use super::error::CliError;
use super::store::read_bounded;

/// Generous: docker's longest are some 100 KiB.
const MAX_CONFIG: u64 = 16 << 20;

/// A bundle that was read.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) path: PathBuf,
    pub(super) rootfs: PathBuf,
    /// Without the hooks below, and with absolute paths only.
    pub(super) spec: Spec,
    pub(super) poststart: Vec<Hook>,
    pub(super) poststop: Vec<Hook>,
}

impl Bundle {
    /// Reads the bundle at a path.
    pub(super) fn load(path: &Path) -> Result<Self, CliError> {
        let path = path.canonicalize().map_err(|source| CliError::Read { path: path.to_owned(), source })?;
        let file = path.join("config.json");
        let bytes = read_bounded(&file, MAX_CONFIG).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => {
                CliError::Bundle("JSON specification file config.json not found".to_owned())
            }
            _ => CliError::Read { path: file.clone(), source },
        })?;
        let spec: Spec =
            serde_json::from_slice(&bytes).map_err(|source| CliError::Parse { path: file, source })?;
        Self::of(path, spec)
    }

    fn of(path: PathBuf, mut spec: Spec) -> Result<Self, CliError> {
        if !spec.version().starts_with("1.") {
            let text = format!("ociVersion {:?} is not supported, only 1.x is", spec.version());
            return Err(CliError::Bundle(text));
        }
        let process = spec.process().as_ref();
        let process =
            process.ok_or_else(|| CliError::Bundle("process property must not be empty".to_owned()))?;
        if process.args().as_ref().is_none_or(Vec::is_empty) {
            return Err(CliError::Bundle("args must not be empty".to_owned()));
        }
        if !process.cwd().is_absolute() {
            return Err(CliError::Bundle("Cwd must be an absolute path".to_owned()));
        }
        let root = spec.root().as_ref();
        let root = root.ok_or_else(|| CliError::Bundle("Root.Path must be set".to_owned()))?;
        let rootfs = path.join(root.path());
        let rootfs = rootfs.canonicalize().map_err(|source| CliError::Read { path: rootfs, source })?;
        for mount in spec.mounts_mut().iter_mut().flatten() {
            make_source_absolute(mount, &path);
            check_proc(mount)?;
        }
        if spec.linux().is_none() {
            spec.set_linux(Some(Linux::default()));
        }
        let (mut poststart, mut poststop) = (Vec::new(), Vec::new());
        if let Some(hooks) = spec.hooks_mut() {
            poststart = hooks.poststart_mut().take().unwrap_or_default();
            poststop = hooks.poststop_mut().take().unwrap_or_default();
        }
        Ok(Self { path, rootfs, spec, poststart, poststop })
    }

    /// The container's path in every cgroup hierarchy.
    pub(super) fn cgroup(&self, id: &str) -> Result<String, CliError> {
        let wanted = self.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        cgroup_path(wanted, id)
    }

    /// Whether the container has processes of its own only.
    pub(super) fn has_own_pid_namespace(&self) -> bool {
        let namespaces = self.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        namespaces
            .into_iter()
            .flatten()
            .any(|one| one.typ() == LinuxNamespaceType::Pid && one.path().is_none())
    }
}

fn make_source_absolute(mount: &mut Mount, bundle: &Path) {
    let bound = |option: &String| matches!(option.as_str(), "bind" | "rbind");
    let is_bind = mount.typ().as_deref() == Some("bind")
        || mount.options().as_ref().is_some_and(|options| options.iter().any(bound));
    if let Some(source) = mount.source().as_ref().filter(|source| is_bind && source.is_relative()) {
        let source = bundle.join(source);
        mount.set_source(Some(source));
    }
}

/// Files below `/proc` that containers are given others for (lxcfs and its like).
const REPLACEABLE: [&str; 12] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
    "version",
];

/// Source: linux/magic.h.
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// What the kernel is told through `/proc` (labels, sysctls, the OOM score) must reach the kernel, and nobody's files
/// (CVE-2019-16884, CVE-2025-52881).
fn check_proc(mount: &Mount) -> Result<(), CliError> {
    let names = normal_names(mount.destination());
    let Some(("proc", below)) = names.split_first().map(|(first, below)| (first.as_str(), below)) else {
        return Ok(());
    };
    if !below.is_empty() {
        let text = format!("{} cannot be mounted because it is inside /proc", mount.destination().display());
        let replaceable = REPLACEABLE.contains(&below.join("/").as_str());
        return if replaceable { Ok(()) } else { Err(CliError::Bundle(text)) };
    }
    let is_proc = |source: &PathBuf| {
        rustix::fs::statfs(source.as_path()).is_ok_and(|system| system.f_type as u64 == PROC_SUPER_MAGIC)
    };
    if mount.typ().as_deref() == Some("proc") || mount.source().as_ref().is_some_and(is_proc) {
        return Ok(());
    }
    Err(CliError::Bundle("/proc cannot be mounted because it is not of type proc".to_owned()))
}

/// A path's names without `.`, and without what `..` takes back.
fn normal_names(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(names.pop()),
            _ => {}
        }
    }
    names
}

/// The path without `.` and `..`, which would lead out of the hierarchy.
fn cgroup_path(wanted: Option<&Path>, id: &str) -> Result<String, CliError> {
    let Some(wanted) = wanted.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(format!("/cirro-runtime-{id}"));
    };
    let names = normal_names(wanted);
    // Everything in a container's cgroup ends with the container, so the top of the hierarchy is nobody's.
    if names.is_empty() {
        return Err(CliError::Bundle(format!("cgroupsPath {} is the root cgroup", wanted.display())));
    }
    if wanted.is_relative() && names.len() == 1 && names[0].matches(':').count() == 2 {
        return Err(CliError::Bundle(format!(
            "cgroupsPath {} is of systemd's form: set the caller's cgroup driver to cgroupfs",
            names[0]
        )));
    }
    Ok(format!("/{}", names.join("/")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bundle(change: impl FnOnce(&mut serde_json::Value)) -> Result<Bundle, String> {
        let directory = tempfile::tempdir().expect("bundle");
        std::fs::create_dir(directory.path().join("rootfs")).expect("rootfs");
        let mut spec = json!({
            "ociVersion": "1.0.2-dev", "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sh"]},
            "mounts": [{"destination": "/data", "type": "bind", "source": "data", "options": ["rbind"]},
                       {"destination": "/proc", "type": "proc", "source": "proc"}],
            "hooks": {"poststop": [{"path": "/bin/true"}], "prestart": [{"path": "/bin/true"}]},
            "somethingNew": 1
        });
        change(&mut spec);
        std::fs::write(directory.path().join("config.json"), spec.to_string()).expect("config");
        Bundle::load(directory.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn paths_become_absolute_and_late_hooks_are_ours() {
        let bundle = bundle(|_| ()).expect("bundle");
        assert_eq!(bundle.rootfs, bundle.path.join("rootfs"));
        let mounts = bundle.spec.mounts().as_ref().expect("mounts");
        assert_eq!(mounts[0].source().as_deref(), Some(bundle.path.join("data").as_path()));
        assert_eq!(mounts[1].source().as_deref(), Some(Path::new("proc")));
        assert_eq!((bundle.poststart.len(), bundle.poststop.len()), (0, 1));
        let hooks = bundle.spec.hooks().as_ref().expect("hooks");
        assert!(hooks.poststop().is_none() && hooks.prestart().is_some());
        assert!(bundle.spec.linux().is_some());
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        assert!(bundle(|spec| spec["ociVersion"] = json!("2.0.0")).expect_err("2.0").contains("only 1.x"));
        assert_eq!(
            bundle(|spec| spec["process"]["cwd"] = json!("x")).expect_err("cwd"),
            "Cwd must be an absolute path"
        );
        assert_eq!(
            bundle(|spec| spec["process"]["args"] = json!([])).expect_err("args"),
            "args must not be empty"
        );
        assert!(bundle(|spec| spec["root"]["path"] = json!("nowhere")).is_err());
    }

    #[test]
    fn cgroup_paths_stay_in_the_hierarchy() {
        let clean = |path: &str| cgroup_path(Some(Path::new(path)), "id").ok();
        assert_eq!(clean("/docker/x").as_deref(), Some("/docker/x"));
        assert_eq!(clean("../../a/./b/../c").as_deref(), Some("/a/c"));
        assert_eq!(clean("/"), None);
        assert_eq!(clean("/a/.."), None);
        assert_eq!(clean("system.slice:docker:x"), None);
        assert_eq!(cgroup_path(None, "id").ok().as_deref(), Some("/cirro-runtime-id"));
    }
}
