//! Which limits the kernel of this host can set; looked up once.

use std::collections::BTreeSet;
use std::path::Path;

/// Which limits can be set, and out of what.
#[derive(Debug, Clone, Default)]
pub(crate) struct LimitSupport {
    pub swappiness: bool,
    pub oom_kill_disable: bool,
    pub cpu_realtime: bool,
    pub block_weight: bool,
    pub block_weight_device: bool,
    pub block_throttle: bool,
    /// Number of processors.
    pub cpus: usize,
    /// Processors and memory nodes as the kernel lists them.
    pub cpuset: (String, String),
}

impl LimitSupport {
    /// Looks at the host. On version 2 the files are not in the root group; there every kernel of ours has them.
    pub(crate) fn look(version_2: bool) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let has = |path: &str| !version_2 && root.join(path).exists();
        let list =
            |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default().trim().to_owned();
        let (cpus, mems) = if version_2 {
            ("cpuset.cpus.effective", "cpuset.mems.effective")
        } else {
            ("cpuset/cpuset.effective_cpus", "cpuset/cpuset.effective_mems")
        };
        let effective = (list(cpus), list(mems));
        let plain = (list("cpuset/cpuset.cpus"), list("cpuset/cpuset.mems"));
        Self {
            swappiness: has("memory/memory.swappiness"),
            oom_kill_disable: has("memory/memory.oom_control"),
            cpu_realtime: has("cpu/cpu.rt_runtime_us"),
            block_weight: version_2 || has("blkio/blkio.weight") || has("blkio/blkio.bfq.weight"),
            block_weight_device: has("blkio/blkio.weight_device") || has("blkio/blkio.bfq.weight_device"),
            block_throttle: version_2 || has("blkio/blkio.throttle.read_bps_device"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpuset: if effective.0.is_empty() { plain } else { effective },
        }
    }
}

/// Reads a list of the kernel's, `0-3,5`; nothing when it is malformed. Numbers are bounded, so that a list cannot be huge.
pub(crate) fn parse_list(text: &str) -> Option<BTreeSet<u32>> {
    const MOST: u32 = 8192;
    let mut all = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > MOST {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_list("0-2,5\n"), Some(BTreeSet::from([0, 1, 2, 5])));
        assert_eq!(parse_list(""), Some(BTreeSet::new()));
        for text in ["2-1", "a", "1-", "0-99999", "-1"] {
            assert_eq!(parse_list(text), None, "{text}");
        }
    }

    #[test]
    fn this_host_has_processors() {
        assert!(LimitSupport::look(Path::new("/sys/fs/cgroup/cgroup.controllers").exists()).cpus > 0);
    }
}
