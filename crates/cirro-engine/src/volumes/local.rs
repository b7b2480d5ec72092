//! Options of the volume driver `local`: `type`, `o` and `device`, in `mount(8)`'s words.
//!
//! A volume that is another directory of this host (`type=none,o=bind,device=/dir`) is mounted from there. Everything that
//! would have to be mounted on the host first is refused when the volume is made: dockerd fails at the first use.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Volume;
use crate::error::EngineError;

/// Refuses options that dockerd does not know, and those that cannot be had here.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<(), EngineError> {
    if let Some(name) = options.keys().find(|name| !matches!(name.as_str(), "type" | "o" | "device" | "size"))
    {
        return Err(EngineError::Invalid(format!("invalid option: \"{name}\"")));
    }
    if options.is_empty() {
        return Ok(());
    }
    if options.contains_key("size") {
        let text = "quota size requested but no quota support on this host's file system";
        return Err(EngineError::Invalid(text.into()));
    }
    if option(options, "device").is_empty() {
        return Err(EngineError::Invalid("missing device in volume options".into()));
    }
    if !is_bind(options) {
        let text = format!("a volume of type {:?} is not supported: want o=bind", option(options, "type"));
        return Err(EngineError::NotSupported(text));
    }
    if !option(options, "device").starts_with('/') {
        return Err(EngineError::Invalid("the device of a bind must be an absolute path".into()));
    }
    let known = |word: &str| matches!(word, "bind" | "rbind" | "ro" | "rw" | "");
    match words(options).find(|word| !known(word)) {
        Some(word) => Err(EngineError::NotSupported(format!("the volume option o={word} is not supported"))),
        None => Ok(()),
    }
}

fn option<'a>(options: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    options.get(name).map(String::as_str).unwrap_or_default()
}

fn words(options: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    option(options, "o").split(',')
}

fn is_bind(options: &BTreeMap<String, String>) -> bool {
    words(options).any(|word| matches!(word, "bind" | "rbind"))
}

/// Returns where the files of a volume are.
pub(super) fn source(volume: &Volume) -> Result<PathBuf, EngineError> {
    if !is_bind(&volume.options) {
        return Ok(volume.mountpoint.clone());
    }
    let device = PathBuf::from(option(&volume.options, "device"));
    match device.is_dir() {
        true => Ok(device),
        false => Err(EngineError::Failed(format!(
            "failed to mount local volume: mount {}:{}, flags: 0x1000: no such file or directory",
            device.display(),
            volume.mountpoint.display()
        ))),
    }
}

/// Whether a volume's options say that nobody writes to it.
pub(super) fn is_read_only(volume: &Volume) -> bool {
    words(&volume.options).any(|word| word == "ro")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn binds_are_taken_and_everything_else_is_refused_by_name() {
        check(&options(&[])).unwrap();
        check(&options(&[("type", "none"), ("o", "bind,ro"), ("device", "/srv")])).unwrap();
        for (pairs, text) in [
            (&[("colour", "red")][..], "invalid option: \"colour\""),
            (&[("type", "none"), ("o", "bind")], "missing device in volume options"),
            (&[("o", "bind"), ("device", "srv")], "the device of a bind must be an absolute path"),
            (
                &[("type", "nfs"), ("o", "addr=10.0.0.1"), ("device", ":/x")],
                "a volume of type \"nfs\" is not supported: want o=bind",
            ),
        ] {
            assert_eq!(check(&options(pairs)).unwrap_err().to_string(), text);
        }
    }
}
