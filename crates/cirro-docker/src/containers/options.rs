//! What of the host a container shares, in docker's words: modes of namespaces, devices, links, hidden paths.
//!
//! Source: moby `daemon/daemon_unix.go`, `opts/`, `api/types/container/hostconfig.go`.

use std::collections::BTreeMap;

use cirro_seams::container::{
    CgroupNamespace, ContainerSpec, DeviceLimit, DevicePath, DeviceRule, Devices, IpcMode, NetworkMode,
};
use serde::Deserialize;
use serde_json::Value;

use crate::error::ApiError;

/// The runtime's names: ours, and nothing for the default.
const RUNTIMES: [&str; 2] = ["", "cirro"];

/// The members of `HostConfig` that say what is shared.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Options {
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) cgroupns_mode: String,
    pub(crate) device_cgroup_rules: Vec<String>,
    pub(crate) device_requests: Vec<DeviceRequest>,
    pub(crate) devices: Vec<Device>,
    pub(crate) ipc_mode: String,
    pub(crate) isolation: String,
    pub(crate) links: Vec<String>,
    pub(crate) masked_paths: Option<Vec<String>>,
    pub(crate) readonly_paths: Option<Vec<String>>,
    pub(crate) runtime: String,
    #[serde(rename = "UTSMode")]
    pub(crate) uts_mode: String,
    pub(crate) userns_mode: String,
}

/// A device of the host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Device {
    path_on_host: String,
    path_in_container: String,
    cgroup_permissions: String,
}

/// Devices by what they can, or by their names.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct DeviceRequest {
    driver: String,
    count: i64,
    #[serde(rename = "DeviceIDs")]
    device_ids: Vec<String>,
    capabilities: Vec<Vec<String>>,
}

/// A limit of one device.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct DeviceValue {
    path: String,
    #[serde(alias = "Weight")]
    rate: u64,
}

/// Translates limits of devices.
pub(crate) fn device_limits(limits: &[DeviceValue]) -> Vec<DeviceLimit> {
    limits.iter().map(|limit| DeviceLimit { path: limit.path.clone().into(), value: limit.rate }).collect()
}

impl Options {
    /// Puts the options into a spec.
    pub(crate) fn apply(self, spec: &mut ContainerSpec) -> Result<(), ApiError> {
        let invalid = |text: String| Err(ApiError::invalid(text));
        spec.namespaces.ipc = ipc_mode(&self.ipc_mode)?;
        spec.namespaces.cgroup = cgroup_namespace(&self.cgroupns_mode)?;
        spec.namespaces.host_uts = match self.uts_mode.as_str() {
            "" => false,
            "host" => true,
            other => return invalid(format!("invalid UTS mode: {other}")),
        };
        if !matches!(self.userns_mode.as_str(), "" | "host") {
            return invalid(format!("invalid userns mode: {}", self.userns_mode));
        }
        if !matches!(self.isolation.as_str(), "" | "default") {
            return invalid(format!("invalid isolation '{}' on linux", self.isolation));
        }
        if !RUNTIMES.contains(&self.runtime.as_str()) {
            return invalid(format!("unknown or invalid runtime name: {}", self.runtime));
        }
        if self.annotations.contains_key("") {
            return invalid(
                "invalid Annotations: the empty string is not permitted as an annotation key".into(),
            );
        }
        if spec.namespaces.host_uts && spec.hostname.is_some() {
            return invalid("conflicting options: hostname and the UTS mode".into());
        }
        spec.links = self.links.iter().map(|link| parse_link(link)).collect::<Result<_, _>>()?;
        check_links(spec)?;
        spec.devices = devices(self.devices, &self.device_cgroup_rules, &self.device_requests)?;
        spec.system_paths.masked = self.masked_paths;
        spec.system_paths.read_only = self.readonly_paths;
        spec.annotations = self.annotations;
        Ok(())
    }
}

fn ipc_mode(mode: &str) -> Result<IpcMode, ApiError> {
    Ok(match mode {
        "" | "private" => IpcMode::Private,
        "shareable" => IpcMode::Shareable,
        "none" => IpcMode::None,
        "host" => IpcMode::Host,
        other => match other.strip_prefix("container:").filter(|container| !container.is_empty()) {
            Some(container) => IpcMode::Container(container.to_owned()),
            None => return Err(ApiError::invalid(format!("invalid IPC mode: {other}"))),
        },
    })
}

