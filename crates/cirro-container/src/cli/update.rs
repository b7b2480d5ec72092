//! `update`: changes a container's limits while it runs.

use std::io::Read;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use super::context::{Context, absolute, hierarchies};
use super::error::CliError;
use super::flags::{Flag, Parsed};
use super::record::Status;
use super::store::read_bounded;

const MAX_RESOURCES: u64 = 1 << 20;

pub(super) const FLAGS: &[Flag] = &[
    Flag::value(
        "resources",
        "FILE",
        "path to the file containing the resources to update or '-' to read from the standard input",
    )
    .short("r"),
    Flag::value("blkio-weight", "WEIGHT", "per cgroup block IO weight"),
    Flag::value("cpu-period", "MICROSECONDS", "CPU CFS period to be used for hardcapping"),
    Flag::value("cpu-quota", "MICROSECONDS", "CPU CFS hardcap limit"),
    Flag::value("cpu-burst", "MICROSECONDS", "CPU CFS hardcap burst limit"),
    Flag::value("cpu-share", "SHARES", "CPU shares"),
    Flag::value("cpu-rt-period", "MICROSECONDS", "CPU realtime period to be used for hardcapping"),
    Flag::value("cpu-rt-runtime", "MICROSECONDS", "CPU realtime hardcap limit"),
    Flag::value("cpuset-cpus", "LIST", "CPU(s) to use"),
    Flag::value("cpuset-mems", "LIST", "memory node(s) to use"),
    Flag::value("cpu-idle", "0|1", "set cgroup SCHED_IDLE or not"),
    Flag::value("memory", "BYTES", "memory limit"),
    Flag::value("memory-reservation", "BYTES", "memory reservation or soft limit"),
    Flag::value("memory-swap", "BYTES", "total memory usage (memory + swap); '-1' is unlimited"),
    Flag::value("kernel-memory", "BYTES", "ignored: the kernel has no such limit any more"),
    Flag::value("kernel-memory-tcp", "BYTES", "ignored: the kernel has no such limit any more"),
    Flag::value("pids-limit", "N", "maximum pids allowed in the container; '-1' is unlimited"),
    Flag::value("l3-cache-schema", "SCHEMA", "not supported"),
    Flag::value("mem-bw-schema", "SCHEMA", "not supported"),
];

pub(super) fn run(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    let locked = context.store.lock(parsed.id()?)?;
    let record = locked.load()?;
    let hierarchies = hierarchies()?;
    if record.status(&hierarchies) == Status::Stopped {
        return Err(CliError::NotRunning);
    }
    if let Some(flag) = ["l3-cache-schema", "mem-bw-schema"].iter().find(|name| parsed.value(name).is_some())
    {
        return Err(CliError::Usage(format!("--{flag} is not supported")));
    }
    let mut resources = match parsed.value("resources") {
        Some(source) => read_resources(source)?,
        None => described_resources(parsed)?,
    };
    if !hierarchies.limits_swap()
        && let Some(memory) = resources.memory_mut().as_mut()
    {
        memory.set_swap(None);
    }
    let group = hierarchies.group(&record.cgroup);
    let devices = resources.devices().as_ref().filter(|devices| !devices.is_empty());
    devices
        .map_or(Ok(()), |devices| group.set_devices(devices))
        .and_then(|()| group.set_resources(&resources))
        .map_err(|error| CliError::State(error.to_string()))?;
    Ok(0)
}

fn read_resources(source: &str) -> Result<LinuxResources, CliError> {
    let (path, bytes) = if source == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(MAX_RESOURCES).read_to_end(&mut bytes);
        ("standard input".into(), read.map(|_| bytes))
    } else {
        let path = absolute(source)?;
        let bytes = read_bounded(&path, MAX_RESOURCES);
        (path, bytes)
    };
    let bytes = bytes.map_err(|source| CliError::Read { path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| CliError::Parse { path, source })
}

fn described_resources(parsed: &Parsed) -> Result<LinuxResources, CliError> {
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    if parsed.value("blkio-weight").is_some() {
        let mut blkio = LinuxBlockIo::default();
        blkio.set_weight(parsed.number("blkio-weight")?);
        resources.set_block_io(Some(blkio));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_period(parsed.number("cpu-period")?);
    cpu.set_quota(parsed.number("cpu-quota")?);
    cpu.set_burst(parsed.number("cpu-burst")?);
    cpu.set_shares(parsed.number("cpu-share")?);
    cpu.set_realtime_period(parsed.number("cpu-rt-period")?);
    cpu.set_realtime_runtime(parsed.number("cpu-rt-runtime")?);
    cpu.set_cpus(parsed.value("cpuset-cpus").map(str::to_owned));
    cpu.set_mems(parsed.value("cpuset-mems").map(str::to_owned));
    cpu.set_idle(parsed.number("cpu-idle")?);
    if cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(bytes(parsed, "memory")?);
    memory.set_reservation(bytes(parsed, "memory-reservation")?);
    memory.set_swap(bytes(parsed, "memory-swap")?);
    if memory != LinuxMemory::default() {
        resources.set_memory(Some(memory));
    }
    if let Some(limit) = parsed.number("pids-limit")? {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    Ok(resources)
}

/// A number of bytes, perhaps with a unit of 1024: `64m`, `1g`.
fn bytes(parsed: &Parsed, name: &str) -> Result<Option<i64>, CliError> {
    let Some(text) = parsed.value(name) else { return Ok(None) };
    let invalid = || CliError::Usage(format!("invalid value for {name}: {text}"));
    let lower = text.trim().to_ascii_lowercase();
    let plain = lower.trim_end_matches("ib").trim_end_matches('b');
    let (digits, power) = match plain.chars().last() {
        Some('k') => (&plain[..plain.len() - 1], 1),
        Some('m') => (&plain[..plain.len() - 1], 2),
        Some('g') => (&plain[..plain.len() - 1], 3),
        Some('t') => (&plain[..plain.len() - 1], 4),
        _ => (plain, 0),
    };
    let number: i64 = digits.trim().parse().map_err(|_| invalid())?;
    if number < -1 {
        return Err(invalid());
    }
    number.checked_mul(1024_i64.pow(power)).map(Some).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::{Rest, Shape, parse};

    fn described(text: &str) -> Result<LinuxResources, CliError> {
        let arguments: Vec<String> = text.split(' ').map(str::to_owned).collect();
        let shapes = [Shape { name: "update", flags: FLAGS, rest: Rest::Flags }];
        described_resources(&parse(&arguments, &[], shapes.iter())?)
    }

    #[test]
    fn only_what_is_given_changes() {
        let resources =
            described("update --memory 64m --memory-swap -1 --pids-limit 7 x").expect("resources");
        let memory = resources.memory().as_ref().expect("memory");
        assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(-1)));
        assert_eq!(resources.pids().as_ref().map(|pids| pids.limit()), Some(7));
        assert!(resources.cpu().is_none() && resources.block_io().is_none() && resources.devices().is_none());
        for bad in ["update --memory x", "update --memory -2", "update --cpu-share many"] {
            assert!(described(bad).is_err(), "{bad}");
        }
    }
}
