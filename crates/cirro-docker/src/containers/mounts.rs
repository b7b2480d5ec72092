//! Binds, volumes and tmpfs: docker's three ways to write them.

use std::path::PathBuf;

use cirro_seams::container::{Mount, MountSource};
use serde_json::{Value, json};

use super::fields::is_zero;
use super::request::{Config, HostConfig, MountPoint};
use crate::body;
use crate::error::ApiError;

/// Returns the mounts of a create request; two on one target are refused.
pub(crate) fn parse(config: &Config, host: &HostConfig) -> Result<Vec<Mount>, ApiError> {
    let mut mounts = Vec::new();
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
            mounts.push(Mount { source: MountSource::Volume { name: None }, target, read_only: false });
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
    Ok(Mount { source, target: absolute(target)?, read_only: bind_options(text, options)? })
}

/// Returns whether the options say read-only.
fn bind_options(text: &str, options: &str) -> Result<bool, ApiError> {
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // z and Z relabel for SELinux, which is not in use; the caches are macOS'.
            "rw" | "z" | "Z" | "rprivate" | "private" | "consistent" | "cached" | "delegated" => (),
            "shared" | "slave" | "rshared" | "rslave" | "nocopy" | "volume-nocopy" => {
                return Err(ApiError::not_supported(format!("the mount option {option}")));
            }
            _ => return Err(ApiError::invalid(format!("invalid mode: {option} in '{text}'"))),
        }
    }
    Ok(read_only)
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
    let source = match point.kind.as_str() {
        "bind" => bind_source(&point)?,
        "volume" => volume_source(&point)?,
        _ => tmpfs_source(&point)?,
    };
    Ok(Mount { source, target: absolute(&point.target)?, read_only: point.read_only })
}

fn bind_source(point: &MountPoint) -> Result<MountSource, ApiError> {
    if !point.source.starts_with('/') {
        return Err(ApiError::invalid(format!(
            "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be absolute",
            point.source
        )));
    }
    only(
        &point.bind_options,
        "BindOptions",
        &[("CreateMountpoint", None), ("Propagation", Some("rprivate")), ("Propagation", Some("private"))],
    )?;
    let create = point.bind_options["CreateMountpoint"] == json!(true);
    Ok(MountSource::Bind { path: PathBuf::from(&point.source), create })
}

fn volume_source(point: &MountPoint) -> Result<MountSource, ApiError> {
    let mut options = point.volume_options.clone();
    if let Some(driver) = options.get_mut("DriverConfig") {
        only(driver, "VolumeOptions.DriverConfig", &[("Name", Some("local"))])?;
        *driver = Value::Null;
    }
    only(&options, "VolumeOptions", &[])?;
    let name = match point.source.as_str() {
        "" => None,
        name => Some(volume_name(name)?),
    };
    Ok(MountSource::Volume { name })
}

fn tmpfs_source(point: &MountPoint) -> Result<MountSource, ApiError> {
    if !point.source.is_empty() {
        return Err(ApiError::invalid(
            "invalid mount config for type \"tmpfs\": field Source must not be specified",
        ));
    }
    only(&point.tmpfs_options, "TmpfsOptions", &[("SizeBytes", None), ("Mode", None)])?;
    Ok(MountSource::Tmpfs {
        size: point.tmpfs_options["SizeBytes"].as_u64().filter(|size| *size != 0),
        mode: point.tmpfs_options["Mode"]
            .as_u64()
            .and_then(|mode| u32::try_from(mode).ok())
            .filter(|mode| *mode != 0),
    })
}

/// Refuses every option that is set, but for those allowed: any value, or the one value given.
fn only(options: &Value, within: &str, allowed: &[(&str, Option<&str>)]) -> Result<(), ApiError> {
    let Value::Object(options) = options else { return Ok(()) };
    for (name, value) in options {
        let fits = allowed.iter().any(|(other, only)| name == other && only.is_none_or(|only| value == only));
        if !fits && !is_zero(value) {
            return Err(ApiError::not_supported(format!("Mounts.{within}.{name}")));
        }
    }
    Ok(())
}

/// Parses `--tmpfs /run:size=64m,mode=755`.
fn parse_tmpfs(target: &str, options: &str) -> Result<Mount, ApiError> {
    let (mut size, mut mode, mut read_only) = (None, None, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let invalid = || ApiError::invalid(format!("invalid tmpfs option \"{option}\""));
        match option.split_once('=') {
            Some(("size", value)) => size = Some(tmpfs_size(value).ok_or_else(invalid)?),
            Some(("mode", value)) => mode = Some(u32::from_str_radix(value, 8).map_err(|_| invalid())?),
            None if option == "ro" => read_only = true,
            // What every tmpfs of a container has anyway.
            None if matches!(option, "rw" | "noexec" | "nosuid" | "nodev") => (),
            _ => return Err(ApiError::not_supported(format!("the tmpfs option {option}"))),
        }
    }
    Ok(Mount { source: MountSource::Tmpfs { size, mode }, target: absolute(target)?, read_only })
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
                read_only: true
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
        for text in ["/a:/b:rshared", "vol:/b:nocopy"] {
            assert_eq!(parse_bind(text).unwrap_err().status, 501, "{text}");
        }
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
            (
                json!({"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "rshared"}}),
                501,
            ),
            (json!({"Type": "volume", "Target": "/b", "VolumeOptions": {"NoCopy": true}}), 501),
            (
                json!({"Type": "volume", "Target": "/b", "VolumeOptions": {"DriverConfig": {"Name": "nfs"}}}),
                501,
            ),
            (json!({"Type": "image", "Source": "x", "Target": "/b"}), 501),
        ] {
            assert_eq!(mount(value.clone()).unwrap_err().status, status, "{value}");
        }
    }

    #[test]
    fn tmpfs_options_are_the_kernels() {
        let mount = parse_tmpfs("/run", "rw,noexec,size=64k,mode=755").unwrap();
        assert_eq!(mount.source, MountSource::Tmpfs { size: Some(65536), mode: Some(0o755) });
        assert_eq!(parse_tmpfs("/run", "exec").unwrap_err().status, 501);
        assert_eq!(parse_tmpfs("/run", "size=much").unwrap_err().status, 400);
    }

    #[test]
    fn one_target_has_one_mount() {
        let host = HostConfig { binds: vec!["a1:/x".into(), "b1:/x/".into()], ..HostConfig::default() };
        assert_eq!(parse(&Config::default(), &host).unwrap_err().message, "Duplicate mount point: /x");
    }
}
