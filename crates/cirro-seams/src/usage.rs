//! What a node and what runs on it use of processors and memory.

use std::time::{Duration, SystemTime};

/// Counts of one moment, of a container or of a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processor time since the beginning, in nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory in use without file cache that can be dropped at once, in bytes.
    pub working_set_bytes: u64,
}

/// All counts of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageSample {
    /// Of the host as a whole.
    pub host: Counts,
    /// Of each running container of a pod, by its id.
    pub containers: Vec<(String, Counts)>,
}

/// What was used over a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// When the span ended.
    pub at: SystemTime,
    /// How long the span was.
    pub window: Duration,
    /// Processor time per second, in nanoseconds: a thousand millionth of a processor each.
    pub nanocores: u64,
    /// Memory in use at the end, in bytes.
    pub working_set_bytes: u64,
}

impl Usage {
    /// Returns what was used between two counts.
    pub fn between(before: Counts, now: Counts, window: Duration, at: SystemTime) -> Self {
        let used = u128::from(now.cpu_nanoseconds.saturating_sub(before.cpu_nanoseconds));
        let nanoseconds = window.as_nanos().max(1);
        let nanocores = u64::try_from(used * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX);
        Self { at, window, nanocores, working_set_bytes: now.working_set_bytes }
    }
}

/// What a node and the containers of its pods used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUsage {
    /// The node's name.
    pub node: String,
    /// Of the host as a whole.
    pub host: Usage,
    /// Pods by their uids, each with its running containers by name.
    pub pods: Vec<(String, Vec<(String, Usage)>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_per_second() {
        let counts = |cpu| Counts { cpu_nanoseconds: cpu, working_set_bytes: 7 };
        let over = |milliseconds, before, now| {
            let window = Duration::from_millis(milliseconds);
            Usage::between(counts(before), counts(now), window, SystemTime::UNIX_EPOCH).nanocores
        };
        assert_eq!(over(2000, 1_000, 501_000), 250_000);
        assert_eq!(over(500, 0, 1_000_000_000), 2_000_000_000);
        // Counts of a container that was made anew begin at zero.
        assert_eq!(over(1000, 9, 3), 0);
    }
}
