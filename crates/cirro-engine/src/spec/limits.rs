//! Limits that cannot be, in docker's words; and limits that the kernel cannot set, which are left out with a warning.
//!
//! Source: moby `daemon/daemon_unix.go`, `verifyPlatformContainerResources`.

use cirro_seams::container::Resources;

use super::host::HostFacts;
use super::support::{LimitSupport, parse_list};
use crate::error::EngineError;

const MIN_MEMORY: i64 = 6 << 20;

/// Whether limits are those of a new container or change those of one that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Create,
    Update,
}

/// Refuses impossible limits and takes out those that the kernel cannot set; returns warnings.
pub(crate) fn check(
    resources: &mut Resources,
    host: &HostFacts,
    moment: Moment,
) -> Result<Vec<String>, EngineError> {
    let mut warnings = Vec::new();
    check_memory(resources, host, moment, &mut warnings).map_err(EngineError::Invalid)?;
    if moment == Moment::Create && host.swap_limit && resources.memory_swap.unwrap_or(0) == 0 {
        // Docker's default: as much swap again as memory.
        resources.memory_swap = resources.memory.map(|memory| memory.saturating_mul(2));
    }
    check_processors(resources, &host.limits).map_err(EngineError::Invalid)?;
    check_cpuset(resources, &host.limits).map_err(EngineError::Invalid)?;
    check_block_io(resources, &host.limits, &mut warnings).map_err(EngineError::Invalid)?;
    Ok(warnings)
}

fn refuse(text: impl Into<String>) -> Result<(), String> {
    Err(text.into())
}

