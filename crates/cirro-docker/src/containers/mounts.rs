//! Binds, volumes and tmpfs: docker's three ways to write them.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use cirro_seams::container::{Mount, MountOptions, MountSource, Propagation};
use serde::Deserialize;
use serde_json::Value;

use super::fields::is_zero;
use super::request::{Config, HostConfig, MountPoint};
use crate::body;
use crate::error::ApiError;

/// Returns the mounts of a create request; two on one target are refused.
pub(crate) fn parse(config: &Config, host: &HostConfig) -> Result<Vec<Mount>, ApiError> {
    let mut mounts = Vec::new();
    check_driver(&host.volume_driver)?;
    for text in &host.binds {
        mounts.push(parse_bind(text)?);
    }
    for value in &host.mounts {
        mounts.push(parse_mount(value)?);
    }
    for (target, options) in &host.tmpfs {
        mounts.push(parse_tmpfs(target, options)?);
    }
    if let Some(target) = duplicate(&mounts) {
        return Err(ApiError::invalid(format!("Duplicate mount point: {target}")));
    }
    for target in config.volumes.keys() {
        // `-v /data` and `-v name:/data` are written together by some clients; the named one wins.
        let target = absolute(target)?;
        if !mounts.iter().any(|mount| mount.target == target) {
            let options = MountOptions::default();
            mounts.push(Mount {
                source: MountSource::Volume { name: None },
                target,
                read_only: false,
                options,
            });
        }
    }
    Ok(mounts)
}

fn duplicate(mounts: &[Mount]) -> Option<&str> {
    let mut seen = std::collections::BTreeSet::new();
    mounts.iter().map(|mount| mount.target.as_str()).find(|target| !seen.insert(*target))
}

/// Parses `/host:/target[:options]` and `volume:/target[:options]`.
fn parse_bind(text: &str) -> Result<Mount, ApiError> {
    let invalid = || ApiError::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(invalid()),
    };
    let source = match source {
        None => MountSource::Volume { name: None },
        Some("") => return Err(invalid()),
        Some(path) if path.starts_with('/') => MountSource::Bind { path: PathBuf::from(path), create: true },
        Some(name) => MountSource::Volume { name: Some(volume_name(name)?) },
    };
    let (read_only, options) = bind_options(text, options, matches!(source, MountSource::Bind { .. }))?;
    Ok(Mount { source, target: absolute(target)?, read_only, options })
}

/// Returns whether the options say read-only, and the others.
fn bind_options(text: &str, written: &str, of_path: bool) -> Result<(bool, MountOptions), ApiError> {
    let mut read_only = false;
    let mut options = MountOptions::default();
    for option in written.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // z and Z relabel for SELinux, which is not in use; the caches are macOS'.
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" => (),
            "nocopy" if !of_path => options.no_copy = true,
            word => match Propagation::parse(word).filter(|_| of_path) {
                Some(propagation) => options.propagation = propagation,
                None => return Err(ApiError::invalid(format!("invalid mode: {word} in '{text}'"))),
            },
        }
    }
    Ok((read_only, options))
}

/// Parses `--volumes-from NAME[:ro|rw|z]`.
pub(crate) fn parse_from(text: &str) -> Result<(String, bool), ApiError> {
    let (name, mode) = text.split_once(':').unwrap_or((text, ""));
    match (name, mode) {
        ("", _) => Err(ApiError::invalid(format!("malformed volumes-from specification: {text}"))),
        (_, "ro") => Ok((name.to_owned(), true)),
        (_, "" | "rw" | "z" | "Z") => Ok((name.to_owned(), false)),
        _ => Err(ApiError::invalid(format!("invalid mode: {mode}"))),
    }
}

/// Checks a volume's name.
pub(crate) fn volume_name(name: &str) -> Result<String, ApiError> {
    let mut bytes = name.bytes();
    let fits = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && (2..=255).contains(&name.len());
    match fits {
        true => Ok(name.to_owned()),
        false => Err(ApiError::invalid(format!(
            "\"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are \
             allowed. If you intended to pass a host directory, use absolute path"
        ))),
    }
}

/// Checks the target of a mount and takes superfluous slashes off its end.
fn absolute(target: &str) -> Result<String, ApiError> {
    if !target.starts_with('/') {
        return Err(ApiError::invalid(format!("invalid mount path: '{target}' mount path must be absolute")));
    }
    match target.trim_end_matches('/') {
        "" => Err(ApiError::invalid("invalid specification: destination can't be '/'")),
        trimmed => Ok(trimmed.to_owned()),
    }
}

