//! `events`: what a container uses, once or every few seconds until it ends, and when the kernel ran out of memory for it.

use std::time::Duration;

use serde_json::{Value, json};

use super::context::{Context, hierarchies, print_json};
use super::error::CliError;
use super::flags::{Flag, Parsed};
use super::record::Status;
use crate::cgroup::{BlockCount, Statistics};

pub(super) const FLAGS: &[Flag] = &[
    Flag::value("interval", "DURATION", "set the stats collection interval [default: 5s]"),
    Flag::switch("stats", "display the container's stats then exit"),
];

pub(super) fn run(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    let record = context.store.load(parsed.id()?)?;
    let hierarchies = hierarchies()?;
    let status = record.status(&hierarchies);
    let (Some((pid, _)), true) = (record.process, status != Status::Stopped) else {
        return Err(CliError::State(format!("container with id {} is not running", record.id)));
    };
    let interval = interval(parsed.value("interval").unwrap_or("5s"))?;
    let group = hierarchies.group(&record.cgroup);
    let mut kills = group.oom_kills();
    loop {
        let stats = group.statistics().map_err(|error| CliError::State(error.to_string()))?;
        print_json(&json!({ "type": "stats", "id": record.id, "data": view(&stats) }))?;
        if parsed.has("stats") {
            return Ok(0);
        }
        let ended = crate::process::ends_within(pid, interval)
            .map_err(CliError::system("wait for container's end"))?;
        let now = group.oom_kills();
        if now > kills {
            print_json(&json!({ "type": "oom", "id": record.id }))?;
            kills = now;
        }
        if ended {
            return Ok(0);
        }
    }
}

/// Go's way to write a time: `5s`, `500ms`, `1m`.
fn interval(text: &str) -> Result<Duration, CliError> {
    let invalid = || CliError::Usage(format!("invalid value {text:?} for flag -interval"));
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let (number, unit) =
        units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).ok_or_else(invalid)?;
    let number: u64 = number.parse().map_err(|_| invalid())?;
    let milliseconds = number.checked_mul(unit).filter(|time| *time > 0);
    milliseconds
        .map(Duration::from_millis)
        .ok_or_else(|| CliError::Usage("duration interval must be greater than 0".to_owned()))
}

fn view(stats: &Statistics) -> Value {
    let (cpu, memory) = (&stats.cpu, &stats.memory);
    json!({
        "cpu": {
            "usage": {
                "total": cpu.usage_nanoseconds, "percpu": cpu.per_cpu_nanoseconds,
                "kernel": cpu.system_nanoseconds, "user": cpu.user_nanoseconds,
            },
            "throttling": {
                "periods": cpu.periods, "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_nanoseconds,
            },
        },
        "cpuset": {},
        "memory": {
            "cache": memory.breakdown.get("cache").or_else(|| memory.breakdown.get("file")),
            "usage": {
                "limit": memory.limit_bytes.unwrap_or(u64::MAX), "usage": memory.usage_bytes,
                "max": memory.max_usage_bytes, "failcnt": memory.fail_count,
            },
            "raw": memory.breakdown,
        },
        "pids": { "current": stats.pids.current, "limit": stats.pids.limit },
        "blkio": {
            "ioServiceBytesRecursive": devices(&stats.block.service_bytes),
            "ioServicedRecursive": devices(&stats.block.serviced),
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

fn devices(counts: &[BlockCount]) -> Vec<Value> {
    let view = |count: &BlockCount| json!({ "major": count.major, "minor": count.minor, "op": count.operation, "value": count.value });
    counts.iter().map(view).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_gos() {
        assert_eq!(interval("5s").ok(), Some(Duration::from_secs(5)));
        assert_eq!(interval("250ms").ok(), Some(Duration::from_millis(250)));
        assert_eq!(interval("2m").ok(), Some(Duration::from_secs(120)));
        for bad in ["", "5", "0s", "-1s", "s"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
