//! Which devices a workload may use: lists on version 1, a program in the kernel on version 2.
//!
//! Nothing is allowed that no rule allows, and the last rule that fits decides. A few devices that every container has are
//! allowed after all rules, as runc does it.

mod program;

use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{Mode, OFlags};

use super::{Group, Home};
use crate::error::ContainerError;

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    All,
    Char,
    Block,
}

/// One rule; absent numbers fit every device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
    read: bool,
    write: bool,
    mknod: bool,
}

impl Rule {
    const fn common(major: u32, minor: Option<u32>) -> Self {
        let kind = Kind::Char;
        Self { allow: true, kind, major: Some(major), minor, read: true, write: true, mknod: true }
    }

    const fn mknod_any(kind: Kind) -> Self {
        Self { allow: true, kind, major: None, minor: None, read: false, write: false, mknod: true }
    }

    const DENY_ALL: Self = Self {
        allow: false,
        kind: Kind::All,
        major: None,
        minor: None,
        read: true,
        write: true,
        mknod: true,
    };

    /// Whether it is about everything, so that earlier rules do not matter.
    fn is_blanket(&self) -> bool {
        self.kind == Kind::All
            && (self.major, self.minor) == (None, None)
            && self.read
            && self.write
            && self.mknod
    }

    fn parse(rule: &LinuxDeviceCgroup) -> Result<Self, ContainerError> {
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => Kind::All,
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Kind::Char,
            Some(LinuxDeviceType::B) => Kind::Block,
            Some(LinuxDeviceType::P) => return Err(ContainerError::State("a pipe is no device".to_owned())),
        };
        // -1 stands for "any", as in the kernel's own lists.
        let number = |value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => u32::try_from(value)
                .map(Some)
                .map_err(|_| ContainerError::State(format!("{value} is no device number"))),
        };
        let access = rule.access().as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
        if let Some(other) = access.chars().find(|one| !"rwm".contains(*one)) {
            return Err(ContainerError::State(format!("`{other}` is no access to a device")));
        }
        let has = |letter: char| access.contains(letter);
        Ok(Self {
            allow: rule.allow(),
            kind,
            major: number(rule.major())?,
            minor: number(rule.minor())?,
            read: has('r'),
            write: has('w'),
            mknod: has('m'),
        })
    }

    /// As version 1 lists it: `c 1:3 rwm`. A rule about all kinds is two, unless it is about everything.
    fn lines(&self) -> Vec<String> {
        if self.is_blanket() {
            return vec!["a".to_owned()];
        }
        let number = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
        let mut access = String::with_capacity(3);
        for (has, letter) in [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')] {
            access.extend(has.then_some(letter));
        }
        let line = |kind: char| format!("{kind} {}:{} {access}", number(self.major), number(self.minor));
        match self.kind {
            Kind::Char => vec![line('c')],
            Kind::Block => vec![line('b')],
            Kind::All => vec![line('c'), line('b')],
        }
    }
}

/// Making any node, and using null, zero, full, random, urandom, tty, console, pseudo-terminals.
const COMMON: [Rule; 10] = [
    Rule::mknod_any(Kind::Char),
    Rule::mknod_any(Kind::Block),
    Rule::common(1, Some(3)),
    Rule::common(1, Some(5)),
    Rule::common(1, Some(7)),
    Rule::common(1, Some(8)),
    Rule::common(1, Some(9)),
    Rule::common(5, Some(0)),
    Rule::common(5, Some(2)),
    Rule::common(136, None),
];

