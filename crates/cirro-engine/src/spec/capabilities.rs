//! Linux capabilities: docker's default set, what is added and dropped, what the host has.

use crate::error::EngineError;

/// Every capability, by its number.
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Docker's default set (moby `oci/caps/defaults.go`).
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Returns the names of a set of bits as `/proc/PID/status` shows it.
pub(crate) fn of_bits(bits: u64) -> Vec<&'static str> {
    ALL.iter().enumerate().filter(|(number, _)| bits >> number & 1 == 1).map(|(_, name)| *name).collect()
}

/// Returns a container's capabilities, those that `host` has.
pub(crate) fn choose(
    add: &[String],
    drop: &[String],
    privileged: bool,
    host: &[&'static str],
) -> Result<Vec<&'static str>, EngineError> {
    let (add_all, add) = parse(add)?;
    let (drop_all, drop) = parse(drop)?;
    let wanted = |name: &str| {
        if privileged {
            return true;
        }
        let base =
            if add_all { !drop_all || add.contains(&name) } else { !drop_all && DEFAULT.contains(&name) };
        (base || add.contains(&name)) && !drop.contains(&name)
    };
    Ok(ALL.into_iter().filter(|name| wanted(name) && host.contains(name)).collect())
}

/// Parses names with or without `CAP_`; says whether `ALL` was among them.
fn parse(names: &[String]) -> Result<(bool, Vec<&'static str>), EngineError> {
    let mut all = false;
    let mut known = Vec::new();
    for given in names {
        let upper = given.to_ascii_uppercase();
        if upper == "ALL" {
            all = true;
            continue;
        }
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        let name = ALL.iter().find(|name| **name == full).ok_or_else(|| {
            EngineError::Invalid(format!("invalid capability: unknown capability: \"{full}\""))
        })?;
        known.push(*name);
    }
    Ok((all, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(add: &[&str], drop: &[&str], privileged: bool) -> Vec<&'static str> {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        choose(&strings(add), &strings(drop), privileged, &ALL).unwrap()
    }

    #[test]
    fn the_default_set_is_dockers() {
        let mut default = DEFAULT.to_vec();
        default.sort_unstable();
        let mut got = chosen(&[], &[], false);
        got.sort_unstable();
        assert_eq!(got, default);
    }

    #[test]
    fn names_are_added_and_dropped() {
        assert!(chosen(&["net_admin"], &[], false).contains(&"CAP_NET_ADMIN"));
        assert!(!chosen(&[], &["CAP_KILL"], false).contains(&"CAP_KILL"));
        assert_eq!(chosen(&["CHOWN"], &["ALL"], false), ["CAP_CHOWN"]);
        assert_eq!(chosen(&["ALL"], &["SYS_ADMIN"], false).len(), ALL.len() - 1);
        assert_eq!(chosen(&[], &["ALL"], true).len(), ALL.len());
    }

    #[test]
    fn nothing_that_the_host_lacks_is_given_and_unknown_names_are_refused() {
        assert_eq!(choose(&[], &[], true, &["CAP_KILL"]).unwrap(), ["CAP_KILL"]);
        assert!(choose(&["FLY".into()], &[], false, &ALL).is_err());
        assert_eq!(of_bits(0b10_0001), ["CAP_CHOWN", "CAP_KILL"]);
    }
}
