//! Limits: cgroup resources, rlimits, the score for the out-of-memory killer.

use cirro_seams::container::{BlockIo, ContainerSpec, DeviceLimit, Resources};
use serde_json::{Value, json};

use super::host::HostFacts;
use crate::error::EngineError;

const CPU_PERIOD: u64 = 100_000;

/// Processes and threads of a container that asks for no other number (`--pids-limit -1` for no limit): more than any service
/// needs, and a fork bomb leaves the host room.
const DEFAULT_PIDS: i64 = 16_384;

/// Returns `linux.resources`; `more` are the rules of the request's own devices.
pub(crate) fn resources(
    spec: &ContainerSpec,
    host: &HostFacts,
    more: &[Value],
) -> Result<Value, EngineError> {
    let mut devices = devices(spec.privileged);
    if let Value::Array(rules) = &mut devices {
        rules.extend(more.iter().cloned());
    }
    let mut all = limits(&spec.resources, host)?;
    all["devices"] = devices;
    // (0 is what docker's client sends when nothing was said.)
    if all.get("pids").is_none() {
        all["pids"] = json!({ "limit": DEFAULT_PIDS });
    }
    Ok(all)
}

/// Returns the limits in `linux.resources`, without devices.
pub(crate) fn limits(asked: &Resources, host: &HostFacts) -> Result<Value, EngineError> {
    let mut all = json!({});
    if let Some(memory) = memory(asked, host) {
        all["memory"] = memory;
    }
    if let Some(cpu) = cpu(asked) {
        all["cpu"] = cpu;
    }
    if let Some(pids) = asked.pids.filter(|pids| *pids != 0) {
        all["pids"] = json!({ "limit": pids });
    }
    if let Some(block_io) = block_io(&asked.block_io)? {
        all["blockIO"] = block_io;
    }
    Ok(all)
}

fn block_io(asked: &BlockIo) -> Result<Option<Value>, EngineError> {
    let mut block_io = serde_json::Map::new();
    if let Some(weight) = asked.weight {
        block_io.insert("weight".into(), json!(weight));
    }
    for (name, member, list) in [
        ("weightDevice", "weight", &asked.weight_devices),
        ("throttleReadBpsDevice", "rate", &asked.read_bps),
        ("throttleWriteBpsDevice", "rate", &asked.write_bps),
        ("throttleReadIOPSDevice", "rate", &asked.read_iops),
        ("throttleWriteIOPSDevice", "rate", &asked.write_iops),
    ] {
        let limit = |limit: &DeviceLimit| -> Result<Value, EngineError> {
            let (major, minor) = super::devices::numbers(&limit.path)?;
            Ok(json!({ "major": major, "minor": minor, member: limit.value }))
        };
        if !list.is_empty() {
            block_io.insert(name.into(), list.iter().map(limit).collect::<Result<_, _>>()?);
        }
    }
    Ok((!block_io.is_empty()).then_some(Value::Object(block_io)))
}

fn memory(asked: &Resources, host: &HostFacts) -> Option<Value> {
    let positive = |value: Option<i64>| value.filter(|value| *value > 0);
    let limit = positive(asked.memory);
    let reservation = positive(asked.memory_reservation);
    // Docker's default: as much swap again as memory.
    let swap = match asked.memory_swap {
        Some(swap) if swap != 0 => Some(swap),
        _ => limit.map(|limit| limit.saturating_mul(2)),
    };
    let mut memory = serde_json::Map::new();
    let mut set =
        |name: &str, value: Option<i64>| value.map(|value| memory.insert(name.into(), json!(value)));
    set("limit", limit);
    set("reservation", reservation);
    set("swap", swap.filter(|_| host.swap_limit && limit.is_some()));
    set("swappiness", asked.memory_swappiness.and_then(|swappiness| i64::try_from(swappiness).ok()));
    if asked.oom_kill_disable {
        memory.insert("disableOOMKiller".into(), json!(true));
    }
    (!memory.is_empty()).then_some(Value::Object(memory))
}

fn cpu(asked: &Resources) -> Option<Value> {
    let mut cpu = serde_json::Map::new();
    if let Some(nano) = asked.nano_cpus.filter(|nano| *nano > 0) {
        let quota = i128::from(nano) * i128::from(CPU_PERIOD) / 1_000_000_000;
        cpu.insert("quota".into(), json!(i64::try_from(quota).unwrap_or(i64::MAX)));
        cpu.insert("period".into(), json!(CPU_PERIOD));
    }
    let mut set = |name: &str, value: Option<Value>| value.map(|value| cpu.insert(name.into(), value));
    set("shares", asked.cpu_shares.filter(|shares| *shares > 0).map(Value::from));
    set("quota", asked.cpu_quota.filter(|quota| *quota != 0).map(Value::from));
    set("period", asked.cpu_period.filter(|period| *period > 0).map(Value::from));
    set("realtimeRuntime", asked.cpu_realtime_runtime.filter(|runtime| *runtime > 0).map(Value::from));
    set("realtimePeriod", asked.cpu_realtime_period.filter(|period| *period > 0).map(Value::from));
    set("cpus", asked.cpuset_cpus.clone().filter(|cpus| !cpus.is_empty()).map(Value::from));
    set("mems", asked.cpuset_mems.clone().filter(|mems| !mems.is_empty()).map(Value::from));
    (!cpu.is_empty()).then_some(Value::Object(cpu))
}

