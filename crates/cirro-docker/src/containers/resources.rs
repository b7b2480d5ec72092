//! Limits and the restart policy, as create and update give them.

use cirro_seams::container::{Resources, RestartPolicy};

use super::request;
use crate::error::ApiError;

/// The least memory that dockerd accepts.
const MIN_MEMORY: i64 = 6 << 20;

/// Checks and translates limits; 0 means "not set", as in docker.
pub(crate) fn parse(limits: &request::Limits) -> Result<Resources, ApiError> {
    check_memory(limits)?;
    check_cpu(limits)?;
    let set = |value: i64| (value != 0).then_some(value);
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    Ok(Resources {
        memory: set(limits.memory),
        memory_swap: set(limits.memory_swap),
        memory_reservation: set(limits.memory_reservation),
        nano_cpus: set(limits.nano_cpus),
        cpu_shares: set(limits.cpu_shares).map(i64::unsigned_abs),
        cpu_quota: set(limits.cpu_quota),
        cpu_period: set(limits.cpu_period).map(i64::unsigned_abs),
        cpuset_cpus: text(&limits.cpuset_cpus),
        cpuset_mems: text(&limits.cpuset_mems),
        pids: limits.pids_limit.filter(|pids| *pids != 0),
    })
}

fn check_memory(limits: &request::Limits) -> Result<(), ApiError> {
    let (memory, swap) = (limits.memory, limits.memory_swap);
    if memory != 0 && memory < MIN_MEMORY {
        return Err(ApiError::invalid("Minimum memory limit allowed is 6MB"));
    }
    if memory > 0 && swap > 0 && swap < memory {
        return Err(ApiError::invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ));
    }
    if memory == 0 && swap > 0 {
        return Err(ApiError::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    let reservation = limits.memory_reservation;
    if reservation < 0 || (memory > 0 && reservation > memory) {
        return Err(ApiError::invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    Ok(())
}

fn check_cpu(limits: &request::Limits) -> Result<(), ApiError> {
    if limits.nano_cpus != 0 && (limits.cpu_quota != 0 || limits.cpu_period != 0) {
        return Err(ApiError::invalid(
            "Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set",
        ));
    }
    if limits.nano_cpus < 0 {
        return Err(ApiError::invalid("Range of CPUs must not be negative"));
    }
    if limits.cpu_shares < 0 {
        return Err(ApiError::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            limits.cpu_shares
        )));
    }
    if limits.cpu_period != 0 && !(1_000..=1_000_000).contains(&limits.cpu_period) {
        return Err(ApiError::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if limits.cpu_quota > 0 && limits.cpu_quota < 1_000 {
        return Err(ApiError::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    for (name, list) in [("CPUs", &limits.cpuset_cpus), ("memory nodes", &limits.cpuset_mems)] {
        if !list.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-')) {
            return Err(ApiError::invalid(format!("invalid list of {name}: {list}")));
        }
    }
    Ok(())
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
    fn limits_that_contradict_each_other_are_refused() {
        let with = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            parse(&limits).is_err()
        };
        assert!(with(|limits| limits.memory = 1 << 20));
        assert!(with(|limits| (limits.memory, limits.memory_swap) = (64 << 20, 32 << 20)));
        assert!(with(|limits| limits.memory_swap = 64 << 20));
        assert!(with(|limits| (limits.nano_cpus, limits.cpu_quota) = (1, 5000)));
        assert!(with(|limits| limits.cpu_period = 5));
        assert!(with(|limits| limits.cpuset_cpus = "0;1".into()));
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
