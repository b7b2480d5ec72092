//! What a workload has used, read from its cgroups.
//!
//! Version 1 and 2 say different things by different names; [`Statistics`] has what both know, in one unit each, and the memory
//! breakdown under the kernel's own names, since faces pass it on as it is.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Group, Home};
use crate::error::ContainerError;

/// Above this a version 1 memory limit stands for "none" (it is `i64::MAX` rounded down to a page).
const NO_LIMIT: u64 = i64::MAX as u64 / 4096 * 4096;

/// Which interface the memory and CPU numbers came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// A hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// What a workload has used since it was made, and its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistics {
    /// Decides the names in [`MemoryStatistics::breakdown`].
    pub version: CgroupVersion,
    /// Processor time.
    pub cpu: CpuStatistics,
    /// Memory.
    pub memory: MemoryStatistics,
    /// Processes and threads.
    pub pids: PidsStatistics,
    /// Block devices.
    pub block: BlockStatistics,
}

/// Processor time, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStatistics {
    /// In user and kernel mode together.
    pub usage_nanoseconds: u64,
    /// In user mode.
    pub user_nanoseconds: u64,
    /// In kernel mode.
    pub system_nanoseconds: u64,
    /// By processor; empty on version 2, which does not tell.
    pub per_cpu_nanoseconds: Vec<u64>,
    /// Quota periods that have passed.
    pub periods: u64,
    /// Quota periods in which it was held back.
    pub throttled_periods: u64,
    /// For how long it was held back.
    pub throttled_nanoseconds: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStatistics {
    /// All of it, page cache included.
    pub usage_bytes: u64,
    /// The most there ever was, where the kernel tells (version 1; version 2 from Linux 5.19).
    pub max_usage_bytes: Option<u64>,
    /// `None` without a limit.
    pub limit_bytes: Option<u64>,
    /// How often the limit was hit.
    pub fail_count: u64,
    /// How often a process was killed for want of memory.
    pub oom_kills: u64,
    /// `memory.stat`, by the kernel's names.
    pub breakdown: BTreeMap<String, u64>,
}

impl MemoryStatistics {
    /// What is in use without file cache that can be dropped at once: what `docker stats` shows.
    pub fn working_bytes(&self) -> u64 {
        let inactive = ["total_inactive_file", "inactive_file"];
        let inactive = inactive.iter().find_map(|name| self.breakdown.get(*name)).copied().unwrap_or(0);
        self.usage_bytes.saturating_sub(inactive)
    }
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidsStatistics {
    /// How many there are.
    pub current: u64,
    /// `None` without a limit.
    pub limit: Option<u64>,
}

/// Traffic with block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockStatistics {
    /// Bytes.
    pub service_bytes: Vec<BlockCount>,
    /// Requests.
    pub serviced: Vec<BlockCount>,
}

