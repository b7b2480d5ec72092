//! Devices of the host for a container: device nodes and what its cgroup allows.
//!
//! Source: moby `daemon/pkg/oci/devices_linux.go`.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cirro_seams::container::{DevicePath, DeviceRule, Devices};
use serde_json::{Value, json};

use crate::error::EngineError;

/// A tree of device nodes deeper or larger than this is not walked to its end.
const MAX_DEPTH: usize = 16;
const MAX_NODES: usize = 4096;
/// Every container has these, or something is mounted there.
const OWN: [&str; 12] =
    ["console", "ptmx", "pts", "shm", "mqueue", "fd", "null", "zero", "full", "random", "urandom", "tty"];

/// `linux.devices`, and the rules of the device cgroup that come with them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct HostDevices {
    pub nodes: Vec<Value>,
    pub rules: Vec<Value>,
}

/// Looks the devices of a request up.
pub(crate) fn look_up(devices: &Devices, privileged: bool) -> Result<HostDevices, EngineError> {
    let mut found = HostDevices::default();
    if privileged {
        collect(Path::new("/dev"), Path::new("/dev"), "rwm", 0, &mut found);
        found.rules.clear();
    }
    for device in &devices.paths {
        // They are there already.
        if privileged && device.host == device.container {
            continue;
        }
        let access = if privileged { "rwm" } else { device.access.as_str() };
        let mut own = look_up_path(device, access)?;
        found.nodes.append(&mut own.nodes);
        if !privileged {
            found.rules.append(&mut own.rules);
        }
    }
    if !privileged {
        found.rules.extend(devices.rules.iter().map(rule));
    }
    Ok(found)
}

fn look_up_path(device: &DevicePath, access: &str) -> Result<HostDevices, EngineError> {
    let host = device.host.display();
    let failed = |why: &dyn std::fmt::Display| {
        EngineError::Failed(format!(
            "error gathering device information while adding custom device \"{host}\": {why}"
        ))
    };
    // A link stands for what it points to, under its own name.
    let real = std::fs::canonicalize(&device.host).map_err(|error| failed(&error_text(&error)))?;
    let meta = std::fs::metadata(&real).map_err(|error| failed(&error_text(&error)))?;
    let mut found = HostDevices::default();
    if meta.is_dir() {
        collect(&real, &device.container, access, 0, &mut found);
    } else {
        add(&meta, &device.container, access, &mut found);
    }
    if found.nodes.is_empty() {
        return Err(failed(&"not a device node"));
    }
    Ok(found)
}

fn error_text(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

/// Takes every device below a directory; what cannot be read is left out.
fn collect(dir: &Path, target: &Path, access: &str, depth: usize, found: &mut HostDevices) {
    if depth > MAX_DEPTH {
        return;
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if dir == Path::new("/dev") && OWN.iter().any(|own| name == *own) {
            continue;
        }
        // Not followed: links in /dev are made by its owner, not asked for here.
        let Ok(meta) = std::fs::symlink_metadata(entry.path()) else { continue };
        if found.nodes.len() >= MAX_NODES {
            return;
        }
        if meta.is_dir() {
            collect(&entry.path(), &target.join(&name), access, depth + 1, found);
        } else {
            add(&meta, &target.join(&name), access, found);
        }
    }
}

fn add(meta: &Metadata, target: &Path, access: &str, found: &mut HostDevices) {
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return,
    };
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    found.nodes.push(json!({
        "path": target, "type": kind, "major": major, "minor": minor,
        "fileMode": meta.mode() & 0o777, "uid": meta.uid(), "gid": meta.gid(),
    }));
    found
        .rules
        .push(json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": access }));
}

/// Writes a rule for the runtime.
fn rule(rule: &DeviceRule) -> Value {
    let mut value = json!({ "allow": true, "type": rule.kind.to_string(), "access": rule.access });
    if let Some(major) = rule.major {
        value["major"] = json!(major);
    }
    if let Some(minor) = rule.minor {
        value["minor"] = json!(minor);
    }
    value
}

/// Returns `MAJOR:MINOR` of a block device.
pub(crate) fn numbers(path: &PathBuf) -> Result<(u32, u32), EngineError> {
    let meta = std::fs::metadata(path)
        .map_err(|error| EngineError::Invalid(format!("stat {}: {}", path.display(), error_text(&error))))?;
    Ok((rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(host: &str, container: &str, access: &str) -> DevicePath {
        DevicePath { host: host.into(), container: container.into(), access: access.into() }
    }

    #[test]
    fn a_device_gets_its_new_path_and_a_rule() {
        let devices = Devices { paths: vec![path("/dev/null", "/dev/nothing", "r")], ..Devices::default() };
        let found = look_up(&devices, false).unwrap();
        assert_eq!(found.nodes[0]["path"], "/dev/nothing");
        assert_eq!((&found.nodes[0]["major"], &found.nodes[0]["minor"]), (&json!(1), &json!(3)));
        assert_eq!(
            found.rules,
            [json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "r" })]
        );
    }

    #[test]
    fn what_is_no_device_is_refused_in_dockers_words() {
        let refusal = |host: &str| {
            let devices = Devices { paths: vec![path(host, "/dev/x", "rwm")], ..Devices::default() };
            look_up(&devices, false).unwrap_err().to_string()
        };
        let prefix = "error gathering device information while adding custom device";
        assert_eq!(
            refusal("/dev/none-such"),
            format!("{prefix} \"/dev/none-such\": no such file or directory")
        );
        assert_eq!(refusal("/etc/passwd"), format!("{prefix} \"/etc/passwd\": not a device node"));
    }

    #[test]
    fn a_directory_of_devices_comes_whole_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let devices = Devices {
            paths: vec![path(dir.path().to_str().unwrap(), "/dev/d", "rwm")],
            ..Devices::default()
        };
        assert!(look_up(&devices, false).unwrap_err().to_string().ends_with("not a device node"));
    }

    #[test]
    fn rules_name_numbers_or_all_of_them() {
        let rules = vec![DeviceRule { kind: 'c', major: Some(42), minor: None, access: "rw".into() }];
        let found = look_up(&Devices { rules, ..Devices::default() }, false).unwrap();
        assert_eq!(found.rules, [json!({ "allow": true, "type": "c", "access": "rw", "major": 42 })]);
        assert!(look_up(&Devices::default(), true).unwrap().rules.is_empty());
    }
}
