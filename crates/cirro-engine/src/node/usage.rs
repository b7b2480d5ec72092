//! What the containers of pods, and the host, have used until now.

use std::path::Path;

use cirro_container::ContainerError;
use cirro_seams::container::Owner;
use cirro_seams::usage::{Counts, UsageSample};
use futures_util::StreamExt as _;

use crate::Engine;
use crate::containers::is_active;
use crate::error::{EngineError, blocking, io};

/// USER_HZ, the unit of times in /proc/stat.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;
/// Containers whose counts are read at a time.
const AT_ONCE: usize = 16;

impl Engine {
    /// Reads the counts of the host and of each running container of a pod.
    pub(crate) async fn usage(&self) -> Result<UsageSample, EngineError> {
        let running = self.containers_where(|container| {
            matches!(container.spec.owner, Owner::Pod { .. })
                && container.pid.is_some()
                && is_active(container.phase)
        });
        let each = running.into_iter().map(|container| async move {
            match self.shared.supervisor.statistics(&container.id).await {
                Ok(statistics) => Ok(Some((
                    container.id,
                    Counts {
                        cpu_nanoseconds: statistics.cpu.usage_nanoseconds,
                        working_set_bytes: statistics.memory.working_bytes(),
                    },
                ))),
                // It has just ended.
                Err(ContainerError::NotFound(_)) => Ok(None),
                Err(error) => Err(EngineError::from(error)),
            }
        });
        let all: Vec<_> = futures_util::stream::iter(each).buffer_unordered(AT_ONCE).collect().await;
        let containers = all.into_iter().filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
        let host = blocking(|| {
            let read = |path: &str| std::fs::read_to_string(Path::new(path));
            let stat = read("/proc/stat").map_err(io("read /proc/stat"))?;
            let memory = read("/proc/meminfo").map_err(io("read /proc/meminfo"))?;
            Ok(host(&stat, &memory))
        })
        .await?;
        Ok(UsageSample { host, containers })
    }
}

/// Reads the host's counts: time that was not idle, and memory that is neither free nor cache that nobody looked at lately.
fn host(stat: &str, memory: &str) -> Counts {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = all.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    // user, nice, system, (idle, iowait), irq, softirq, steal; guests' time is in the user's.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|index| ticks.get(*index)).sum();
    let kilobytes = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0)
    };
    let left_out = kilobytes("MemFree").saturating_add(kilobytes("Inactive(file)"));
    let used = kilobytes("MemTotal").saturating_sub(left_out);
    Counts {
        cpu_nanoseconds: busy.saturating_mul(NANOSECONDS_PER_TICK),
        working_set_bytes: used.saturating_mul(1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_idle_cache_do_not_count() {
        let stat = "cpu  1 2 3 400 500 6 7 8 9 10\ncpu0 1 2 3 4\n";
        let memory = "MemTotal:       1000 kB\nMemFree:         100 kB\nActive(file):     50 kB\nInactive(file):  300 kB\n";
        let counts = host(stat, memory);
        assert_eq!(counts.cpu_nanoseconds, 27 * NANOSECONDS_PER_TICK);
        assert_eq!(counts.working_set_bytes, 600 * 1024);
    }
}
