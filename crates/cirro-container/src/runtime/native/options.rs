//! Options of a mount, from the words of a document to what the kernel is told.
//!
//! Source: runtime-spec 1.2, `config.md`, "Linux mount options"; words that are none of ours are the filesystem's.

use std::path::PathBuf;

use crate::error::ContainerError;
use crate::request::SUBPATH;

pub(super) const READ_ONLY: u64 = libc_attr::RDONLY;

/// Source: linux/mount.h.
mod libc_attr {
    pub(super) const RDONLY: u64 = 0x1;
    pub(super) const NOSUID: u64 = 0x2;
    pub(super) const NODEV: u64 = 0x4;
    pub(super) const NOEXEC: u64 = 0x8;
    /// The three below exclude each other; relatime is zero.
    pub(super) const ATIME: u64 = 0x70;
    pub(super) const NOATIME: u64 = 0x10;
    pub(super) const STRICTATIME: u64 = 0x20;
    pub(super) const NODIRATIME: u64 = 0x80;
    pub(super) const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Source: linux/fs.h, `MS_*`.
pub(super) mod propagation {
    pub(in crate::runtime::native) const UNBINDABLE: u64 = 1 << 17;
    pub(in crate::runtime::native) const PRIVATE: u64 = 1 << 18;
    pub(in crate::runtime::native) const SLAVE: u64 = 1 << 19;
    pub(in crate::runtime::native) const SHARED: u64 = 1 << 20;
}

/// Attributes to set and to clear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) set: u64,
    pub(super) clear: u64,
}

impl Attributes {
    fn add(&mut self, set: u64, clear: u64) {
        self.set = self.set & !clear | set;
        // Times of access are one field: whoever sets one clears the others.
        let clear = if (set | clear) & libc_attr::ATIME != 0 { clear | libc_attr::ATIME } else { clear };
        self.clear = self.clear & !set | clear;
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What a mount is bound from, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binding {
    /// One mount.
    Single,
    /// With the mounts below it.
    Recursive,
}

/// All options of one mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) binding: Option<Binding>,
    /// For the mount itself.
    pub(super) own: Attributes,
    /// For it and what is below (`rro`).
    pub(super) recursive: Attributes,
    /// Kind, and whether what is below follows.
    pub(super) propagation: Option<(u64, bool)>,
    /// What was there is copied into the new tmpfs.
    pub(super) copy_up: bool,
    /// Owners are mapped, and whether those below are.
    pub(super) id_map: Option<bool>,
    pub(super) remount: bool,
    /// A place below a bind's source that is mounted in its stead.
    pub(super) subpath: Option<PathBuf>,
    /// For the filesystem: `size=64k` or a word alone.
    pub(super) data: Vec<(String, Option<String>)>,
}

impl Options {
    /// Reads the words; the last one of a kind counts.
    pub(super) fn parse(words: &[String]) -> Result<Self, ContainerError> {
        let mut options = Self::default();
        for word in words {
            if !options.take_own(word) && !options.take_attribute(word) && !options.take_propagation(word) {
                options.take_data(word)?;
            }
        }
        Ok(options)
    }

    fn take_own(&mut self, word: &str) -> bool {
        match word {
            "bind" => self.binding = self.binding.or(Some(Binding::Single)),
            "rbind" => self.binding = Some(Binding::Recursive),
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.id_map = Some(false),
            "ridmap" => self.id_map = Some(true),
            "remount" => self.remount = true,
            "defaults" | "silent" | "loud" | "nolazytime" | "noiversion" | "async" | "nomand" | "" => {}
            _ if word.starts_with(SUBPATH) => self.subpath = Some(PathBuf::from(&word[SUBPATH.len()..])),
            // Words of fstab that say nothing to the kernel.
            _ if word.starts_with("x-") || word.starts_with("comment=") => {}
            _ => return false,
        }
        true
    }

