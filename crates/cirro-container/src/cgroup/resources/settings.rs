//! Which value belongs into which file: pure functions, one per controller.
//!
//! Source: runtime-spec 1.2 `config-linux.md`; conversions between the versions as runc and crun do them.

use std::borrow::Cow;
use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxPids, LinuxRdma,
    LinuxThrottleDevice,
};

use crate::cgroup::Version;
use crate::error::ContainerError;

/// Whether a value must be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Required,
    /// A file that is not there is passed over.
    WhereThere,
}

/// A value for the first of some files that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) files: Vec<Cow<'static, str>>,
    pub(super) value: String,
    pub(super) need: Need,
}

fn set(file: impl Into<Cow<'static, str>>, value: impl ToString) -> Setting {
    Setting { files: vec![file.into()], value: value.to_string(), need: Need::Required }
}

fn try_set(files: &[&'static str], value: impl ToString) -> Setting {
    let files = files.iter().map(|file| Cow::Borrowed(*file)).collect();
    Setting { files, value: value.to_string(), need: Need::WhereThere }
}

/// "max" for everything below zero.
fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn refuse(text: &str) -> ContainerError {
    ContainerError::State(text.to_owned())
}

/// The two limits, whose order depends on their old values, and the rest.
pub(super) fn memory_version_1(memory: &LinuxMemory) -> (Vec<Setting>, Vec<Setting>) {
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    let mut limits = Vec::new();
    limits.extend(given(memory.limit()).map(|limit| set("memory.limit_in_bytes", limit)));
    limits.extend(given(memory.swap()).map(|swap| try_set(&["memory.memsw.limit_in_bytes"], swap)));
    let mut rest = Vec::new();
    rest.extend(given(memory.reservation()).map(|soft| set("memory.soft_limit_in_bytes", soft)));
    rest.extend(given(memory.kernel_tcp()).map(|limit| try_set(&["memory.kmem.tcp.limit_in_bytes"], limit)));
    rest.extend(memory.swappiness().map(|value| set("memory.swappiness", value)));
    if memory.disable_oom_killer() == Some(true) {
        rest.push(set("memory.oom_control", 1));
    }
    (limits, rest)
}

/// `limit` reads the limit in force, -1 for none, for the case that only swap is given.
pub(super) fn memory_version_2(
    memory: &LinuxMemory,
    limit: impl FnOnce() -> Option<i64>,
) -> Result<Vec<Setting>, ContainerError> {
    let mut settings = Vec::new();
    if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
        // The document means memory and swap together, the kernel swap alone.
        let alone = match (swap, memory.limit().filter(|limit| *limit != 0).or_else(limit)) {
            (-1, _) => -1,
            (_, None | Some(-1)) => return Err(refuse("a limit of swap needs a limit of memory")),
            (swap, Some(limit)) if swap < limit => {
                return Err(refuse("memory and swap together must be at least the limit of memory"));
            }
            (swap, Some(limit)) => swap - limit,
        };
        settings.push(try_set(&["memory.swap.max"], or_max(alone)));
    }
    settings.extend(memory.limit().filter(|limit| *limit != 0).map(|limit| set("memory.max", or_max(limit))));
    let reservation = memory.reservation().filter(|soft| *soft != 0);
    settings.extend(reservation.map(|soft| set("memory.low", or_max(soft))));
    if memory.disable_oom_killer() == Some(true) {
        return Err(refuse("cgroup version 2 cannot disable the OOM killer"));
    }
    // `swappiness` has no counterpart; dockerd warns and goes on.
    Ok(settings)
}

pub(super) fn cpu(cpu: &LinuxCpu, version: Version) -> Result<Vec<Setting>, ContainerError> {
    let shares = cpu.shares().filter(|shares| *shares != 0);
    let (quota, period) =
        (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period != 0));
    let (runtime, rt_period) = (cpu.realtime_runtime().filter(|one| *one != 0), cpu.realtime_period());
    let rt_period = rt_period.filter(|period| *period != 0);
    let mut settings = Vec::new();
    match version {
        Version::One => {
            settings.extend(shares.map(|shares| set("cpu.shares", shares)));
            settings.extend(period.map(|period| set("cpu.cfs_period_us", period)));
            settings.extend(quota.map(|quota| set("cpu.cfs_quota_us", quota)));
            settings.extend(cpu.burst().map(|burst| set("cpu.cfs_burst_us", burst)));
            settings.extend(rt_period.map(|period| set("cpu.rt_period_us", period)));
            settings.extend(runtime.map(|runtime| set("cpu.rt_runtime_us", runtime)));
        }
        Version::Two => {
            if runtime.is_some() || rt_period.is_some() {
                return Err(refuse("cgroup version 2 has no limits of realtime scheduling"));
            }
            settings.extend(shares.map(|shares| set("cpu.weight", weight_of_shares(shares))));
            if quota.is_some() || period.is_some() {
                let quota = or_max(quota.unwrap_or(-1));
                // Without a period the kernel keeps the one it has.
                let value = period.map_or(quota.clone(), |period| format!("{quota} {period}"));
                settings.push(set("cpu.max", value));
            }
            settings.extend(cpu.burst().map(|burst| set("cpu.max.burst", burst)));
        }
    }
    settings.extend(cpu.idle().map(|idle| set("cpu.idle", idle)));
    Ok(settings)
}

