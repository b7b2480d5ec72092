//! Containers by a way of our own: few system calls, every path by descriptor, nothing that grows with the host.
//!
//! ## Theory of operation
//! ```text
//!  helper: cgroups, limits ─▶ copies of all host mounts, detached ─▶ clone in new namespaces ─▶ join, maps, hooks ─▶ ready
//!  child:  see `init`
//! ```
//! The helper does all that needs the host; the child has only descriptors of it and is cloned from a mount namespace that is nearly
//! empty ([`seed`]). Documents that ask for what this way has not are left to libcontainer (`declined`), before anything is made.

mod channel;
mod copy_up;
mod devices;
mod gate;
mod init;
mod inside;
mod kernel;
mod masks;
mod mounts;
mod namespaces;
mod options;
mod seed;
mod terminal;
mod tree;
mod users;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use cirro_sys::mounts::Overlay;
use oci_spec::runtime::{Hook, Linux, LinuxNamespaceType as Type, Spec};
use serde_json::{Value, json};

use self::channel::Word;
use self::init::Init;
use self::namespaces::Namespaces;
use self::options::{Binding, propagation};
use super::filter::{Filter, notifies};
use super::identity::Identity;
use super::spec::Host;
use super::{
    Libcontainer, Made, NewContainer, NewExec, Root, RootChange, Runtime, WorkloadDirectory, hooks, launch,
    root,
};
use crate::error::ContainerError;
use crate::request::SUBPATH;

/// Makes a container by libcontainer when it is `libcontainer`, for comparison.
const ANNOTATION: &str = "cirro.runtime";

/// Containers by our own way, and by libcontainer what that declines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Native {
    seed: Option<Rc<OwnedFd>>,
}

impl Native {
    /// For a process with one thread that will make many containers; the default does for one.
    pub(crate) fn new() -> Self {
        let seed = seed::make();
        if let Err(error) = &seed {
            eprintln!("runtime: mount namespaces are copied from the host's: {error}");
        }
        Self { seed: seed.ok().map(Rc::new) }
    }

    /// What a helper must not close.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        self.seed.as_ref().map(|seed| seed.as_raw_fd())
    }
}

impl Runtime for Native {
    fn create(&self, container: NewContainer<'_>) -> Result<Made, ContainerError> {
        let mut spec: Spec = serde_json::from_str(container.spec)
            .map_err(|error| ContainerError::runtime("read spec", &error))?;
        if let Some(why) = self.declined(&spec, &container) {
            // Libcontainer would show the whole source.
            if container.spec.contains(SUBPATH) {
                return Err(ContainerError::State(format!(
                    "a place in a volume cannot be mounted here: {why}"
                )));
            }
            return Libcontainer.create(container);
        }
        let rootfs = match container.root {
            Root::Layers(_) => container.directory.bundle().join("rootfs"),
            Root::Directory(path) => path.to_owned(),
        };
        Host::detect(container.hierarchies).fit(&mut spec, &rootfs, container.cgroup, container.tty)?;
        check(&spec)?;
        self.make(container, &spec, rootfs)
    }

    fn start(&self, id: &str, directory: &WorkloadDirectory) -> Result<(), ContainerError> {
        gate::open(directory).unwrap_or_else(|| Libcontainer.start(id, directory))
    }

    fn exec(&self, exec: NewExec<'_>) -> Result<Made, ContainerError> {
        launch::exec(exec)
    }
}