    fn take_attribute(&mut self, word: &str) -> bool {
        use libc_attr as attr;
        let find = |word: &str| {
            Some(match word {
                "ro" => (attr::RDONLY, 0),
                "rw" => (0, attr::RDONLY),
                "nosuid" => (attr::NOSUID, 0),
                "suid" => (0, attr::NOSUID),
                "nodev" => (attr::NODEV, 0),
                "dev" => (0, attr::NODEV),
                "noexec" => (attr::NOEXEC, 0),
                "exec" => (0, attr::NOEXEC),
                "noatime" => (attr::NOATIME, attr::ATIME),
                "strictatime" => (attr::STRICTATIME, attr::ATIME),
                "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, attr::ATIME),
                "nodiratime" => (attr::NODIRATIME, 0),
                "diratime" => (0, attr::NODIRATIME),
                "nosymfollow" => (attr::NOSYMFOLLOW, 0),
                "symfollow" => (0, attr::NOSYMFOLLOW),
                _ => return None,
            })
        };
        if let Some((set, clear)) = find(word) {
            self.own.add(set, clear);
            return true;
        }
        match word.strip_prefix('r').and_then(find) {
            Some((set, clear)) => {
                self.recursive.add(set, clear);
                true
            }
            None => false,
        }
    }

    fn take_propagation(&mut self, word: &str) -> bool {
        let find = |word: &str| {
            Some(match word {
                "private" => propagation::PRIVATE,
                "shared" => propagation::SHARED,
                "slave" => propagation::SLAVE,
                "unbindable" => propagation::UNBINDABLE,
                _ => return None,
            })
        };
        let found = match (find(word), word.strip_prefix('r').and_then(find)) {
            (Some(kind), _) => Some((kind, false)),
            (None, Some(kind)) => Some((kind, true)),
            (None, None) => return false,
        };
        self.propagation = found;
        true
    }

    fn take_data(&mut self, word: &str) -> Result<(), ContainerError> {
        if word.contains('\0') || word.contains('\n') {
            return Err(ContainerError::State(format!("mount option {word:?} cannot be")));
        }
        self.data.push(match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (word.to_owned(), None),
        });
        Ok(())
    }
}

/// `linux.rootfsPropagation`: kind, and whether mounts below follow.
pub(super) fn root_propagation(word: &str) -> Result<Option<(u64, bool)>, ContainerError> {
    if word.is_empty() {
        return Ok(None);
    }
    let mut options = Options::default();
    if options.take_propagation(word) {
        Ok(options.propagation)
    } else {
        Err(ContainerError::State(format!("`{word}` is no propagation of mounts")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Options {
        let words: Vec<String> = words.split(',').map(str::to_owned).collect();
        Options::parse(&words).expect("options")
    }

    #[test]
    fn words_become_attributes_and_the_last_one_counts() {
        let options = parse("rbind,ro,rw,nosuid,rro,rprivate,noatime,relatime,size=5k,mode=755,huge");
        assert_eq!(options.binding, Some(Binding::Recursive));
        assert_eq!(
            options.own,
            Attributes { set: libc_attr::NOSUID, clear: libc_attr::RDONLY | libc_attr::ATIME }
        );
        assert_eq!(options.recursive, Attributes { set: libc_attr::RDONLY, clear: 0 });
        assert_eq!(options.propagation, Some((propagation::PRIVATE, true)));
        let data: Vec<_> = options.data.iter().map(|(key, value)| (&**key, value.as_deref())).collect();
        assert_eq!(data, [("size", Some("5k")), ("mode", Some("755")), ("huge", None)]);
    }

    #[test]
    fn relatime_is_not_recursive_elatime() {
        assert_eq!(parse("relatime").recursive, Attributes::default());
        assert_eq!(parse("rrelatime").recursive.clear, libc_attr::ATIME);
        assert_eq!(parse("rw").own.clear, libc_attr::RDONLY);
        assert_eq!(parse("rrw").recursive.clear, libc_attr::RDONLY);
        assert_eq!(
            parse("strictatime").own,
            Attributes { set: libc_attr::STRICTATIME, clear: libc_attr::ATIME }
        );
    }

    #[test]
    fn a_root_has_a_propagation_that_exists() {
        assert_eq!(root_propagation("rslave").expect("known"), Some((propagation::SLAVE, true)));
        assert_eq!(root_propagation("").expect("none"), None);
        assert!(root_propagation("everywhere").is_err());
    }
}