/// From 2–262144 to 1–10000, as the kernel documents it for the transition.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

pub(super) fn cpuset(cpu: &LinuxCpu) -> Vec<Setting> {
    let given = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
    let mut settings = Vec::new();
    settings.extend(given(cpu.cpus()).map(|list| set("cpuset.cpus", list)));
    settings.extend(given(cpu.mems()).map(|list| set("cpuset.mems", list)));
    settings
}

pub(super) fn pids(pids: &LinuxPids) -> Vec<Setting> {
    // Zero means unlimited in Docker's requests, and no container can live with none.
    vec![set("pids.max", or_max(if pids.limit() == 0 { -1 } else { pids.limit() }))]
}

pub(super) fn block(block: &LinuxBlockIo, version: Version) -> Vec<Setting> {
    let weight = block.weight().filter(|weight| *weight != 0);
    let mut settings = Vec::new();
    match version {
        Version::One => {
            settings.extend(weight.map(|weight| try_set(&["blkio.bfq.weight", "blkio.weight"], weight)));
            let leaf = block.leaf_weight().filter(|weight| *weight != 0);
            settings.extend(leaf.map(|weight| try_set(&["blkio.leaf_weight"], weight)));
        }
        Version::Two => {
            // BFQ's file takes 1–1000, the cost model's 1–10000: only one of them is there.
            settings.extend(weight.map(|weight| try_set(&["io.bfq.weight"], weight)));
            let scaled = |weight: u16| 1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990;
            settings.extend(weight.map(|weight| try_set(&["io.weight"], scaled(weight))));
        }
    }
    for device in block.weight_device().iter().flatten() {
        let number = format!("{}:{}", device.major(), device.minor());
        let files: &[&str] = match version {
            Version::One => &["blkio.bfq.weight_device", "blkio.weight_device"],
            Version::Two => &["io.bfq.weight"],
        };
        settings.extend(device.weight().map(|weight| try_set(files, format!("{number} {weight}"))));
    }
    let throttles: [(&Option<Vec<LinuxThrottleDevice>>, &str, &str); 4] = [
        (block.throttle_read_bps_device(), "read_bps", "rbps"),
        (block.throttle_write_bps_device(), "write_bps", "wbps"),
        (block.throttle_read_iops_device(), "read_iops", "riops"),
        (block.throttle_write_iops_device(), "write_iops", "wiops"),
    ];
    for (devices, first, second) in throttles {
        for device in devices.iter().flatten() {
            let (number, rate) = (format!("{}:{}", device.major(), device.minor()), device.rate());
            settings.push(match (version, rate) {
                (Version::One, _) => {
                    set(format!("blkio.throttle.{first}_device"), format!("{number} {rate}"))
                }
                (Version::Two, 0) => set("io.max", format!("{number} {second}=max")),
                (Version::Two, _) => set("io.max", format!("{number} {second}={rate}")),
            });
        }
    }
    settings
}

pub(super) fn huge(limit: &LinuxHugepageLimit, version: Version) -> Result<Vec<Setting>, ContainerError> {
    let (size, value) = (limit.page_size(), limit.limit());
    // The name becomes part of a file's: `2MB`, `1GB`.
    if !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) || size.is_empty() {
        return Err(refuse(&format!("`{size}` is no size of a huge page")));
    }
    let (limit, reserved) = match version {
        Version::One => {
            (format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.rsvd.limit_in_bytes"))
        }
        Version::Two => (format!("hugetlb.{size}.max"), format!("hugetlb.{size}.rsvd.max")),
    };
    let reserved = Setting { files: vec![reserved.into()], value: value.to_string(), need: Need::WhereThere };
    Ok(vec![set(limit, value), reserved])
}

pub(super) fn network_class(network: &LinuxNetwork, _: Version) -> Vec<Setting> {
    network.class_id().filter(|id| *id != 0).map(|id| set("net_cls.classid", id)).into_iter().collect()
}

