//! Devices by name: the host's CDI files, and what they say a container needs for a device.
//!
//! Source: CDI specification 0.8 (cncf-tags/container-device-interface, `SPEC.md`).

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::devices::HostDevices;
use crate::error::EngineError;

/// Where the files are; the later directory wins.
pub(crate) const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
const MAX_FILE: u64 = 1 << 20;
const MAX_FILES: usize = 256;

/// One file: devices of a kind.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    /// `vendor.com/class`.
    kind: String,
    devices: Vec<Device>,
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Edits,
}

/// What is changed in a container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: Option<String>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    file_mode: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    options: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Hook {
    hook_name: String,
    path: String,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<i64>,
}

/// What all devices of a container change in its document.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Injection {
    pub env: Vec<String>,
    pub devices: HostDevices,
    pub mounts: Vec<Value>,
    pub gids: Vec<u32>,
    /// By the names of the runtime specification (`createRuntime`).
    pub hooks: Vec<(String, Value)>,
}

/// The host's CDI files.
#[derive(Debug, Default)]
pub(crate) struct Registry(Vec<File>);

impl Registry {
    /// Reads every file; one that cannot be read or understood is left out with a warning.
    pub(crate) fn read(directories: &[&Path]) -> Self {
        let mut files = Vec::new();
        for path in directories.iter().flat_map(|dir| paths(dir)) {
            match read_file(&path) {
                // The last one wins, so it is looked at first.
                Ok(file) => files.insert(0, file),
                Err(why) => tracing::warn!(file = %path.display(), why, "CDI file left out"),
            }
        }
        Self(files)
    }

    /// Returns the names of every device that can be asked for.
    pub(crate) fn names(&self) -> Vec<String> {
        let of = |file: &File| {
            let kind = file.kind.clone();
            file.devices.iter().map(move |device| format!("{kind}={}", device.name)).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of).collect()
    }

    /// Turns a wish for GPUs in general (`gpu:COUNT`, `gpu:=ID`) into names; other names stay.
    fn resolve(&self, name: &str) -> Result<Vec<String>, EngineError> {
        let Some(wish) = name.strip_prefix("gpu:") else { return Ok(vec![name.to_owned()]) };
        let none = || {
            let text = "could not select device driver \"\" with capabilities: [[gpu]]";
            EngineError::Failed(text.into())
        };
        let gpus = self.0.iter().find(|file| file.kind.ends_with("/gpu")).ok_or_else(none)?;
        let qualified = |device: &str| format!("{}={device}", gpus.kind);
        if let Some(id) = wish.strip_prefix('=') {
            return Ok(vec![qualified(id)]);
        }
        let count: i64 = wish.parse().map_err(|_| none())?;
        let single = gpus.devices.iter().filter(|device| device.name != "all");
        let names: Vec<String> = single.map(|device| qualified(&device.name)).collect();
        match usize::try_from(count) {
            // Negative: all of them.
            Err(_) if names.is_empty() => Ok(vec![qualified("all")]),
            Err(_) => Ok(names),
            Ok(count) if count <= names.len() => Ok(names[..count.max(1).min(names.len())].to_vec()),
            Ok(_) => Err(none()),
        }
    }

    fn find(&self, name: &str) -> Option<(&File, &Device)> {
        let (kind, device) = name.split_once('=')?;
        let of = |file: &&File| file.kind == kind && file.devices.iter().any(|one| one.name == device);
        let file = self.0.iter().find(of)?;
        Some((file, file.devices.iter().find(|one| one.name == device)?))
    }

    /// Puts together what the named devices change.
    pub(crate) fn inject(&self, wanted: &[String]) -> Result<Injection, EngineError> {
        let mut names = Vec::new();
        for name in wanted {
            names.extend(self.resolve(name)?);
        }
        let missing: Vec<&str> =
            names.iter().filter(|name| self.find(name).is_none()).map(String::as_str).collect();
        if !missing.is_empty() {
            let text =
                format!("CDI device injection failed: unresolvable CDI devices {}", missing.join(", "));
            return Err(EngineError::Failed(text));
        }
        let mut injection = Injection::default();
        let mut seen: Vec<&str> = Vec::new();
        for (file, device) in names.iter().filter_map(|name| self.find(name)) {
            // What all devices of a file share is done once.
            if !seen.contains(&file.kind.as_str()) {
                seen.push(&file.kind);
                injection.add(&file.container_edits)?;
            }
            injection.add(&device.container_edits)?;
        }
        Ok(injection)
    }
}

impl Injection {
    fn add(&mut self, edits: &Edits) -> Result<(), EngineError> {
        self.env.extend(edits.env.iter().cloned());
        self.gids.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
        for node in &edits.device_nodes {
            self.add_node(node)?;
        }
        for mount in &edits.mounts {
            let kind = mount.kind.clone().filter(|kind| !kind.is_empty()).unwrap_or_else(|| "bind".into());
            let plain = ["rbind".to_owned(), "rprivate".into()];
            let options = if mount.options.is_empty() { &plain[..] } else { &mount.options };
            self.mounts.push(json!({
                "destination": mount.container_path, "type": kind, "source": mount.host_path, "options": options,
            }));
        }
        for hook in &edits.hooks {
            let mut value = json!({ "path": hook.path, "args": hook.args, "env": hook.env });
            if let Some(timeout) = hook.timeout {
                value["timeout"] = json!(timeout);
            }
            self.hooks.push((hook.hook_name.clone(), value));
        }
        Ok(())
    }

