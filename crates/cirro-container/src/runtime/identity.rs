//! Who a program is and what it may do: limits, user, capabilities, filter of system calls. For first processes and commands alike.

use std::collections::HashSet;
use std::io;

use cirro_sys::confine::{self, Scheduling};
use oci_spec::runtime::{
    Capability, IOPriorityClass, LinuxCapabilities, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimit,
    Process, Scheduler,
};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::process::{Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::filter::Filter;
use super::spec::{NUMBERED, resource};
use crate::error::ContainerError;

/// Who the program is.
pub(super) struct Identity {
    pub(super) process: Process,
    pub(super) filter: Option<Filter>,
}

/// What [`Identity::assume`] may leave for later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Remaining {
    /// The filter, which wants no_new_privs and so can wait.
    Filter,
    Nothing,
}

impl Identity {
    /// Becomes the user with its limits and capabilities. The order matters: loading a filter without no_new_privs needs the
    /// capabilities that are dropped next; with it, the filter is the very last thing.
    pub(super) fn assume(&self) -> Result<Remaining, ContainerError> {
        let told = |doing: &'static str| move |error: io::Error| ContainerError::runtime(doing, &error);
        let process = &self.process;
        for limit in process.rlimits().iter().flatten() {
            set_limit(limit)?;
        }
        self.schedule()?;
        // As root first, who may enter directories that the user may not; then, where root may not, as the user.
        let entered = enter_inside(process);
        let confined = process.no_new_privileges() == Some(true);
        if confined {
            set_no_new_privs(true).map_err(|error| told("set no_new_privs")(error.into()))?;
        } else {
            self.load_filter()?;
        }
        let sets = Sets::of(process.capabilities().as_ref());
        sets.bound().map_err(told("drop capabilities"))?;
        let user = process.user();
        let groups = user.additional_gids().as_deref().unwrap_or_default();
        cirro_sys::process::set_user(user.uid(), user.gid(), groups).map_err(told("set user"))?;
        rustix::process::umask(Mode::from_raw_mode(user.umask().unwrap_or(0o022)));
        sets.take().map_err(told("set capabilities"))?;
        if entered.is_err() {
            enter_inside(process).map_err(|error| {
                ContainerError::runtime(&format!("chdir to {}", process.cwd().display()), &error)
            })?;
        }
        // A directory outside the root would be a way out of the container (CVE-2024-21626).
        std::env::current_dir().map_err(told("check working directory"))?;
        Ok(if confined && self.filter.is_some() { Remaining::Filter } else { Remaining::Nothing })
    }

    /// Loads what is left.
    pub(super) fn conclude(&self, remaining: Remaining) -> Result<(), ContainerError> {
        if remaining == Remaining::Filter { self.load_filter() } else { Ok(()) }
    }

    fn load_filter(&self) -> Result<(), ContainerError> {
        let Some(filter) = &self.filter else { return Ok(()) };
        filter.load().map_err(|error| ContainerError::runtime("load system call filter", &error))
    }

    fn schedule(&self) -> Result<(), ContainerError> {
        if let Some(scheduler) = self.process.scheduler() {
            confine::set_scheduling(scheduling(scheduler))
                .map_err(|error| ContainerError::runtime("set scheduling", &error))?;
        }
        if let Some(priority) = self.process.io_priority() {
            let class = match priority.class() {
                IOPriorityClass::IoprioClassRt => 1,
                IOPriorityClass::IoprioClassBe => 2,
                IOPriorityClass::IoprioClassIdle => 3,
            };
            let level = u16::try_from(priority.priority()).ok().filter(|level| *level < 8);
            let level = level.ok_or_else(|| {
                ContainerError::State(format!("{} is no level of block traffic", priority.priority()))
            })?;
            confine::set_io_priority(class, level)
                .map_err(|error| ContainerError::runtime("set priority of block traffic", &error))?;
        }
        Ok(())
    }
}

/// Magic links lead to whatever this process has open, inside or not; ordinary links stay in the root.
fn enter_inside(process: &Process) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let directory = rustix::fs::openat2(&root, process.cwd(), flags, Mode::empty(), resolve)?;
    Ok(rustix::process::fchdir(directory)?)
}

fn set_limit(limit: &PosixRlimit) -> Result<(), ContainerError> {
    let value = |value: u64| (value != u64::MAX).then_some(value);
    let new = Rlimit { current: value(limit.soft()), maximum: value(limit.hard()) };
    setrlimit(resource(limit.typ()), new).map_err(|error| {
        ContainerError::runtime(&format!("set limit {}", limit.typ()), &io::Error::from(error))
    })
}

/// Source: linux/sched.h.
fn scheduling(scheduler: &Scheduler) -> Scheduling {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 1,
        LinuxSchedulerFlag::SchedFlagReclaim => 2,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 4,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 8,
        LinuxSchedulerFlag::SchedFlagKeepParams => 16,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 32,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 64,
    };
    let mut scheduling = Scheduling::default();
    scheduling.policy = policy;
    scheduling.flags = scheduler.flags().iter().flatten().fold(0, |flags, one| flags | flag(one));
    scheduling.nice = scheduler.nice().unwrap_or(0);
    scheduling.priority = scheduler.priority().unwrap_or(0).max(0) as u32;
    scheduling.runtime = scheduler.runtime().unwrap_or(0);
    scheduling.deadline = scheduler.deadline().unwrap_or(0);
    scheduling.period = scheduler.period().unwrap_or(0);
    scheduling
}

/// The five sets, as masks. A process without the section has none, as with runc.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    fn of(capabilities: Option<&LinuxCapabilities>) -> Self {
        let mask = |set: &Option<HashSet<Capability>>| {
            let set = set.as_ref();
            NUMBERED
                .iter()
                .filter(|(_, one)| set.is_some_and(|set| set.contains(one)))
                .fold(0, |mask, (number, _)| mask | 1 << number)
        };
        capabilities.map_or_else(Self::default, |sets| Self {
            bounding: mask(sets.bounding()),
            effective: mask(sets.effective()),
            permitted: mask(sets.permitted()),
            inheritable: mask(sets.inheritable()),
            ambient: mask(sets.ambient()),
        })
    }

    /// What no program can get back, whatever file capabilities it has.
    fn bound(&self) -> io::Result<()> {
        for number in (0..64).filter(|number| self.bounding >> number & 1 == 0) {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
                // The kernel knows no more.
                Err(rustix::io::Errno::INVAL) => break,
                result => result?,
            }
        }
        Ok(())
    }

    fn take(&self) -> io::Result<()> {
        clear_ambient_capability_set()?;
        let set = CapabilitySet::from_bits_retain;
        let sets = CapabilitySets {
            effective: set(self.effective),
            permitted: set(self.permitted),
            inheritable: set(self.inheritable),
        };
        set_capabilities(None, sets)?;
        for number in (0..64).filter(|number| self.ambient >> number & 1 == 1) {
            // One that is not permitted and inheritable cannot be ambient; runc warns and goes on.
            let _ = configure_capability_in_ambient_set(set(1 << number), true);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_become_masks() {
        let json =
            serde_json::json!({"bounding": ["CAP_CHOWN", "CAP_KILL"], "ambient": ["CAP_CHECKPOINT_RESTORE"]});
        let sets = Sets::of(Some(&serde_json::from_value(json).expect("capabilities")));
        assert_eq!(sets, Sets { bounding: 0b10_0001, ambient: 1 << 40, ..Sets::default() });
        assert_eq!(Sets::of(None), Sets::default());
    }
}
