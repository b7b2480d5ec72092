//! Limits and the restart policy, as create and update give them. What is impossible is refused by the engine.

use cirro_seams::container::{BlockIo, Resources, RestartPolicy};

use super::options::device_limits;
use super::request;
use crate::error::ApiError;

/// Translates limits; 0 means "not set", as in docker.
pub(crate) fn parse(limits: &request::Limits) -> Result<Resources, ApiError> {
    let set = |value: i64| (value != 0).then_some(value);
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    if limits.cpu_shares < 0 {
        return Err(ApiError::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            limits.cpu_shares
        )));
    }
    let positive = |value: i64, what: &str| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(ApiError::invalid(format!("{what} must not be negative"))),
    };
    let swappiness = match limits.memory_swappiness {
        None | Some(-1) => None,
        Some(value) => Some(u64::try_from(value).map_err(|_| {
            ApiError::invalid(format!("Invalid value: {value}, valid memory swappiness range is 0-100"))
        })?),
    };
    Ok(Resources {
        memory: set(limits.memory),
        memory_swap: set(limits.memory_swap),
        memory_reservation: set(limits.memory_reservation),
        nano_cpus: set(limits.nano_cpus),
        cpu_shares: set(limits.cpu_shares).map(i64::unsigned_abs),
        cpu_quota: set(limits.cpu_quota),
        cpu_period: positive(limits.cpu_period, "CPU cfs period")?,
        cpuset_cpus: text(&limits.cpuset_cpus),
        cpuset_mems: text(&limits.cpuset_mems),
        pids: limits.pids_limit.filter(|pids| *pids != 0),
        cpu_realtime_runtime: set(limits.cpu_realtime_runtime),
        cpu_realtime_period: positive(limits.cpu_realtime_period, "CPU real-time period")?,
        memory_swappiness: swappiness,
        oom_kill_disable: limits.oom_kill_disable.unwrap_or(false),
        block_io: BlockIo {
            weight: (limits.blkio_weight != 0).then_some(limits.blkio_weight),
            weight_devices: device_limits(&limits.blkio_weight_device),
            read_bps: device_limits(&limits.blkio_device_read_bps),
            write_bps: device_limits(&limits.blkio_device_write_bps),
            read_iops: device_limits(&limits.blkio_device_read_iops),
            write_iops: device_limits(&limits.blkio_device_write_iops),
        },
    })
}

/// What dockerd says of limits that its kernels no longer have.
pub(crate) fn discarded(limits: &request::Limits) -> Vec<String> {
    let kernel = limits.kernel_memory > 0 || limits.kernel_memory_tcp > 0;
    let text = "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. Limitation discarded.";
    kernel.then(|| text.to_owned()).into_iter().collect()
}

/// Checks and translates a restart policy.
pub(crate) fn parse_restart(policy: &request::RestartPolicy) -> Result<RestartPolicy, ApiError> {
    let count = policy.maximum_retry_count;
    let parsed = match policy.name.as_str() {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => RestartPolicy::OnFailure(u32::try_from(count).map_err(|_| {
            ApiError::invalid("invalid restart policy: maximum retry count cannot be negative")
        })?),
        other => {
            return Err(ApiError::invalid(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    };
    if count != 0 && !matches!(parsed, RestartPolicy::OnFailure(_)) {
        return Err(ApiError::invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::request::Limits;

    #[test]
    fn zero_means_not_set() {
        assert_eq!(parse(&Limits::default()), Ok(Resources::default()));
        let limits = Limits { memory: 64 << 20, memory_swap: -1, pids_limit: Some(-1), ..Limits::default() };
        let resources = parse(&limits).unwrap();
        assert_eq!(
            (resources.memory, resources.memory_swap, resources.pids),
            (Some(64 << 20), Some(-1), Some(-1))
        );
    }

    #[test]
    fn what_has_no_number_of_that_kind_is_refused() {
        let with = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            parse(&limits)
        };
        assert!(with(|limits| limits.cpu_shares = -1).is_err());
        assert!(with(|limits| limits.cpu_period = -1).is_err());
        assert!(with(|limits| limits.memory_swappiness = Some(-2)).is_err());
        assert_eq!(with(|limits| limits.memory_swappiness = Some(-1)), Ok(Resources::default()));
        let zero = with(|limits| limits.memory_swappiness = Some(0)).unwrap();
        assert_eq!(zero.memory_swappiness, Some(0));
        let kernel = Limits { kernel_memory: 1 << 30, ..Limits::default() };
        assert_eq!(discarded(&kernel).len(), 1);
    }

    #[test]
    fn only_on_failure_counts() {
        let policy = |name: &str, count| {
            parse_restart(&request::RestartPolicy { name: name.into(), maximum_retry_count: count })
        };
        assert_eq!(policy("on-failure", 3), Ok(RestartPolicy::OnFailure(3)));
        assert_eq!(policy("", 0), Ok(RestartPolicy::No));
        assert!(policy("always", 3).is_err());
        assert!(policy("on-failure", -1).is_err());
        assert!(policy("sometimes", 0).is_err());
    }
}