    fn add_node(&mut self, node: &Node) -> Result<(), EngineError> {
        let device = cirro_seams::container::DevicePath {
            host: node.host_path.clone().unwrap_or_else(|| node.path.clone()).into(),
            container: node.path.clone().into(),
            access: node.permissions.clone().unwrap_or_else(|| "rwm".into()),
        };
        let asked = cirro_seams::container::Devices { paths: vec![device], ..Default::default() };
        let failed = |error: EngineError| {
            EngineError::Failed(format!("CDI device injection failed: failed to inject devices: {error}"))
        };
        let mut found = super::devices::look_up(&asked, false).map_err(failed)?;
        for made in &mut found.nodes {
            for (name, value) in [("uid", node.uid), ("gid", node.gid), ("fileMode", node.file_mode)] {
                if let Some(value) = value {
                    made[name] = json!(value);
                }
            }
        }
        self.devices.nodes.append(&mut found.nodes);
        self.devices.rules.append(&mut found.rules);
        Ok(())
    }
}

/// Returns the names of every device that the host's CDI files offer.
pub fn cdi_devices() -> Vec<String> {
    Registry::read(&DIRECTORIES.map(Path::new)).names()
}

/// Returns the directories of the host's CDI files.
pub fn cdi_directories() -> [&'static str; 2] {
    DIRECTORIES
}

/// Lists the files of a directory by name.
fn paths(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let known = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| extension == "json" || extension == "yaml" || extension == "yml")
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(known).take(MAX_FILES).collect();
    paths.sort();
    paths
}

fn read_file(path: &Path) -> Result<File, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let length = file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if length as u64 > MAX_FILE {
        return Err("larger than 1 MiB".into());
    }
    let parsed: File = if path.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str(&text).map_err(|error| error.to_string())?
    } else {
        serde_saphyr::from_str(&text).map_err(|error| error.to_string())?
    };
    match parsed.kind.split_once('/') {
        Some((vendor, class)) if !vendor.is_empty() && !class.is_empty() => Ok(parsed),
        _ => Err(format!("no kind: {:?}", parsed.kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: &str = r#"{"cdiVersion": "0.5.0", "kind": "vendor.com/net", "containerEdits": {"env": ["ALL=1"]},
        "devices": [{"name": "one", "containerEdits": {
            "env": ["ONE=1"], "additionalGids": [0, 44],
            "deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/null", "permissions": "r", "fileMode": 432}],
            "mounts": [{"hostPath": "/lib/one", "containerPath": "/usr/lib/one", "options": ["ro", "bind"]}],
            "hooks": [{"hookName": "createContainer", "path": "/bin/true", "args": ["true"]}]}}]}"#;
    const GPU: &str = "cdiVersion: 0.5.0\nkind: vendor.com/gpu\ndevices:\n- name: '0'\n  containerEdits: {env: [GPU=0]}\n- name: '1'\n  containerEdits: {env: [GPU=1]}\n- name: all\n  containerEdits: {env: [GPU=all]}\n";

    fn registry() -> Registry {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("net.json"), NETWORK).unwrap();
        std::fs::write(dir.path().join("gpu.yaml"), GPU).unwrap();
        std::fs::write(dir.path().join("broken.json"), "{").unwrap();
        std::fs::write(dir.path().join("notes.txt"), "x").unwrap();
        Registry::read(&[dir.path(), Path::new("/none/such")])
    }

    fn injected(names: &[&str]) -> Result<Injection, EngineError> {
        registry().inject(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_device_brings_its_own_edits_and_its_files() {
        let found = injected(&["vendor.com/net=one"]).unwrap();
        assert_eq!(found.env, ["ALL=1", "ONE=1"]);
        assert_eq!(found.gids, [44]);
        assert_eq!(found.devices.nodes[0]["path"], "/dev/one");
        assert_eq!(found.devices.nodes[0]["fileMode"], 432);
        assert_eq!(found.devices.rules[0]["access"], "r");
        assert_eq!(found.mounts[0]["destination"], "/usr/lib/one");
        assert_eq!(found.hooks[0].0, "createContainer");
    }

    #[test]
    fn gpus_are_counted_out() {
        assert_eq!(injected(&["gpu:-1"]).unwrap().env, ["GPU=0", "GPU=1"]);
        assert_eq!(injected(&["gpu:1"]).unwrap().env, ["GPU=0"]);
        assert_eq!(injected(&["gpu:=1"]).unwrap().env, ["GPU=1"]);
        assert!(injected(&["gpu:3"]).is_err());
        let error = Registry::default().inject(&["gpu:-1".into()]).unwrap_err();
        assert_eq!(error.to_string(), "could not select device driver \"\" with capabilities: [[gpu]]");
    }

    #[test]
    fn names_that_nobody_knows_are_refused_in_dockers_words() {
        let error = injected(&["vendor.com/net=two", "x.com/y=z"]).unwrap_err();
        let text = "CDI device injection failed: unresolvable CDI devices vendor.com/net=two, x.com/y=z";
        assert_eq!(error.to_string(), text);
        assert_eq!(registry().names().len(), 4);
    }
}