impl Native {
    /// Why a document is left to libcontainer, if it is.
    fn declined(&self, spec: &Spec, container: &NewContainer<'_>) -> Option<&'static str> {
        let linux = spec.linux().as_ref()?;
        let asked = spec.annotations().as_ref().and_then(|all| all.get(ANNOTATION));
        let all = || linux.namespaces().iter().flatten();
        let by_path = |kind: Type| all().any(|one| one.typ() == kind && one.path().is_some());
        let remounts = |mount: &oci_spec::runtime::Mount| {
            mount.options().iter().flatten().any(|option| option == "remount")
        };
        let process = spec.process().as_ref();
        let reasons: [(bool, &'static str); 9] = [
            (asked.is_some_and(|which| which == "libcontainer"), "asked for"),
            (!all().any(|one| one.typ() == Type::Mount) || by_path(Type::Mount), "no mounts of its own"),
            (by_path(Type::User), "another's user namespace"),
            (linux.intel_rdt().is_some() || linux.memory_policy().is_some(), "cache and memory policies"),
            (linux.net_devices().as_ref().is_some_and(|all| !all.is_empty()), "network devices"),
            (linux.seccomp().as_ref().is_some_and(notifies), "seccomp notification"),
            (spec.mounts().iter().flatten().any(remounts), "remounts"),
            (process.is_some_and(|process| process.exec_cpu_affinity().is_some()), "affinity"),
            (container.root_change == RootChange::Move && self.seed.is_none(), "no root to pivot from"),
        ];
        let found = reasons.into_iter().find(|(declined, _)| *declined).map(|(_, why)| why);
        found.or_else(|| (!cirro_sys::mounts::can_change()).then_some("an old kernel"))
    }

    /// `rootfs` is where on the host the root may be attached.
    fn make(
        &self,
        container: NewContainer<'_>,
        spec: &Spec,
        rootfs: PathBuf,
    ) -> Result<Made, ContainerError> {
        let told = |doing: &'static str| move |error: io::Error| ContainerError::runtime(doing, &error);
        let linux = spec.linux().as_ref().expect("checked by fit");
        let process = spec.process().as_ref().expect("checked by fit");
        let directory = container.directory;
        std::fs::write(directory.bundle().join("config.json"), container.spec)
            .map_err(told("write bundle"))?;
        let filter = Filter::of_document(container.spec, &filters(directory))?;
        let namespaces = Namespaces::of(linux)?;
        let group = container.hierarchies.group(container.cgroup);
        let doors = group.make().map_err(told("make cgroups"))?;
        limit(&group, linux)?;
        let new_user = namespaces.users.is_some();
        let new_network =
            linux.namespaces().iter().flatten().any(|one| one.typ() == Type::Network && one.path().is_none());
        let root_propagation =
            options::root_propagation(linux.rootfs_propagation().as_deref().unwrap_or_default())?;
        let common = mounts::Common {
            group: &group,
            maps: (linux.uid_mappings().as_ref(), linux.gid_mappings().as_ref()),
            own_cgroup_namespace: namespaces.new_cgroup,
            bind_sysfs: new_user && !new_network,
            propagation: default_propagation(root_propagation),
        };
        let mounts = spec.mounts().iter().flatten().map(|mount| mounts::prepare(mount, &common));
        let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
        let devices = devices::prepare(linux.devices().as_deref().unwrap_or_default(), new_user)?;
        let root = open_root(&container)?;
        let user = process.user().uid();
        let user = namespaces.users.as_ref().map_or(Some(user), |maps| maps.user_outside(user));
        super::libcontainer::give_to(&container.streams, user.unwrap_or(0));
        let mut descriptors = launch::standard(container.streams, false).map_err(told("open /dev/null"))?;
        descriptors.extend(launch::inherit(container.preserved).map_err(told("find preserved descriptors"))?);
        let (ours, theirs) = channel::pair().map_err(told("make socket"))?;
        let ours = std::cell::Cell::new(Some(ours));
        // Hooks in the container's namespaces are found by the host's paths.
        let hooked = spec.hooks().as_ref().and_then(|hooks| hooks.create_container().as_ref());
        let seed = self.seed.as_deref().filter(|_| hooked.is_none_or(Vec::is_empty));
        let place = if seed.is_some() { PathBuf::from(seed::ROOT) } else { rootfs };
        let init = Init {
            spec,
            identity: Identity { process: process.clone(), filter },
            status: theirs,
            gate: gate::make(directory).map_err(told("make gate"))?,
            new_cgroup: namespaces.new_cgroup,
            new_user,
            root,
            place,
            mounts,
            devices,
            null: devices::host_null().map_err(told("open /dev/null"))?,
            labels: kernel::Labels::of(process)?,
            terminal: container.tty.then_some(container.size),
            descriptors,
            state: state(container.id, spec, container.bundle.unwrap_or(&directory.bundle())),
        };
        if let Some(score) = process.oom_score_adj() {
            std::fs::write("/proc/self/oom_score_adj", score.to_string())
                .map_err(told("set oom_score_adj"))?;
        }
        let pid = namespaces
            .visit(seed, || {
                doors.clone_child(namespaces.new, |entered| {
                    // Its copy of our end: with it open, it would never learn that we are gone.
                    drop(ours.take());
                    init.run(entered)
                })
            })
            .map_err(told("make process"))?;
        let state = init.state.clone();
        // The child's copies only; ours would keep the socket open when it is gone.
        drop(init);
        let ours = ours.take().expect("only the child takes its own");
        let made = converse(pid, &ours, &namespaces, spec, state);
        if made.is_err() {
            let _ = cirro_sys::process::send_signal(pid, 9);
            let _ = cirro_sys::process::wait_for(pid);
        }
        made
    }
}

/// Where compiled filters are: beside the workloads, by a name that none of them can have.
pub(super) fn filters(directory: &WorkloadDirectory) -> PathBuf {
    directory.path().parent().unwrap_or(Path::new("/")).join(".filters")
}

/// Refuses what makes no sense, before anything is made.
fn check(spec: &Spec) -> Result<(), ContainerError> {
    kernel::check_parameters(spec)?;
    let has_uts = spec
        .linux()
        .iter()
        .flat_map(|linux| linux.namespaces().iter().flatten())
        .any(|one| one.typ() == Type::Uts);
    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    if !has_uts && (named(spec.hostname()) || named(spec.domainname())) {
        return Err(ContainerError::State(
            "unable to set hostname without a private UTS namespace".to_owned(),
        ));
    }
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_ref());
    if label.is_some_and(|label| !label.is_empty()) && !Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(ContainerError::State("a label of mounts needs SELinux".to_owned()));
    }
    Ok(())
}

