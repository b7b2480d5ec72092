//! What every step of a build is held to: the parameters of the classic endpoint that say what `HostConfig` says elsewhere.

use cirro_seams::build::StepLimits;

use super::json_param;
use crate::containers::create::{cgroup_parent, shm_size, ulimit};
use crate::containers::request::{Limits, Ulimit};
use crate::containers::resources;
use crate::error::ApiError;
use crate::query::Params;

/// Reads them. What no kernel or host can give is refused by the engine.
pub(crate) fn parse(params: &Params) -> Result<StepLimits, ApiError> {
    let number = |name: &str| Ok::<i64, ApiError>(params.number(name)?.unwrap_or(0));
    let text = |name: &str| params.text(name).unwrap_or_default().to_owned();
    let limits = Limits {
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: number("cpushares")?,
        cpu_period: number("cpuperiod")?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: text("cpusetcpus"),
        cpuset_mems: text("cpusetmems"),
        ..Limits::default()
    };
    let ulimits = json_param::<Vec<Ulimit>>(params, "ulimits")?;
    Ok(StepLimits {
        resources: resources::parse(&limits)?,
        shm_size: shm_size(number("shmsize")?)?,
        ulimits: ulimits.into_iter().map(ulimit).collect::<Result<_, _>>()?,
        cgroup_parent: cgroup_parent(params.text("cgroupparent").unwrap_or_default())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_docker_build_become_limits() {
        let query = [
            ("memory", "67108864"),
            ("memswap", "-1"),
            ("cpushares", "512"),
            ("cpuperiod", "100000"),
            ("cpuquota", "50000"),
            ("cpusetcpus", "0"),
            ("shmsize", "1048576"),
            ("cgroupparent", "builds/../mine/"),
            ("ulimits", r#"[{"Name":"nofile","Soft":64,"Hard":128}]"#),
        ];
        let query = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let limits = parse(&Params(query.collect())).unwrap();
        assert_eq!((limits.resources.memory, limits.resources.memory_swap), (Some(64 << 20), Some(-1)));
        assert_eq!((limits.resources.cpu_shares, limits.resources.cpu_quota), (Some(512), Some(50_000)));
        assert_eq!(limits.resources.cpuset_cpus.as_deref(), Some("0"));
        assert_eq!(limits.shm_size, Some(1 << 20));
        assert_eq!(limits.cgroup_parent.as_deref(), Some("/mine"));
        assert_eq!(limits.ulimits, [("nofile".to_owned(), 64, 128)]);
    }
}
