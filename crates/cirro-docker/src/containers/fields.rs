//! Which fields of a create request work, which do no harm, and which are refused.
//!
//! A field that would silently do nothing could cost somebody their data or their safety, so one that is not
//! there yet is refused when it is set to anything but its default. Fields that dockerd does not know either are
//! ignored, as Go's decoder does. `docs/compatibility-docker.md` has the same tables; a test compares.

use serde_json::Value;

use crate::error::ApiError;

/// How a field is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// It works.
    Works,
    /// It changes nothing here, for the reason given.
    NoEffect(&'static str),
    /// It is refused unless it has its zero value or one of these (as JSON).
    Refused(&'static [&'static str]),
}

use Support::{NoEffect, Refused, Works};

/// The fields of `Config` (the top level of a create request).
pub(crate) const CONFIG: &[(&str, Support)] = &[
    ("Hostname", Works),
    ("Domainname", Works),
    ("User", Works),
    ("AttachStdin", NoEffect("what is attached is said when attaching")),
    ("AttachStdout", NoEffect("what is attached is said when attaching")),
    ("AttachStderr", NoEffect("what is attached is said when attaching")),
    ("ExposedPorts", Works),
    ("Tty", Works),
    ("OpenStdin", Works),
    ("StdinOnce", Works),
    ("Env", Works),
    ("Cmd", Works),
    ("Healthcheck", Works),
    ("ArgsEscaped", NoEffect("Windows only")),
    ("Image", Works),
    ("Volumes", Works),
    ("WorkingDir", Works),
    ("Entrypoint", Works),
    ("NetworkDisabled", Works),
    ("MacAddress", Works),
    ("OnBuild", NoEffect("concerns builds only")),
    ("Labels", Works),
    ("StopSignal", Works),
    ("StopTimeout", Works),
    ("Shell", NoEffect("concerns builds only")),
];

/// The fields of `HostConfig`.
pub(crate) const HOST_CONFIG: &[(&str, Support)] = &[
    ("Binds", Works),
    ("ContainerIDFile", NoEffect("written by the client")),
    ("LogConfig", Works),
    ("NetworkMode", Works),
    ("PortBindings", Works),
    ("RestartPolicy", Works),
    ("AutoRemove", Works),
    ("VolumeDriver", Works),
    ("VolumesFrom", Works),
    ("ConsoleSize", Works),
    ("Annotations", Works),
    ("CapAdd", Works),
    ("CapDrop", Works),
    ("CgroupnsMode", Works),
    ("Dns", Works),
    ("DnsOptions", Works),
    ("DnsSearch", Works),
    ("ExtraHosts", Works),
    ("GroupAdd", Works),
    ("IpcMode", Works),
    ("Cgroup", Refused(&[])),
    ("Links", Works),
    ("OomScoreAdj", Works),
    ("PidMode", Works),
    ("Privileged", Works),
    ("PublishAllPorts", Works),
    ("ReadonlyRootfs", Works),
    ("SecurityOpt", Works),
    ("StorageOpt", Works),
    ("Tmpfs", Works),
    ("UTSMode", Works),
    ("UsernsMode", Works),
    ("ShmSize", Works),
    ("Sysctls", Works),
    ("Runtime", Works),
    ("Isolation", Works),
    ("MaskedPaths", Works),
    ("ReadonlyPaths", Works),
    ("Mounts", Works),
    ("Init", Works),
    ("CpuShares", Works),
    ("Memory", Works),
    ("NanoCpus", Works),
    ("CgroupParent", Works),
    ("BlkioWeight", Works),
    ("BlkioWeightDevice", Works),
    ("BlkioDeviceReadBps", Works),
    ("BlkioDeviceWriteBps", Works),
    ("BlkioDeviceReadIOps", Works),
    ("BlkioDeviceWriteIOps", Works),
    ("CpuPeriod", Works),
    ("CpuQuota", Works),
    ("CpuRealtimePeriod", Works),
    ("CpuRealtimeRuntime", Works),
    ("CpusetCpus", Works),
    ("CpusetMems", Works),
    ("Devices", Works),
    ("DeviceCgroupRules", Works),
    ("DeviceRequests", Works),
    ("KernelMemory", NoEffect("no kernel has it any more; a warning says so")),
    ("KernelMemoryTCP", NoEffect("no kernel has it any more; a warning says so")),
    ("MemoryReservation", Works),
    ("MemorySwap", Works),
    ("MemorySwappiness", Works),
    ("OomKillDisable", Works),
    ("PidsLimit", Works),
    ("Ulimits", Works),
    ("CpuCount", NoEffect("Windows only")),
    ("CpuPercent", NoEffect("Windows only")),
    ("IOMaximumIOps", NoEffect("Windows only; refused as dockerd does")),
    ("IOMaximumBandwidth", NoEffect("Windows only; refused as dockerd does")),
];