pub(super) fn network_priorities(network: &LinuxNetwork, _: Version) -> Vec<Setting> {
    let priorities = network.priorities().iter().flatten();
    priorities.map(|one| set("net_prio.ifpriomap", format!("{} {}", one.name(), one.priority()))).collect()
}

pub(super) fn rdma(limits: &HashMap<String, LinuxRdma>) -> Vec<Setting> {
    let one = |(device, limit): (&String, &LinuxRdma)| {
        let mut value = device.clone();
        if let Some(handles) = limit.hca_handles() {
            value.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limit.hca_objects() {
            value.push_str(&format!(" hca_object={objects}"));
        }
        set("rdma.max", value)
    };
    limits.iter().map(one).collect()
}

pub(super) fn unified(values: &HashMap<String, String>) -> Result<Vec<Setting>, ContainerError> {
    let mut settings = Vec::with_capacity(values.len());
    for (file, value) in values {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        // `memory.high`, never `cgroup.procs` or a path: the group itself is not the document's business.
        let limit = file.split_once('.').is_some_and(|(controller, _)| controller != "cgroup");
        if !limit || file.starts_with('.') || file.contains("..") || !file.bytes().all(plain) {
            return Err(refuse(&format!("unified resource `{file}` is no limit of a controller")));
        }
        // A value of several lines is written a line at a time.
        settings.extend(value.lines().map(|line| set(file.clone(), line)));
    }
    settings.sort_by(|one, other| one.files.cmp(&other.files));
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxResources;
    use serde_json::{Value, json};

    use super::*;

    fn resources(json: Value) -> LinuxResources {
        serde_json::from_value(json).expect("resources")
    }

    fn shown(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|one| format!("{}={}", one.files[0], one.value)).collect()
    }

    #[test]
    fn shares_become_weights_at_both_ends() {
        assert_eq!([2, 1024, 262_144, 0, 1 << 30].map(weight_of_shares), [1, 39, 10_000, 1, 10_000]);
    }

    #[test]
    fn swap_is_what_is_beyond_memory_in_version_2() {
        let of = |json: Value, limit: i64| {
            let resources = resources(json!({ "memory": json }));
            let memory = *resources.memory();
            memory_version_2(&memory.expect("memory"), || Some(limit)).map(|settings| shown(&settings))
        };
        assert_eq!(of(json!({"limit": 10, "swap": 30}), 0).unwrap(), ["memory.swap.max=20", "memory.max=10"]);
        assert_eq!(
            of(json!({"limit": -1, "swap": -1}), 0).unwrap(),
            ["memory.swap.max=max", "memory.max=max"]
        );
        assert_eq!(of(json!({"swap": 30}), 25).unwrap(), ["memory.swap.max=5"]);
        assert!(of(json!({"swap": 30}), -1).is_err());
        assert!(of(json!({"limit": 10, "swap": 5}), 0).is_err());
    }

    #[test]
    fn both_versions_know_the_same_limits() {
        let resources = resources(json!({
            "cpu": {"shares": 1024, "quota": 5000, "period": 10_000, "burst": 100, "cpus": "0-1"},
            "blockIO": {"weight": 1000, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]}
        }));
        let (cpu_limits, io) = (resources.cpu().as_ref().unwrap(), resources.block_io().as_ref().unwrap());
        assert_eq!(
            shown(&cpu(cpu_limits, Version::One).unwrap()),
            ["cpu.shares=1024", "cpu.cfs_period_us=10000", "cpu.cfs_quota_us=5000", "cpu.cfs_burst_us=100"]
        );
        assert_eq!(
            shown(&cpu(cpu_limits, Version::Two).unwrap()),
            ["cpu.weight=39", "cpu.max=5000 10000", "cpu.max.burst=100"]
        );
        assert_eq!(shown(&cpuset(cpu_limits)), ["cpuset.cpus=0-1"]);
        assert_eq!(
            shown(&block(io, Version::One)),
            ["blkio.bfq.weight=1000", "blkio.throttle.read_bps_device=8:0 5"]
        );
        assert_eq!(
            shown(&block(io, Version::Two)),
            ["io.bfq.weight=1000", "io.weight=10000", "io.max=8:0 rbps=5"]
        );
    }

    #[test]
    fn unified_names_are_limits_only() {
        let one = |name: &str| unified(&HashMap::from([(name.to_owned(), "1\n2".to_owned())]));
        assert_eq!(shown(&one("memory.high").unwrap()), ["memory.high=1", "memory.high=2"]);
        for name in ["cgroup.procs", "../memory.max", "memory", "a/b.c", ".x", "memory..max"] {
            assert!(one(name).is_err(), "{name}");
        }
    }
}