/// Returns a mode as docker writes it.
pub(crate) fn ipc_text(mode: &IpcMode) -> String {
    match mode {
        IpcMode::Private => "private".into(),
        IpcMode::Shareable => "shareable".into(),
        IpcMode::None => "none".into(),
        IpcMode::Host => "host".into(),
        IpcMode::Container(container) => format!("container:{container}"),
    }
}

fn cgroup_namespace(mode: &str) -> Result<Option<CgroupNamespace>, ApiError> {
    match mode {
        "" => Ok(None),
        "private" => Ok(Some(CgroupNamespace::Private)),
        "host" => Ok(Some(CgroupNamespace::Host)),
        other => Err(ApiError::invalid(format!("invalid cgroup namespace mode: {other}"))),
    }
}

/// Parses `container:alias`; a container alone is its own alias.
fn parse_link(link: &str) -> Result<(String, String), ApiError> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut parts = link.split(':');
    match (parts.next().unwrap_or_default(), parts.next(), parts.next()) {
        ("", None, _) => Err(ApiError::invalid("empty string specified for links")),
        (_, _, Some(_)) | ("", ..) | (_, Some(""), _) => {
            Err(ApiError::invalid(format!("bad format for links: {link}")))
        }
        (name, None, None) => Ok((base(name), base(name))),
        (name, Some(alias), None) => Ok((base(name), base(alias))),
    }
}

fn check_links(spec: &ContainerSpec) -> Result<(), ApiError> {
    let kind = match spec.network {
        NetworkMode::Host => "host type networking",
        NetworkMode::Container(_) => "container type network",
        _ => return Ok(()),
    };
    match spec.links.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid(format!(
            "conflicting options: {kind} can't be used with links. This would result in undefined behavior"
        ))),
    }
}

fn devices(paths: Vec<Device>, rules: &[String], requests: &[DeviceRequest]) -> Result<Devices, ApiError> {
    let mut devices = Devices::default();
    for device in paths {
        if is_qualified(&device.path_on_host) {
            devices.cdi.push(device.path_on_host);
            continue;
        }
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        devices.paths.push(DevicePath {
            container: or(device.path_in_container, &device.path_on_host).into(),
            access: access(&or(device.cgroup_permissions, "rwm"))?,
            host: device.path_on_host.into(),
        });
    }
    devices.rules = rules.iter().map(|rule| parse_rule(rule)).collect::<Result<_, _>>()?;
    for request in requests {
        devices.cdi.extend(requested(request)?);
    }
    Ok(devices)
}

fn access(text: &str) -> Result<String, ApiError> {
    let known = text.chars().all(|letter| "rwm".contains(letter)) && !text.is_empty() && text.len() <= 3;
    match known {
        true => Ok(text.to_owned()),
        false => Err(ApiError::invalid(format!("invalid device mode: {text}"))),
    }
}