fn check_memory(
    resources: &mut Resources,
    host: &HostFacts,
    moment: Moment,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let memory = resources.memory.unwrap_or(0);
    let swap = resources.memory_swap.unwrap_or(0);
    let reservation = resources.memory_reservation.unwrap_or(0);
    if memory != 0 && memory < MIN_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if memory > 0 && swap > 0 && swap < memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if memory == 0 && swap > 0 && moment == Moment::Create {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if memory > 0 && swap != -1 && !host.swap_limit {
        warnings.push(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
                .into(),
        );
        resources.memory_swap = Some(-1);
    }
    if let Some(swappiness) = resources.memory_swappiness {
        if swappiness > 100 {
            return refuse(format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100"));
        }
        if !host.limits.swappiness {
            warnings.push(
                "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."
                    .into(),
            );
            resources.memory_swappiness = None;
        }
    }
    if reservation != 0 && reservation < MIN_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if memory > 0 && reservation > memory {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if resources.oom_kill_disable {
        if !host.limits.oom_kill_disable {
            warnings.push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".into());
            resources.oom_kill_disable = false;
        } else if memory == 0 && moment == Moment::Create {
            warnings.push(
                "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
                    .into(),
            );
        }
    }
    Ok(())
}

fn check_processors(resources: &Resources, support: &LimitSupport) -> Result<(), String> {
    let nano = resources.nano_cpus.unwrap_or(0);
    let period = resources.cpu_period.unwrap_or(0);
    let quota = resources.cpu_quota.unwrap_or(0);
    if nano > 0 && period > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set.");
    }
    if nano > 0 && quota > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set.");
    }
    if nano < 0 || (support.cpus > 0 && i128::from(nano) > support.cpus as i128 * 1_000_000_000) {
        let most = support.cpus;
        return refuse(format!(
            "range of CPUs is from 0.01 to {most}.00, as there are only {most} CPUs available"
        ));
    }
    if period != 0 && !(1_000..=1_000_000).contains(&period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if quota > 0 && quota < 1_000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    let (rt_period, rt_runtime) =
        (resources.cpu_realtime_period.unwrap_or(0), resources.cpu_realtime_runtime.unwrap_or(0));
    if (rt_period != 0 || rt_runtime != 0) && !support.cpu_realtime {
        return refuse("Your kernel does not support CPU real-time scheduler");
    }
    if rt_period != 0 && rt_runtime != 0 && i128::from(rt_runtime) > i128::from(rt_period) {
        return refuse("cpu real-time runtime cannot be higher than cpu real-time period");
    }
    Ok(())
}

fn check_cpuset(resources: &Resources, support: &LimitSupport) -> Result<(), String> {
    let sets = [
        (&resources.cpuset_cpus, &support.cpuset.0, "CPUs", "cpus"),
        (&resources.cpuset_mems, &support.cpuset.1, "memory nodes", "mems"),
    ];
    for (wanted, available, many, short) in sets {
        let Some(wanted) = wanted.as_deref().filter(|wanted| !wanted.is_empty()) else { continue };
        let Some(numbers) = parse_list(wanted) else {
            return refuse(format!("Invalid value {wanted} for cpuset {short}"));
        };
        let here = parse_list(available).unwrap_or_default();
        if !here.is_empty() && !numbers.is_subset(&here) {
            return refuse(format!(
                "Requested {many} are not available - requested {wanted}, available: {available}"
            ));
        }
    }
    Ok(())
}

fn check_block_io(
    resources: &mut Resources,
    support: &LimitSupport,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let block_io = &mut resources.block_io;
    if block_io.weight.is_some() && !support.block_weight {
        warnings.push(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
                .into(),
        );
        block_io.weight = None;
    }
    if block_io.weight.is_some_and(|weight| !(10..=1000).contains(&weight)) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    let mut discard = |list: &mut Vec<_>, supported: bool, text: &str| {
        if !list.is_empty() && !supported {
            warnings.push(text.to_owned());
            list.clear();
        }
    };
    discard(
        &mut block_io.weight_devices,
        support.block_weight_device,
        "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
    );
    for (list, what, short) in [
        (&mut block_io.read_bps, "BPS Block I/O read limit", "BPS read"),
        (&mut block_io.write_bps, "BPS Block I/O write limit", "BPS write"),
        (&mut block_io.read_iops, "IOPS Block read limit", "IOPS read"),
        (&mut block_io.write_iops, "IOPS Block write limit", "IOPS write"),
    ] {
        let text = format!(
            "Your kernel does not support {what} or the cgroup is not mounted. Block I/O {short} limit discarded."
        );
        discard(list, support.block_throttle, &text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cirro_seams::container::{BlockIo, DeviceLimit};

    fn host() -> HostFacts {
        let limits = LimitSupport { cpus: 2, cpuset: ("0-1".into(), "0".into()), ..LimitSupport::default() };
        HostFacts { limits, swap_limit: true, ..HostFacts::default() }
    }

    fn refusal(resources: Resources) -> String {
        check(&mut resources.clone(), &host(), Moment::Create).unwrap_err().to_string()
    }

    #[test]
    fn impossible_limits_are_refused_in_dockers_words() {
        let none = Resources::default;
        for (resources, text) in [
            (Resources { memory: Some(4096), ..none() }, "Minimum memory limit allowed is 6MB"),
            (
                Resources { memory: Some(64 << 20), memory_swap: Some(1), ..none() },
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ),
            (
                Resources { memory_swap: Some(64 << 20), ..none() },
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ),
            (
                Resources { memory_swappiness: Some(101), ..none() },
                "Invalid value: 101, valid memory swappiness range is 0-100",
            ),
            (
                Resources { nano_cpus: Some(3_000_000_000), ..none() },
                "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            ),
            (
                Resources { nano_cpus: Some(1), cpu_quota: Some(5000), ..none() },
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set.",
            ),
            (
                Resources { cpu_period: Some(5), ..none() },
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            ),
            (Resources { cpuset_cpus: Some("0;1".into()), ..none() }, "Invalid value 0;1 for cpuset cpus"),
            (
                Resources { cpuset_cpus: Some("0-5".into()), ..none() },
                "Requested CPUs are not available - requested 0-5, available: 0-1",
            ),
            (
                Resources { cpuset_mems: Some("1".into()), ..none() },
                "Requested memory nodes are not available - requested 1, available: 0",
            ),
            (
                Resources { cpu_realtime_runtime: Some(5), ..none() },
                "Your kernel does not support CPU real-time scheduler",
            ),
        ] {
            assert_eq!(refusal(resources), text);
        }
        let weighty = HostFacts {
            limits: LimitSupport { block_weight: true, ..LimitSupport::default() },
            ..HostFacts::default()
        };
        let mut heavy = Resources { block_io: BlockIo { weight: Some(5), ..BlockIo::default() }, ..none() };
        let error = check(&mut heavy, &weighty, Moment::Create).unwrap_err();
        assert_eq!(error.to_string(), "Range of blkio weight is from 10 to 1000");
    }

    #[test]
    fn what_the_kernel_lacks_is_left_out_with_a_warning() {
        let limit = DeviceLimit { path: "/dev/sda".into(), value: 1 };
        let mut resources = Resources {
            memory_swappiness: Some(10),
            oom_kill_disable: true,
            block_io: BlockIo { weight: Some(100), read_bps: vec![limit], ..BlockIo::default() },
            ..Resources::default()
        };
        let warnings = check(&mut resources, &host(), Moment::Create).unwrap();
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert_eq!(resources, Resources::default());
    }

    #[test]
    fn an_update_may_give_swap_alone() {
        let mut resources = Resources { memory_swap: Some(64 << 20), ..Resources::default() };
        assert!(check(&mut resources, &host(), Moment::Update).is_ok());
        let mut resources =
            Resources { memory: Some(64 << 20), memory_swap: Some(-1), ..Resources::default() };
        assert!(check(&mut resources, &host(), Moment::Create).is_ok());
    }
}
