//! What a container uses: its cgroups' counts, its network's and the host's processor time, at one moment.

use std::collections::BTreeMap;

use cirro_container::{ContainerError, Statistics};
use cirro_seams::container::NetworkMode;

use super::is_active;
use crate::error::{EngineError, blocking, io};
use crate::{Engine, clock};

/// USER_HZ, the unit of times in /proc/stat; fixed by the kernel's interface on every architecture we run on.
const TICKS: u64 = 100;

/// A moment of a running container.
#[derive(Debug, Clone)]
pub struct Sample {
    /// RFC 3339 with nanoseconds.
    pub read: String,
    /// From its cgroups.
    pub cgroups: Statistics,
    /// By interface; none on the host's network.
    pub networks: Option<BTreeMap<String, InterfaceCounts>>,
    /// The host's processor time, all processors together.
    pub system_nanoseconds: u64,
    /// Processors of the host.
    pub online_cpus: u32,
}

/// What has gone over a network interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceCounts {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Errors in receiving.
    pub rx_errors: u64,
    /// Packets dropped in receiving.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Errors in sending.
    pub tx_errors: u64,
    /// Packets dropped in sending.
    pub tx_dropped: u64,
}

impl Engine {
    /// Reads what a container uses now; nothing when it does not run.
    pub async fn container_sample(&self, name: &str) -> Result<Option<Sample>, EngineError> {
        let container = self.container(name)?;
        let Some(pid) = container.pid.filter(|_| is_active(container.phase)) else { return Ok(None) };
        let cgroups = match self.shared.supervisor.statistics(&container.id).await {
            Ok(statistics) => statistics,
            // It has just ended.
            Err(ContainerError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let own_network = container.spec.network != NetworkMode::Host;
        let (networks, stat) = blocking(move || {
            let read = || std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok();
            let networks = if own_network { read().map(|text| interfaces(&text)) } else { None };
            Ok((networks, std::fs::read_to_string("/proc/stat").map_err(io("read /proc/stat"))?))
        })
        .await?;
        let (system_nanoseconds, online_cpus) = processors(&stat);
        Ok(Some(Sample { read: clock::now(), cgroups, networks, system_nanoseconds, online_cpus }))
    }
}

/// Reads /proc/PID/net/dev; the loopback is left out.
fn interfaces(text: &str) -> BTreeMap<String, InterfaceCounts> {
    let line = |line: &str| -> Option<(String, InterfaceCounts)> {
        let (name, counts) = line.split_once(':')?;
        let counts: Vec<u64> = counts.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let counts = match counts[..] {
            [
                rx_bytes,
                rx_packets,
                rx_errors,
                rx_dropped,
                _,
                _,
                _,
                _,
                tx_bytes,
                tx_packets,
                tx_errors,
                tx_dropped,
                ..,
            ] => InterfaceCounts {
                rx_bytes,
                rx_packets,
                rx_errors,
                rx_dropped,
                tx_bytes,
                tx_packets,
                tx_errors,
                tx_dropped,
            },
            _ => return None,
        };
        Some((name.trim().to_owned(), counts))
    };
    text.lines().filter_map(line).filter(|(name, _)| name != "lo").collect()
}

/// Reads /proc/stat: processor time in nanoseconds (user to softirq, as docker counts it), and the number of processors.
fn processors(stat: &str) -> (u64, u32) {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: u64 = all.split_whitespace().take(7).filter_map(|word| word.parse::<u64>().ok()).sum();
    let single = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit()))
    };
    let count = stat.lines().filter(single).count();
    (ticks.saturating_mul(1_000_000_000 / TICKS), u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_counted_without_the_loopback() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes    packets errs drop|bytes\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let found = interfaces(text);
        assert_eq!(found.len(), 1);
        let counts = found["eth0"];
        assert_eq!((counts.rx_bytes, counts.rx_dropped, counts.tx_bytes, counts.tx_dropped), (1, 4, 9, 12));
    }

    #[test]
    fn processor_time_is_in_nanoseconds() {
        let stat = "cpu  1 2 3 4 5 6 7 100 0 0\ncpu0 1 0 0\ncpu1 1 0 0\nintr 5\n";
        assert_eq!(processors(stat), (280_000_000, 2));
    }
}