fn parse_mount(value: &Value) -> Result<Mount, ApiError> {
    let point: MountPoint = body::decode(value.clone())?;
    let refused = match point.kind.as_str() {
        "bind" => [&point.volume_options, &point.tmpfs_options],
        "volume" => [&point.bind_options, &point.tmpfs_options],
        "tmpfs" => [&point.bind_options, &point.volume_options],
        "image" | "cluster" | "npipe" => {
            return Err(ApiError::not_supported(format!("a mount of type {}", point.kind)));
        }
        other => return Err(ApiError::invalid(format!("mount type unknown: \"{other}\""))),
    };
    if refused.iter().any(|options| !is_zero(options)) {
        return Err(ApiError::invalid(format!(
            "invalid mount config for type \"{}\": options of another type are set",
            point.kind
        )));
    }
    let (source, options) = match point.kind.as_str() {
        "bind" => bind_source(&point)?,
        "volume" => volume_source(&point)?,
        _ => tmpfs_source(&point)?,
    };
    Ok(Mount { source, target: absolute(&point.target)?, read_only: point.read_only, options })
}

/// `BindOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase", deny_unknown_fields)]
struct BindOptions {
    propagation: String,
    non_recursive: bool,
    create_mountpoint: bool,
    read_only_non_recursive: bool,
    read_only_force_recursive: bool,
}

/// `VolumeOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase", deny_unknown_fields)]
struct VolumeOptions {
    no_copy: bool,
    labels: BTreeMap<String, String>,
    subpath: String,
    driver_config: DriverConfig,
}

/// `VolumeOptions.DriverConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase", deny_unknown_fields)]
struct DriverConfig {
    name: String,
    options: BTreeMap<String, String>,
}

/// `TmpfsOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase", deny_unknown_fields)]
struct TmpfsOptions {
    size_bytes: i64,
    mode: u32,
    options: Vec<Vec<String>>,
}

fn options_of<T: serde::de::DeserializeOwned + Default>(value: &Value) -> Result<T, ApiError> {
    if is_zero(value) { Ok(T::default()) } else { body::decode(value.clone()) }
}

fn invalid(kind: &str, why: impl std::fmt::Display) -> ApiError {
    ApiError::invalid(format!("invalid mount config for type \"{kind}\": {why}"))
}

fn bind_source(point: &MountPoint) -> Result<(MountSource, MountOptions), ApiError> {
    let refuse = |why: String| Err(invalid("bind", why));
    if point.source.is_empty() {
        return refuse("field Source must not be empty".into());
    }
    if !point.source.starts_with('/') {
        return refuse(format!("invalid mount path: '{}' mount path must be absolute", point.source));
    }
    let asked: BindOptions = options_of(&point.bind_options)?;
    let propagation = match asked.propagation.as_str() {
        "" => Propagation::default(),
        word => match Propagation::parse(word) {
            Some(propagation) => propagation,
            None => return Err(ApiError::invalid(format!("invalid propagation mode: {word}"))),
        },
    };
    if (asked.read_only_non_recursive || asked.read_only_force_recursive) && !point.read_only {
        let name =
            if asked.read_only_non_recursive { "ReadOnlyNonRecursive" } else { "ReadOnlyForceRecursive" };
        return refuse(format!("mount must be \"ReadOnly\" when using \"{name}\""));
    }
    if asked.read_only_non_recursive && asked.read_only_force_recursive {
        return refuse("\"ReadOnlyForceRecursive\" and \"ReadOnlyNonRecursive\" are exclusive".into());
    }
    // A read-only mount is recursively so in any case; who insists may not have mounts come in later.
    if asked.read_only_force_recursive && propagation != Propagation::RPrivate {
        return refuse("\"ReadOnlyForceRecursive\" requires the propagation \"rprivate\"".into());
    }
    let options = MountOptions {
        propagation,
        non_recursive: asked.non_recursive,
        read_only_non_recursive: asked.read_only_non_recursive,
        ..MountOptions::default()
    };
    let source = MountSource::Bind { path: PathBuf::from(&point.source), create: asked.create_mountpoint };
    Ok((source, options))
}

