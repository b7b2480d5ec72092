//! A container's first process, from its birth to its program.
//!
//! ```text
//!  user map ─▶ root attached ─▶ (no hooks: pivot) ─▶ mounts ─▶ devices ─▶ terminal ─▶ hooks ─▶ (pivot)
//!    ─▶ parameters, names ─▶ masked, read-only ─▶ labels ─▶ identity ─▶ ready ─▶ gate ─▶ program
//! ```
//! It leaves the host's root before it makes its first mount, unless hooks run before that, which see the host's files, or a user
//! namespace is new, in which procfs can only be made beside another one.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};
use serde_json::Value;

use super::channel::{Word, is_alone, say, wait};
use super::devices::{self, Device};
use super::inside::{Links, Sort, find_or_make};
use super::kernel::{Labels, Procfs};
use super::mounts::Prepared;
use super::namespaces::NEW_CGROUP;
use super::{gate, masks, options, seed, terminal, tree};
use crate::error::ContainerError;
use crate::runtime::command::{execute, reason, refuse, resolve};
use crate::runtime::hooks;
use crate::runtime::identity::Identity;

/// What the process is given; everything of the host is an open descriptor.
pub(super) struct Init<'a> {
    pub(super) spec: &'a Spec,
    pub(super) identity: Identity,
    pub(super) status: OwnedFd,
    pub(super) gate: OwnedFd,
    pub(super) new_cgroup: bool,
    pub(super) new_user: bool,
    /// The root, detached, and where to attach it first.
    pub(super) root: OwnedFd,
    pub(super) place: PathBuf,
    pub(super) mounts: Vec<Prepared>,
    pub(super) devices: Vec<Device>,
    pub(super) null: OwnedFd,
    pub(super) labels: Labels,
    /// Columns and rows, for a terminal.
    pub(super) terminal: Option<Option<(u16, u16)>>,
    pub(super) descriptors: Vec<(OwnedFd, i32)>,
    /// For hooks; the process id comes later.
    pub(super) state: Value,
}

/// What hooks there are, by who runs them when.
struct Moments<'a> {
    outside: bool,
    inside: &'a [Hook],
    start: &'a [Hook],
}