/// Parses `c 42:* rmw`.
fn parse_rule(text: &str) -> Result<DeviceRule, ApiError> {
    let invalid = || ApiError::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let words: Vec<&str> = text.split(' ').collect();
    let [kind @ ("a" | "b" | "c"), numbers, wanted] = words[..] else { return Err(invalid()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits => digits.parse::<u32>().map(|number| Some(i64::from(number))).map_err(|_| invalid()),
    };
    Ok(DeviceRule {
        kind: kind.chars().next().expect("one of three letters"),
        major: number(major)?,
        minor: number(minor)?,
        access: access(wanted).map_err(|_| invalid())?,
    })
}

/// Whether a name is `vendor.com/class=name`.
fn is_qualified(name: &str) -> bool {
    let Some((kind, device)) = name.split_once('=') else { return false };
    !name.starts_with('/')
        && !device.is_empty()
        && kind
            .split_once('/')
            .is_some_and(|(vendor, class)| !vendor.is_empty() && !class.is_empty() && !class.contains('/'))
}

/// Returns the CDI names of a request. One for GPUs in general becomes `gpu:COUNT` or `gpu:=ID`, which the engine looks up.
fn requested(request: &DeviceRequest) -> Result<Vec<String>, ApiError> {
    if request.driver == "cdi" {
        if request.count != 0 {
            return Err(ApiError::invalid("cannot set count with a CDI device request"));
        }
        return match request.device_ids.iter().find(|id| !is_qualified(id)) {
            Some(id) => Err(ApiError::invalid(format!("invalid CDI device name: {id}"))),
            None => Ok(request.device_ids.clone()),
        };
    }
    let capabilities: Vec<String> =
        request.capabilities.iter().map(|all| format!("[{}]", all.join(" "))).collect();
    let wants_gpu = request.capabilities.iter().flatten().any(|capability| capability == "gpu");
    if !wants_gpu || !matches!(request.driver.as_str(), "" | "nvidia") {
        return Err(ApiError::failed(format!(
            "could not select device driver \"{}\" with capabilities: [{}]",
            request.driver,
            capabilities.join(" ")
        )));
    }
    if request.count != 0 && !request.device_ids.is_empty() {
        return Err(ApiError::invalid("cannot set both Count and DeviceIDs on device request"));
    }
    if request.device_ids.is_empty() {
        return Ok(vec![format!("gpu:{}", request.count)]);
    }
    Ok(request.device_ids.iter().map(|id| format!("gpu:={id}")).collect())
}

/// What dockerd answers for options of Windows.
pub(crate) fn check_windows(host: &Value) -> Result<(), ApiError> {
    let set = |name: &str| host.get(name).and_then(Value::as_i64).unwrap_or(0) != 0;
    match set("IOMaximumBandwidth") || set("IOMaximumIOps") {
        true => Err(ApiError::invalid(
            "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps",
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn applied(options: Value) -> Result<ContainerSpec, ApiError> {
        let mut spec = ContainerSpec::default();
        serde_json::from_value::<Options>(options).unwrap().apply(&mut spec)?;
        Ok(spec)
    }

    #[test]
    fn modes_are_read() {
        let options = json!({"IpcMode": "container:a", "UTSMode": "host", "CgroupnsMode": "private",
            "UsernsMode": "host", "Runtime": "cirro", "Isolation": "default"});
        let spec = applied(options).unwrap();
        assert_eq!(spec.namespaces.ipc, IpcMode::Container("a".into()));
        assert!(spec.namespaces.host_uts);
        assert_eq!(spec.namespaces.cgroup, Some(CgroupNamespace::Private));
        for mode in ["private", "shareable", "none", "host", "container:x"] {
            assert_eq!(ipc_text(&ipc_mode(mode).unwrap()), mode);
        }
    }

    #[test]
    fn unknown_words_are_refused_in_dockers_words() {
        for (options, text) in [
            (json!({"IpcMode": "sometimes"}), "invalid IPC mode: sometimes"),
            (json!({"UTSMode": "x"}), "invalid UTS mode: x"),
            (json!({"CgroupnsMode": "x"}), "invalid cgroup namespace mode: x"),
            (json!({"Isolation": "hyperv"}), "invalid isolation 'hyperv' on linux"),
            (json!({"Runtime": "runsc"}), "unknown or invalid runtime name: runsc"),
            (json!({"Links": [""]}), "empty string specified for links"),
            (json!({"Links": ["a:b:c"]}), "bad format for links: a:b:c"),
            (json!({"DeviceCgroupRules": ["c 1 r"]}), "invalid device cgroup rule format: 'c 1 r'"),
            (
                json!({"DeviceRequests": [{"Driver": "x", "Capabilities": [["gpu", "y"]]}]}),
                "could not select device driver \"x\" with capabilities: [[gpu y]]",
            ),
        ] {
            assert_eq!(applied(options.clone()).unwrap_err().message, text, "{options}");
        }
        assert!(applied(json!({"UsernsMode": "keep-id"})).is_err());
    }

    #[test]
    fn devices_come_by_path_rule_and_name() {
        let options = json!({
            "Devices": [{"PathOnHost": "/dev/kvm", "PathInContainer": "", "CgroupPermissions": "rw"},
                        {"PathOnHost": "vendor.com/net=eth1"}],
            "DeviceCgroupRules": ["a *:* rwm", "c 42:7 r"],
            "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["vendor.com/gpu=0"]},
                               {"Count": -1, "Capabilities": [["gpu"]]}],
        });
        let devices = applied(options).unwrap().devices;
        assert_eq!(devices.paths[0].container, devices.paths[0].host);
        assert_eq!(devices.paths.len(), 1);
        assert_eq!((devices.rules[1].major, devices.rules[1].minor), (Some(42), Some(7)));
        assert_eq!(devices.cdi, ["vendor.com/net=eth1", "vendor.com/gpu=0", "gpu:-1"]);
    }

    #[test]
    fn links_have_an_alias_or_their_own_name() {
        let spec = applied(json!({"Links": ["db", "/web:/me/front"]})).unwrap();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(spec.links, [pair("db", "db"), pair("web", "front")]);
    }

    #[test]
    fn no_hidden_paths_is_not_the_same_as_the_default() {
        let spec = applied(json!({"MaskedPaths": []})).unwrap();
        assert_eq!((spec.system_paths.masked, spec.system_paths.read_only), (Some(vec![]), None));
    }
}