/// One count of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockCount {
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total` on version 1; `read`, `write` on version 2.
    pub operation: String,
    /// Bytes or requests.
    pub value: u64,
}

impl Group {
    /// Reads everything; what the host does not count is zero or absent. Does not block.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`] when there is no such group (any more).
    pub(crate) fn statistics(&self) -> Result<Statistics, ContainerError> {
        if !self.exists() {
            return Err(ContainerError::NotFound(self.path.clone()));
        }
        let unified = matches!(self.home("memory"), Some(Home::Unified(_)));
        Ok(Statistics {
            version: if unified { CgroupVersion::V2 } else { CgroupVersion::V1 },
            cpu: self.cpu_statistics(),
            memory: self.memory_statistics(),
            pids: self.pids_statistics(),
            block: self.block_statistics(),
        })
    }

    fn cpu_statistics(&self) -> CpuStatistics {
        let mut cpu = CpuStatistics::default();
        match self.home("cpu") {
            Some(Home::Version1(directory)) => {
                let stat = pairs(&directory.join("cpu.stat"));
                let get = |name: &str| stat.get(name).copied().unwrap_or(0);
                cpu.periods = get("nr_periods");
                cpu.throttled_periods = get("nr_throttled");
                cpu.throttled_nanoseconds = get("throttled_time");
            }
            // `cpu.stat` is there whether the controller is enabled or not.
            Some(Home::Unified(_)) | None => self.read_unified_cpu(&mut cpu),
        }
        if let Some(Home::Version1(directory)) = self.home("cpuacct") {
            cpu.usage_nanoseconds = number(&directory.join("cpuacct.usage")).unwrap_or(0);
            cpu.user_nanoseconds = number(&directory.join("cpuacct.usage_user")).unwrap_or(0);
            cpu.system_nanoseconds = number(&directory.join("cpuacct.usage_sys")).unwrap_or(0);
            let per_cpu = text(&directory.join("cpuacct.usage_percpu"));
            cpu.per_cpu_nanoseconds = per_cpu.split_whitespace().filter_map(|one| one.parse().ok()).collect();
        }
        cpu
    }

    fn read_unified_cpu(&self, cpu: &mut CpuStatistics) {
        let Some(directory) = self.unified() else { return };
        let stat = pairs(&directory.join("cpu.stat"));
        let get = |name: &str| stat.get(name).copied().unwrap_or(0);
        cpu.usage_nanoseconds = get("usage_usec") * 1000;
        cpu.user_nanoseconds = get("user_usec") * 1000;
        cpu.system_nanoseconds = get("system_usec") * 1000;
        cpu.periods = get("nr_periods");
        cpu.throttled_periods = get("nr_throttled");
        cpu.throttled_nanoseconds = get("throttled_usec") * 1000;
    }

    fn memory_statistics(&self) -> MemoryStatistics {
        let oom_kills = self.oom_kills();
        match self.home("memory") {
            Some(Home::Version1(directory)) => MemoryStatistics {
                usage_bytes: number(&directory.join("memory.usage_in_bytes")).unwrap_or(0),
                max_usage_bytes: number(&directory.join("memory.max_usage_in_bytes")),
                limit_bytes: number(&directory.join("memory.limit_in_bytes"))
                    .filter(|limit| *limit < NO_LIMIT),
                fail_count: number(&directory.join("memory.failcnt")).unwrap_or(0),
                oom_kills,
                breakdown: pairs(&directory.join("memory.stat")),
            },
            Some(Home::Unified(directory)) => MemoryStatistics {
                usage_bytes: number(&directory.join("memory.current")).unwrap_or(0),
                max_usage_bytes: number(&directory.join("memory.peak")),
                limit_bytes: number(&directory.join("memory.max")),
                fail_count: pairs(&directory.join("memory.events")).get("max").copied().unwrap_or(0),
                oom_kills,
                breakdown: pairs(&directory.join("memory.stat")),
            },
            None => MemoryStatistics::default(),
        }
    }

    fn pids_statistics(&self) -> PidsStatistics {
        let Some(home) = self.home("pids") else { return PidsStatistics::default() };
        let directory = home.directory();
        PidsStatistics {
            current: number(&directory.join("pids.current")).unwrap_or(0),
            limit: number(&directory.join("pids.max")),
        }
    }

    fn block_statistics(&self) -> BlockStatistics {
        match self.home("blkio") {
            Some(Home::Version1(directory)) => {
                // Who schedules a device counts for it: BFQ, where it does; throttling sees every device.
                let read = |name: &str| {
                    let bfq = version_1_counts(&text(&directory.join(format!("blkio.bfq.{name}_recursive"))));
                    let throttle = format!("blkio.throttle.{name}_recursive");
                    if bfq.is_empty() { version_1_counts(&text(&directory.join(throttle))) } else { bfq }
                };
                BlockStatistics { service_bytes: read("io_service_bytes"), serviced: read("io_serviced") }
            }
            Some(Home::Unified(directory)) => version_2_counts(&text(&directory.join("io.stat"))),
            None => BlockStatistics::default(),
        }
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `None` for `max`, and for what is not there.
fn number(path: &Path) -> Option<u64> {
    text(path).trim().parse().ok()
}

fn pairs(path: &Path) -> BTreeMap<String, u64> {
    parse_pairs(&text(path))
}

fn parse_pairs(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// Lines like `8:0 Read 4096`; the last one, `Total 4096`, is of no device.
fn version_1_counts(text: &str) -> Vec<BlockCount> {
    let count = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = words.next()?.split_once(':')?;
        let operation = words.next()?.to_owned();
        Some(BlockCount {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            operation,
            value: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(count).collect()
}

/// Lines like `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn version_2_counts(text: &str) -> BlockStatistics {
    let mut block = BlockStatistics::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, operation) = match name {
                "rbytes" => (&mut block.service_bytes, "read"),
                "wbytes" => (&mut block.service_bytes, "write"),
                "rios" => (&mut block.serviced, "read"),
                "wios" => (&mut block.serviced, "write"),
                _ => continue,
            };
            let Ok(value) = value.parse() else { continue };
            list.push(BlockCount { major, minor, operation: operation.to_owned(), value });
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(operation: &str, value: u64) -> BlockCount {
        BlockCount { major: 8, minor: 16, operation: operation.to_owned(), value }
    }

    #[test]
    fn block_counts_of_both_versions_are_read() {
        let found = version_1_counts("8:16 Read 7\n8:16 Total 9\nTotal 9\n");
        assert_eq!(found, [count("Read", 7), count("Total", 9)]);
        let found = version_2_counts("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n254:0 \n");
        assert_eq!(found.service_bytes, [count("read", 1), count("write", 2)]);
        assert_eq!(found.serviced, [count("read", 3), count("write", 4)]);
    }

    #[test]
    fn the_working_set_leaves_droppable_cache_out() {
        let breakdown = parse_pairs("cache 5\ntotal_inactive_file 30\ninactive_file 10\nbroken x\n");
        assert_eq!(breakdown.len(), 3);
        let memory = MemoryStatistics { usage_bytes: 100, breakdown, ..MemoryStatistics::default() };
        assert_eq!(memory.working_bytes(), 70);
    }
}