impl Init<'_> {
    /// Becomes the program, or tells why it could not. Returns the exit code.
    pub(super) fn run(&self, entered: io::Result<()>) -> i32 {
        let least = self.descriptors.iter().map(|(_, number)| number + 1).max().unwrap_or(3).max(3);
        let Ok(status) = rustix::io::fcntl_dupfd_cloexec(&self.status, least) else { return 126 };
        let Ok(gate) = rustix::io::fcntl_dupfd_cloexec(&self.gate, least) else { return 126 };
        let entered = entered.map_err(|error| ContainerError::runtime("join cgroups", &error));
        let error = match entered.and_then(|()| self.steps(&status, &gate)) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        let _ = say(&status, &Word::Failed(error), None);
        126
    }

    fn steps(&self, status: &OwnedFd, gate: &OwnedFd) -> Result<Infallible, ContainerError> {
        let told = |doing: &'static str| move |error: io::Error| ContainerError::runtime(doing, &error);
        // Until it is ready it is nobody's but the helper's: killed with it, whatever it has joined by then.
        cirro_sys::process::die_with_parent();
        if is_alone(status) {
            // It died before that was said.
            cirro_sys::process::end(126);
        }
        // From here on this process can be seen from inside, when its pid namespace is another's.
        cirro_sys::process::forbid_tracing();
        rustix::process::setsid().map_err(|error| told("start session")(error.into()))?;
        rustix::process::umask(Mode::empty());
        self.join(status).map_err(told("join namespaces"))?;
        let moments = self.moments();
        let hooked = moments.outside || !moments.inside.is_empty();
        let leave_late = hooked || self.new_user;
        self.attach_root(leave_late).map_err(told("attach root"))?;
        self.furnish()?;
        let slave = self.open_terminal(status).map_err(told("open terminal"))?;
        let mut state = self.state.clone();
        if hooked || !moments.start.is_empty() {
            say(status, &Word::Hooks, None).map_err(told("wait for hooks"))?;
            state["pid"] = wait(status).map_err(told("wait for hooks"))?.into();
        }
        hooks::run(moments.inside, &state)?;
        if leave_late {
            seed::change_root(&self.root).map_err(told("change root"))?;
        }
        self.close_off()?;
        self.arrange(slave.as_ref(), status, gate).map_err(told("arrange descriptors"))?;
        let remaining = self.identity.assume()?;
        let process = &self.identity.process;
        let args = process.args().as_deref().unwrap_or_default();
        let env = process.env().as_deref().unwrap_or_default();
        let program = resolve(args, env)?;
        rustix::process::set_parent_process_death_signal(None)
            .map_err(|error| told("outlive helper")(error.into()))?;
        say(status, &Word::Ready, None).map_err(told("report"))?;
        // Nobody hears an error any more.
        let failed = |error: &str| -> ! {
            let words = format!("exec {}: {error}\n", args[0]);
            let _ = rustix::io::write(rustix::stdio::stderr(), words.as_bytes());
            cirro_sys::process::end(255)
        };
        if let Err(error) = gate::wait(gate) {
            failed(&reason(&error));
        }
        state["status"] = "created".into();
        if let Err(error) = hooks::run(moments.start, &state).and_then(|()| self.identity.conclude(remaining))
        {
            failed(&error.to_string());
        }
        let error = execute(&program, args, env);
        match refuse(&args[0], &error) {
            ContainerError::CommandNotFound(_) | ContainerError::CommandNotExecutable(_) => {
                failed(&reason(&error))
            }
            other => failed(&other.to_string()),
        }
    }

    fn moments(&self) -> Moments<'_> {
        let Some(hooks) = self.spec.hooks() else {
            return Moments { outside: false, inside: &[], start: &[] };
        };
        // Deprecated, and still what some callers have.
        let prestart = hooks.prestart();
        let some = |hooks: &Option<Vec<Hook>>| hooks.as_ref().is_some_and(|hooks| !hooks.is_empty());
        Moments {
            outside: some(prestart) || some(hooks.create_runtime()),
            inside: hooks.create_container().as_deref().unwrap_or_default(),
            start: hooks.start_container().as_deref().unwrap_or_default(),
        }
    }

    fn join(&self, status: &OwnedFd) -> io::Result<()> {
        if self.new_user {
            say(status, &Word::Outside, None)?;
            wait(status)?;
            // Root of the new namespace, whose privileges it has had since its birth.
            cirro_sys::process::set_user(0, 0, &[])?;
            cirro_sys::process::regain_capabilities()?;
            cirro_sys::process::forbid_tracing();
            cirro_sys::process::die_with_parent();
        }
        if self.new_cgroup {
            cirro_sys::namespaces::leave(NEW_CGROUP)?;
        }
        Ok(())
    }

    fn attach_root(&self, leave_late: bool) -> io::Result<()> {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let place = rustix::fs::open(&self.place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        tree::attach(&self.root, place)?;
        if leave_late { Ok(()) } else { seed::change_root(&self.root) }
    }

    /// Mounts and devices.
    fn furnish(&self) -> Result<(), ContainerError> {
        for mount in &self.mounts {
            mount.attach(&self.root)?;
        }
        // Who binds a whole /dev has what it wants in it.
        let bound = |mount: &Prepared| mount.is_bind() && mount.destination() == Path::new("/dev");
        if !self.mounts.iter().any(bound) {
            for device in &self.devices {
                device.put(&self.root)?;
            }
            devices::link_all(&self.root)?;
        }
        let cwd = self.identity.process.cwd();
        find_or_make(&self.root, cwd, Sort::Directory, Links::Follow).map_err(|error| {
            ContainerError::runtime(&format!("make working directory {}", cwd.display()), &error)
        })?;
        Ok(())
    }

    fn open_terminal(&self, status: &OwnedFd) -> io::Result<Option<OwnedFd>> {
        let Some(size) = self.terminal else { return Ok(None) };
        let slave = terminal::open(&self.root, size, self.identity.process.user().uid(), status)?;
        rustix::process::ioctl_tiocsctty(&slave)?;
        Ok(Some(slave))
    }

    /// All that only a container's own can do and that its program may not undo.
    fn close_off(&self) -> Result<(), ContainerError> {
        let told = |doing: &'static str| move |error: io::Error| ContainerError::runtime(doing, &error);
        let Some(linux) = self.spec.linux() else { return Ok(()) };
        if let Some(name) = self.spec.hostname().as_ref().filter(|name| !name.is_empty()) {
            rustix::system::sethostname(name.as_bytes())
                .map_err(|error| told("set hostname")(error.into()))?;
        }
        if let Some(name) = self.spec.domainname().as_ref().filter(|name| !name.is_empty()) {
            rustix::system::setdomainname(name.as_bytes())
                .map_err(|error| told("set domainname")(error.into()))?;
        }
        let parameters = linux.sysctl().as_ref().filter(|parameters| !parameters.is_empty());
        if parameters.is_some() || !self.labels.is_empty() {
            let procfs = Procfs::open(&self.root).map_err(told("open procfs"))?;
            parameters.map_or(Ok(()), |parameters| procfs.set_parameters(parameters))?;
            procfs.set_labels(&self.labels)?;
        }
        masks::make_read_only(&self.root, linux.readonly_paths().as_deref().unwrap_or_default())?;
        masks::hide(&self.root, linux.masked_paths().as_deref().unwrap_or_default(), &self.null)?;
        if self.spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly) == Some(true) {
            tree::set_read_only(&self.root).map_err(told("make root read-only"))?;
        }
        let word = linux.rootfs_propagation().as_deref().unwrap_or_default();
        if let Some(propagation) = options::root_propagation(word)? {
            tree::set_propagation(&self.root, propagation).map_err(told("set propagation of root"))?;
        }
        if let Some(personality) = linux.personality() {
            let domain = match personality.domain() {
                oci_spec::runtime::LinuxPersonalityDomain::PerLinux => 0,
                oci_spec::runtime::LinuxPersonalityDomain::PerLinux32 => 8,
            };
            cirro_sys::confine::set_personality(domain).map_err(told("set personality"))?;
        }
        Ok(())
    }

    /// Leaves open what the program gets and what is needed until then: nothing of the host can be reached any more.
    fn arrange(&self, slave: Option<&OwnedFd>, status: &OwnedFd, gate: &OwnedFd) -> io::Result<()> {
        let mut wanted: Vec<(BorrowedFd<'_>, i32)> =
            self.descriptors.iter().map(|(descriptor, number)| (descriptor.as_fd(), *number)).collect();
        if let Some(slave) = slave {
            wanted.retain(|(_, number)| *number > 2);
            wanted.extend((0..3).map(|number| (slave.as_fd(), number)));
        }
        cirro_sys::process::arrange_descriptors(&wanted)?;
        let mut keep: Vec<i32> = wanted.iter().map(|(_, number)| *number).collect();
        keep.extend([status.as_raw_fd(), gate.as_raw_fd()]);
        cirro_sys::process::close_all_but(&keep);
        Ok(())
    }
}
