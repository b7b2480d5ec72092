//! Options of the volume driver `local`: `type`, `o`, `device` and `size`, in `mount(8)`'s words.
//!
//! They are only looked at for whether they make sense together; whether the host can mount what they say shows at the first use.
//!
//! Source: moby `volume/local/local_unix.go`, moby/sys `mount/flags_unix.go`.

use std::collections::BTreeMap;

use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::error::EngineError;

/// Options and what they need beside them.
const KNOWN: [(&str, &[&str]); 4] =
    [("type", &["device"]), ("o", &["device", "type"]), ("device", &["type"]), ("size", &[])];

/// Refuses options that dockerd does not know, and those that lack another one.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<(), EngineError> {
    if let Some(name) = options.keys().find(|name| KNOWN.iter().all(|(known, _)| known != name)) {
        return Err(EngineError::Invalid(format!("invalid option: \"{name}\"")));
    }
    if options.contains_key("size") {
        let text = "quota size requested but no quota support";
        return Err(EngineError::Invalid(text.into()));
    }
    for (name, needed) in KNOWN.iter().filter(|(name, _)| options.contains_key(*name)) {
        if let Some(missing) = needed.iter().find(|needed| !options.contains_key(**needed)) {
            let text = format!("missing required option: \"{missing}\" (needed by \"{name}\")");
            return Err(EngineError::Invalid(text));
        }
    }
    Ok(())
}

/// What is mounted on a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) kind: String,
    pub(super) device: String,
    pub(super) flags: MountFlags,
    pub(super) propagation: Option<MountPropagationFlags>,
    /// For the file system, joined by commas.
    pub(super) data: String,
}

/// Returns what is to be mounted; nothing for a volume that is a plain directory.
pub(super) fn wanted(options: &BTreeMap<String, String>) -> Option<Wanted> {
    let option = |name: &str| options.get(name).cloned().unwrap_or_default();
    let device = Some(option("device")).filter(|device| !device.is_empty())?;
    let (mut flags, mut propagation, mut data) = (MountFlags::empty(), None, Vec::new());
    let words = option("o");
    for word in words.split(',').filter(|word| !word.is_empty()) {
        if let Some((flag, set)) = flag_of(word) {
            flags.set(flag, set);
        } else if let Some(kind) = propagation_of(word) {
            propagation = Some(kind);
        } else if word != "defaults" {
            data.push(word);
        }
    }
    Some(Wanted { kind: option("type"), device, flags, propagation, data: data.join(",") })
}

impl Wanted {
    /// The `addr=` of a server of files that is a name.
    pub(super) fn server_name(&self) -> Option<&str> {
        if !matches!(self.kind.as_str(), "nfs" | "cifs") {
            return None;
        }
        let address = self.data.split(',').find_map(|word| word.strip_prefix("addr="))?;
        Some(address).filter(|address| address.parse::<std::net::IpAddr>().is_err())
    }

    /// Puts an address in the place of a server's name.
    pub(super) fn set_server(&mut self, name: &str, address: std::net::IpAddr) {
        self.data = self.data.replacen(&format!("addr={name}"), &format!("addr={address}"), 1);
    }

    /// The data as it may be told: without a password.
    pub(super) fn told(&self) -> String {
        let hide = |word: &str| match word.starts_with("password=") {
            true => "password=********".to_owned(),
            false => word.to_owned(),
        };
        self.data.split(',').map(hide).collect::<Vec<_>>().join(",")
    }
}

fn flag_of(word: &str) -> Option<(MountFlags, bool)> {
    Some(match word {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "bind" => (MountFlags::BIND, true),
        "rbind" => (MountFlags::BIND | MountFlags::REC, true),
        _ => return None,
    })
}

fn propagation_of(word: &str) -> Option<MountPropagationFlags> {
    let (word, below) = match word.strip_prefix('r') {
        Some(rest) if propagation_of(rest).is_some() => (rest, MountPropagationFlags::REC),
        _ => (word, MountPropagationFlags::empty()),
    };
    let kind = match word {
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "private" => MountPropagationFlags::PRIVATE,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(kind | below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn unknown_options_and_those_that_lack_another_one_are_refused() {
        check(&options(&[])).unwrap();
        check(&options(&[("type", "none"), ("o", "bind,ro"), ("device", "/srv")])).unwrap();
        for (pairs, text) in [
            (&[("colour", "red")][..], "invalid option: \"colour\""),
            (&[("type", "none"), ("o", "bind")], "missing required option: \"device\" (needed by \"type\")"),
            (&[("device", "srv")], "missing required option: \"type\" (needed by \"device\")"),
            (&[("size", "1g")], "quota size requested but no quota support"),
        ] {
            assert_eq!(check(&options(pairs)).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn words_become_flags_propagation_and_data() {
        assert_eq!(wanted(&options(&[])), None);
        let tmpfs = options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=7,ro,noexec,rw")]);
        let tmpfs = wanted(&tmpfs).unwrap();
        assert_eq!((tmpfs.flags, tmpfs.data.as_str()), (MountFlags::NOEXEC, "size=1m,uid=7"));
        let bind = wanted(&options(&[("type", "none"), ("device", "/x"), ("o", "rbind,rshared")])).unwrap();
        assert_eq!(bind.flags, MountFlags::BIND | MountFlags::REC);
        assert_eq!(bind.propagation, Some(MountPropagationFlags::SHARED | MountPropagationFlags::REC));
    }

    #[test]
    fn a_server_may_be_a_name_and_a_password_is_not_told() {
        let cifs = [("type", "cifs"), ("device", "//srv/x"), ("o", "addr=srv,username=u,password=p,vers=3")];
        let mut cifs = wanted(&options(&cifs)).unwrap();
        assert_eq!(cifs.server_name(), Some("srv"));
        cifs.set_server("srv", "10.0.0.9".parse().unwrap());
        assert_eq!(cifs.server_name(), None);
        assert_eq!(cifs.told(), "addr=10.0.0.9,username=u,password=********,vers=3");
        let nfs = [("type", "nfs"), ("device", ":/x"), ("o", "addr=10.0.0.1")];
        assert_eq!(wanted(&options(&nfs)).unwrap().server_name(), None);
    }
}