fn limit(group: &crate::cgroup::Group, linux: &Linux) -> Result<(), ContainerError> {
    let resources = linux.resources().as_ref();
    let devices = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    group.set_devices(devices)?;
    resources.map_or(Ok(()), |resources| group.set_resources(resources))
}

/// With a shared or following root the host's later mounts are wanted inside.
fn default_propagation(root: Option<(u64, bool)>) -> (u64, bool) {
    match root {
        Some((propagation::SHARED | propagation::SLAVE, _)) => (propagation::SLAVE, true),
        _ => (propagation::PRIVATE, true),
    }
}

/// The root as a detached mount.
fn open_root(container: &NewContainer<'_>) -> Result<OwnedFd, ContainerError> {
    let layers = match container.root {
        Root::Directory(path) => {
            let tree = tree::copy_of(path, Binding::Recursive)
                .and_then(|tree| tree::make_private(&tree).map(|()| tree));
            let doing = format!("open root {}", path.display());
            return tree.map_err(|error| ContainerError::runtime(&doing, &error));
        }
        Root::Layers(layers) => layers,
    };
    let empty = [container.directory.empty()];
    let lower = if layers.lower.is_empty() { &empty[..] } else { &layers.lower[..] };
    match (Overlay { lower, upper: Some((&layers.upper, &layers.work)) }).detached() {
        Ok(tree) => Ok(tree),
        // Before Linux 6.7 layers cannot be added one by one: mounted the old way, where only this helper sees it.
        Err(error) if matches!(error.raw_os_error(), Some(22 | 38)) => {
            root::mount(layers, container.directory)?;
            tree::copy_of(&container.directory.bundle().join("rootfs"), Binding::Single)
                .map_err(|error| ContainerError::runtime("open root", &error))
        }
        Err(error) => {
            let doing = format!("mount overlay of {} layers", lower.len());
            Err(ContainerError::runtime(&doing, &error))
        }
    }
}

/// What hooks are told. Source: runtime-spec 1.2, `runtime.md`, "State".
fn state(id: &str, spec: &Spec, bundle: &Path) -> Value {
    json!({
        "ociVersion": spec.version(),
        "id": id,
        "status": "creating",
        "bundle": bundle,
        "annotations": spec.annotations().clone().unwrap_or_default(),
    })
}

/// Serves the child until it is ready.
fn converse(
    pid: i32,
    socket: &OwnedFd,
    namespaces: &Namespaces,
    spec: &Spec,
    mut state: Value,
) -> Result<Made, ContainerError> {
    let told = |doing: &'static str| move |error: io::Error| ContainerError::runtime(doing, &error);
    let mut terminal = None;
    loop {
        match channel::hear(socket).map_err(told("hear process"))? {
            None => {
                return Err(ContainerError::Runtime("the process ended before it was ready".to_owned()));
            }
            Some((Word::Failed(error), _)) => return Err(error),
            Some((Word::Ready, _)) => return Ok(Made { pid, terminal }),
            Some((Word::Terminal, master)) => {
                terminal = master;
                continue;
            }
            Some((Word::Outside, _)) => {
                let maps = namespaces.users.as_ref();
                maps.map_or(Ok(()), |maps| maps.write(pid)).map_err(told("map users"))?;
            }
            Some((Word::Hooks, _)) => {
                state["pid"] = pid.into();
                run_outside(spec, &state)?;
            }
        }
        channel::answer(socket, pid).map_err(told("answer process"))?;
    }
}

fn run_outside(spec: &Spec, state: &Value) -> Result<(), ContainerError> {
    let Some(all) = spec.hooks() else { return Ok(()) };
    // Deprecated, and still what some callers have.
    let prestart = all.prestart();
    let list = |hooks: &Option<Vec<Hook>>| hooks.clone().unwrap_or_default();
    hooks::run(&list(prestart), state)?;
    hooks::run(&list(all.create_runtime()), state)
}