/// The fields of one entry of `NetworkingConfig.EndpointsConfig`.
pub(crate) const ENDPOINT: &[(&str, Support)] = &[
    ("IPAMConfig", Works),
    ("Aliases", Works),
    ("Links", Works),
    ("MacAddress", Works),
    ("DriverOpts", Works),
    ("GwPriority", Works),
    ("NetworkID", NoEffect("an answer's field")),
    ("EndpointID", NoEffect("an answer's field")),
    ("Gateway", NoEffect("an answer's field")),
    ("IPAddress", NoEffect("an answer's field")),
    ("IPPrefixLen", NoEffect("an answer's field")),
    ("IPv6Gateway", NoEffect("an answer's field")),
    ("GlobalIPv6Address", NoEffect("an answer's field")),
    ("GlobalIPv6PrefixLen", NoEffect("an answer's field")),
    ("DNSNames", NoEffect("an answer's field")),
];

/// Refuses the first field of `object` that is set and not supported. `within` goes before its name.
pub(crate) fn check(table: &[(&str, Support)], within: &str, object: &Value) -> Result<(), ApiError> {
    let Value::Object(object) = object else { return Ok(()) };
    for (name, support) in table {
        let Some(value) = object.get(*name) else { continue };
        let same = |text: &&str| serde_json::from_str::<Value>(text).is_ok_and(|other| other == *value);
        let refused = match support {
            Works | NoEffect(_) => false,
            Refused(harmless) => !is_zero(value) && !harmless.iter().any(same),
        };
        if refused {
            return Err(ApiError::not_supported(format!("{within}{name}")));
        }
    }
    Ok(())
}

/// Returns whether a value is what Go's zero value becomes in JSON.
pub(crate) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_pass_and_settings_are_refused_by_name() {
        let defaults = json!({"CgroupParent": "", "VolumesFrom": [], "Cgroup": "", "Unknown": 5,
            "Binds": ["/a:/b"]});
        assert_eq!(check(HOST_CONFIG, "HostConfig.", &defaults), Ok(()));
        let error = check(HOST_CONFIG, "HostConfig.", &json!({ "Cgroup": "x" })).unwrap_err();
        assert_eq!(error.message, "HostConfig.Cgroup is not supported yet");
        assert_eq!(error.status, 501);
    }

    #[test]
    fn the_compatibility_page_has_the_same_tables() {
        let page = include_str!("../../../../docs/compatibility-docker.md");
        for (table, within) in [(CONFIG, ""), (HOST_CONFIG, "HostConfig."), (ENDPOINT, "EndpointsConfig.")] {
            for (name, support) in table {
                let state = match support {
                    Works => "works",
                    NoEffect(_) => "no effect",
                    Refused(_) => "not supported",
                };
                let row = format!("| `{within}{name}` | {state} |");
                assert!(page.contains(&row), "missing in docs/compatibility-docker.md: {row}");
            }
        }
    }
}