fn volume_source(point: &MountPoint) -> Result<(MountSource, MountOptions), ApiError> {
    let asked: VolumeOptions = options_of(&point.volume_options)?;
    check_driver(&asked.driver_config.name)?;
    if !asked.subpath.is_empty() {
        if point.source.is_empty() {
            return Err(invalid("volume", "must not set Subpath when using anonymous volumes"));
        }
        let local = Path::new(&asked.subpath)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !local || asked.subpath.contains('\0') {
            return Err(invalid("volume", "subpath must be a relative path within the volume"));
        }
    }
    let name = match point.source.as_str() {
        "" => None,
        name => Some(volume_name(name)?),
    };
    let options = MountOptions {
        // What is below a place in the volume is not what the image has at the target.
        no_copy: asked.no_copy || !asked.subpath.is_empty(),
        subpath: (!asked.subpath.is_empty()).then_some(asked.subpath),
        labels: asked.labels,
        driver_options: asked.driver_config.options,
        ..MountOptions::default()
    };
    Ok((MountSource::Volume { name }, options))
}

/// Refuses every volume driver but ours, as dockerd does without plugins.
pub(crate) fn check_driver(name: &str) -> Result<(), ApiError> {
    match name {
        "" | "local" => Ok(()),
        other => Err(ApiError::not_found(format!(
            "error looking up volume plugin {other}: plugin \"{other}\" not found"
        ))),
    }
}

fn tmpfs_source(point: &MountPoint) -> Result<(MountSource, MountOptions), ApiError> {
    if !point.source.is_empty() {
        return Err(invalid("tmpfs", "field Source must not be specified"));
    }
    let asked: TmpfsOptions = options_of(&point.tmpfs_options)?;
    let size = u64::try_from(asked.size_bytes).map_err(|_| invalid("tmpfs", "size must not be negative"))?;
    let mut words = Vec::new();
    for option in asked.options {
        words.push(tmpfs_word(&option.join("="))?);
    }
    let options = MountOptions { tmpfs: words, ..MountOptions::default() };
    let (size, mode) = (Some(size).filter(|size| *size != 0), Some(asked.mode).filter(|mode| *mode != 0));
    Ok((MountSource::Tmpfs { size, mode }, options))
}

/// Options of a tmpfs that take no value; the kernel and docker know no others that do no harm.
const TMPFS_WORDS: [&str; 16] = [
    "rw",
    "noexec",
    "exec",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "sync",
    "async",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "strictatime",
];
/// Those that take one.
const TMPFS_VALUES: [&str; 5] = ["uid", "gid", "nr_inodes", "nr_blocks", "mpol"];

/// Checks one option of a tmpfs.
fn tmpfs_word(option: &str) -> Result<String, ApiError> {
    let known = match option.split_once('=') {
        Some((name, value)) => {
            TMPFS_VALUES.contains(&name)
                && !value.is_empty()
                && value.bytes().all(|byte| byte.is_ascii_graphic())
        }
        None => TMPFS_WORDS.contains(&option),
    };
    match known {
        true => Ok(option.to_owned()),
        false => Err(ApiError::invalid(format!("invalid tmpfs option [\"{option}\"]"))),
    }
}

/// Parses `--tmpfs /run:size=64m,mode=755`.
fn parse_tmpfs(target: &str, written: &str) -> Result<Mount, ApiError> {
    let (mut size, mut mode, mut read_only) = (None, None, false);
    let mut options = MountOptions::default();
    for option in written.split(',').filter(|option| !option.is_empty()) {
        let invalid = || ApiError::invalid(format!("invalid tmpfs option \"{option}\""));
        match option.split_once('=') {
            Some(("size", value)) => size = Some(tmpfs_size(value).ok_or_else(invalid)?),
            Some(("mode", value)) => mode = Some(u32::from_str_radix(value, 8).map_err(|_| invalid())?),
            None if option == "ro" => read_only = true,
            _ => options.tmpfs.push(tmpfs_word(option)?),
        }
    }
    Ok(Mount { source: MountSource::Tmpfs { size, mode }, target: absolute(target)?, read_only, options })
}