/// Docker's device rules: nothing but the harmless ones, which may also be made.
fn devices(privileged: bool) -> Value {
    if privileged {
        return json!([{ "allow": true, "access": "rwm" }]);
    }
    let allow = |kind: &str, major: i64, minor: i64| json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": "rwm" });
    json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "access": "m" },
        { "allow": true, "type": "b", "access": "m" },
        allow("c", 1, 3), allow("c", 1, 5), allow("c", 1, 7), allow("c", 1, 8), allow("c", 1, 9),
        allow("c", 5, 0), allow("c", 5, 1), allow("c", 5, 2),
        { "allow": true, "type": "c", "major": 136, "access": "rwm" },
    ])
}

/// Returns `process.rlimits`, no higher than the host allows.
pub(crate) fn rlimits(spec: &ContainerSpec, host: &HostFacts) -> Result<Value, EngineError> {
    const KNOWN: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let limit = |(name, soft, hard): &(String, u64, u64)| {
        if !KNOWN.contains(&name.as_str()) {
            return Err(EngineError::Invalid(format!("invalid ulimit type: {name}")));
        }
        if soft > hard {
            let text = format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}");
            return Err(EngineError::Invalid(text));
        }
        let most = host.hard_limits.get(name.as_str()).copied().unwrap_or(u64::MAX);
        let kind = format!("RLIMIT_{}", name.to_ascii_uppercase());
        Ok(json!({ "type": kind, "soft": soft.min(&most), "hard": hard.min(&most) }))
    };
    spec.ulimits.iter().map(limit).collect()
}

/// Returns the score that is given, not below what the host allows.
pub(crate) fn oom_score(spec: &ContainerSpec, host: &HostFacts) -> Option<i32> {
    spec.oom_score_adj.map(|score| score.clamp(host.lowest_oom_score.max(-1000), 1000))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn with(resources: Resources) -> ContainerSpec {
        ContainerSpec { resources, ..ContainerSpec::default() }
    }

    #[test]
    fn cpus_become_a_quota_and_memory_brings_swap() {
        let asked = with(Resources {
            memory: Some(64 << 20),
            nano_cpus: Some(500_000_000),
            pids: Some(100),
            ..Resources::default()
        });
        let host = HostFacts { swap_limit: true, ..HostFacts::default() };
        let all = resources(&asked, &host, &[]).unwrap();
        assert_eq!(all["memory"]["limit"], 64 << 20);
        assert_eq!(all["memory"]["swap"], 128 << 20);
        assert_eq!((&all["cpu"]["quota"], &all["cpu"]["period"]), (&json!(50_000), &json!(100_000)));
        assert_eq!(all["pids"]["limit"], 100);
        assert!(resources(&asked, &HostFacts::default(), &[]).unwrap()["memory"].get("swap").is_none());
        assert!(resources(&with(Resources::default()), &host, &[]).unwrap().get("memory").is_none());
        let pids = |pids| {
            let asked = with(Resources { pids, ..Resources::default() });
            resources(&asked, &host, &[]).unwrap()["pids"]["limit"].clone()
        };
        assert_eq!((pids(None), pids(Some(-1))), (json!(DEFAULT_PIDS), json!(-1)));
    }

    #[test]
    fn devices_get_their_limits_by_number() {
        let limit = |value| vec![DeviceLimit { path: "/dev/null".into(), value }];
        let block_io = BlockIo {
            weight: Some(300),
            read_bps: limit(1 << 20),
            write_iops: limit(9),
            ..BlockIo::default()
        };
        let asked = Resources { block_io, memory_swappiness: Some(10), ..Resources::default() };
        let all = limits(&asked, &HostFacts::default()).unwrap();
        assert_eq!(all["blockIO"]["weight"], 300);
        let rate = json!([{ "major": 1, "minor": 3, "rate": 1 << 20 }]);
        assert_eq!(all["blockIO"]["throttleReadBpsDevice"], rate);
        assert_eq!(all["blockIO"]["throttleWriteIOPSDevice"][0]["rate"], 9);
        assert_eq!(all["memory"], json!({ "swappiness": 10 }));
    }

    #[test]
    fn limits_are_clamped_to_the_hosts() {
        let spec = ContainerSpec {
            ulimits: vec![("nofile".into(), 1024, 1 << 30)],
            oom_score_adj: Some(-500),
            ..ContainerSpec::default()
        };
        let host = HostFacts { hard_limits: BTreeMap::from([("nofile", 4096)]), ..HostFacts::default() };
        let limits = rlimits(&spec, &host).unwrap();
        assert_eq!(limits[0], json!({ "type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096 }));
        assert_eq!(oom_score(&spec, &host), Some(0));
        assert!(rlimits(&ContainerSpec { ulimits: vec![("x".into(), 1, 1)], ..spec }, &host).is_err());
    }
}