/// All rules that hold, from the last one about everything on.
fn rules(given: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, ContainerError> {
    let mut rules = vec![Rule::DENY_ALL];
    for rule in given {
        let rule = Rule::parse(rule)?;
        if rule.is_blanket() {
            rules.clear();
        }
        rules.push(rule);
    }
    if !(rules.len() == 1 && rules[0].allow) {
        rules.extend(COMMON);
    }
    Ok(rules)
}

impl Group {
    /// Replaces the rules in force by these and the common ones.
    ///
    /// # Errors
    /// [`ContainerError::State`] for rules that make no sense, [`ContainerError::Runtime`] for what the kernel refuses.
    pub(crate) fn set_devices(&self, given: &[LinuxDeviceCgroup]) -> Result<(), ContainerError> {
        let rules = rules(given)?;
        let result = match self.home("devices") {
            Some(Home::Version1(directory)) => write_lists(&directory, &rules),
            // Version 2 has no such controller; its programs are attached to any group.
            _ => match self.unified() {
                Some(unified) => attach(&unified, &rules),
                None => Err(io::Error::new(io::ErrorKind::Unsupported, "no cgroup restricts devices")),
            },
        };
        result.map_err(|error| ContainerError::runtime("restrict devices", &error))
    }
}

fn write_lists(directory: &Path, rules: &[Rule]) -> io::Result<()> {
    use std::io::Write;
    let open = |name: &str| std::fs::File::options().write(true).open(directory.join(name));
    let (mut allow, mut deny) = (open("devices.allow")?, open("devices.deny")?);
    for rule in rules {
        for line in rule.lines() {
            if rule.allow { &mut allow } else { &mut deny }.write_all(line.as_bytes())?;
        }
    }
    Ok(())
}

fn attach(directory: &Path, rules: &[Rule]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let group = rustix::fs::open(directory, flags, Mode::empty())?;
    cirro_sys::bpf::replace_device_program(&group, &program::assemble(rules))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(json: serde_json::Value) -> Vec<(bool, String)> {
        let given: Vec<LinuxDeviceCgroup> = serde_json::from_value(json).expect("rules");
        let rules = rules(&given).expect("rules");
        rules.iter().flat_map(|rule| rule.lines().into_iter().map(|line| (rule.allow, line))).collect()
    }

    #[test]
    fn nothing_is_allowed_but_what_is_asked_for_and_the_common_devices() {
        let found = lines(json!([{"allow": true, "type": "b", "major": 8, "minor": -1, "access": "r"}]));
        assert_eq!(found[..2], [(false, "a".to_owned()), (true, "b 8:* r".to_owned())]);
        assert_eq!(found[2], (true, "c *:* m".to_owned()));
        assert_eq!(found.len(), 12);
    }

    #[test]
    fn a_privileged_container_may_use_everything() {
        let found = lines(json!([{"allow": false, "access": "rwm"}, {"allow": true, "access": "rwm"}]));
        assert_eq!(found, [(true, "a".to_owned())]);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [json!({"allow": true, "access": "x"}), json!({"allow": true, "type": "c", "major": -5})] {
            let rule: LinuxDeviceCgroup = serde_json::from_value(bad).expect("rule");
            assert!(rules(&[rule]).is_err());
        }
    }

    #[test]
    fn root_a_program_keeps_a_group_from_other_devices() {
        let Ok(hierarchies) = crate::cgroup::Hierarchies::detect() else { return };
        let group = hierarchies.group(&format!("/cirrotest-devices-{}", std::process::id()));
        let Some(directory) = group.unified() else { return eprintln!("skipped: no cgroup version 2") };
        std::fs::create_dir(&directory).expect("group");
        let read = |device: &str| {
            let script = format!("echo $$ > {}/cgroup.procs && : < {device}", directory.display());
            std::process::Command::new("sh").args(["-c", &script]).output().expect("sh").status.success()
        };
        let log: LinuxDeviceCgroup = serde_json::from_value(
            json!({"allow": false, "type": "c", "major": 1, "minor": 11, "access": "r"}),
        )
        .expect("rule");
        let all: LinuxDeviceCgroup = serde_json::from_value(json!({"allow": true})).expect("rule");
        let mut outcomes = Vec::new();
        for given in [vec![], vec![all.clone()], vec![all, log]] {
            attach(&directory, &rules(&given).expect("rules")).expect("attach");
            outcomes.push((read("/dev/zero"), read("/dev/kmsg")));
        }
        std::fs::remove_dir(&directory).expect("remove");
        assert_eq!(outcomes, [(true, false), (true, true), (true, false)]);
    }
}