/// Parses bytes with a suffix of the kernel's: `k`, `m` or `g`.
fn tmpfs_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bind(text: &str) -> Mount {
        parse_bind(text).unwrap()
    }

    #[test]
    fn binds_are_paths_or_volumes() {
        assert_eq!(
            bind("/host/dir:/data:ro,z"),
            Mount {
                source: MountSource::Bind { path: "/host/dir".into(), create: true },
                target: "/data".into(),
                read_only: true,
                options: MountOptions::default(),
            }
        );
        assert_eq!(bind("cache:/data/").source, MountSource::Volume { name: Some("cache".into()) });
        assert_eq!(bind("cache:/data/").target, "/data");
        assert_eq!(bind("/data").source, MountSource::Volume { name: None });
    }

    #[test]
    fn malformed_binds_are_refused() {
        for text in ["", ":/data", "a:b", "/a:/", "../x:/data", "a:/b:c:d", "/a:/b:sideways"] {
            assert_eq!(parse_bind(text).unwrap_err().status, 400, "{text}");
        }
        for text in ["vol:/b:rshared", "/a:/b:nocopy"] {
            assert_eq!(parse_bind(text).unwrap_err().status, 400, "{text}");
        }
        assert_eq!(bind("/a:/b:rslave").options.propagation, Propagation::RSlave);
        assert!(bind("vol:/b:nocopy").options.no_copy);
    }

    #[test]
    fn mounts_have_a_type_with_its_own_options() {
        let mount = |value: Value| parse_mount(&value);
        let volume =
            mount(json!({"Type": "volume", "Source": "cache", "Target": "/c", "ReadOnly": true})).unwrap();
        assert_eq!(volume.source, MountSource::Volume { name: Some("cache".into()) });
        assert!(volume.read_only);
        let tmpfs =
            mount(json!({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 448}}));
        assert_eq!(tmpfs.unwrap().source, MountSource::Tmpfs { size: Some(4096), mode: Some(0o700) });
        let bind = mount(
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "rprivate"}}),
        );
        assert_eq!(bind.unwrap().source, MountSource::Bind { path: "/a".into(), create: false });
        for (value, status) in [
            (json!({"Type": "bind", "Source": "a", "Target": "/b"}), 400),
            (json!({"Type": "floppy", "Target": "/b"}), 400),
            (json!({"Type": "bind", "Source": "/a", "Target": "/b", "TmpfsOptions": {"SizeBytes": 1}}), 400),
            (json!({"Type": "bind", "Source": "", "Target": "/b"}), 400),
            (
                json!({"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "odd"}}),
                400,
            ),
            (
                json!({"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"ReadOnlyNonRecursive": true}}),
                400,
            ),
            (json!({"Type": "volume", "Target": "/b", "VolumeOptions": {"Subpath": "x"}}), 400),
            (
                json!({"Type": "volume", "Source": "v1", "Target": "/b", "VolumeOptions": {"Subpath": "../x"}}),
                400,
            ),
            (
                json!({"Type": "volume", "Target": "/b", "VolumeOptions": {"DriverConfig": {"Name": "nfs"}}}),
                404,
            ),
            (json!({"Type": "image", "Source": "x", "Target": "/b"}), 501),
        ] {
            assert_eq!(mount(value.clone()).unwrap_err().status, status, "{value}");
        }
    }

    #[test]
    fn a_bind_says_how_far_it_is_read_only() {
        let bind = |options: Value| {
            parse_mount(
                &json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true, "BindOptions": options}),
            )
        };
        assert!(bind(json!({"ReadOnlyNonRecursive": true})).unwrap().options.read_only_non_recursive);
        assert!(!bind(json!({"ReadOnlyForceRecursive": true})).unwrap().options.read_only_non_recursive);
        for options in [
            json!({"ReadOnlyForceRecursive": true, "Propagation": "rslave"}),
            json!({"ReadOnlyForceRecursive": true, "ReadOnlyNonRecursive": true}),
        ] {
            assert_eq!(bind(options).unwrap_err().status, 400);
        }
        let volume =
            json!({"Type": "volume", "Source": "v1", "Target": "/b", "VolumeOptions": {"Subpath": "a/./b"}});
        let options = parse_mount(&volume).unwrap().options;
        assert_eq!((options.subpath.as_deref(), options.no_copy), (Some("a/./b"), true));
    }

    #[test]
    fn tmpfs_options_are_the_kernels() {
        let mount = parse_tmpfs("/run", "rw,noexec,size=64k,mode=755").unwrap();
        assert_eq!(mount.source, MountSource::Tmpfs { size: Some(65536), mode: Some(0o755) });
        assert_eq!(parse_tmpfs("/run", "exec,uid=33").unwrap().options.tmpfs, ["exec", "uid=33"]);
        assert_eq!(parse_tmpfs("/run", "odd").unwrap_err().status, 400);
        assert_eq!(parse_tmpfs("/run", "size=much").unwrap_err().status, 400);
    }

    #[test]
    fn one_target_has_one_mount() {
        let host = HostConfig { binds: vec!["a1:/x".into(), "b1:/x/".into()], ..HostConfig::default() };
        assert_eq!(parse(&Config::default(), &host).unwrap_err().message, "Duplicate mount point: /x");
    }
}
