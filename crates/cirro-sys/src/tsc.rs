//! The processor's time stamp counter: how fast it counts.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Measures how often a millisecond the counter counts; `None` where there is no such counter. Takes about 100 ms.
pub fn measure_khz() -> Option<u64> {
    let (first_ticks, first) = read_both()?;
    std::thread::sleep(Duration::from_millis(100));
    let (last_ticks, last) = read_both()?;
    let nanoseconds = last.checked_sub(first).filter(|elapsed| *elapsed > 0)?;
    let ticks = last_ticks.checked_sub(first_ticks)?;
    u64::try_from(u128::from(ticks) * 1_000_000 / nanoseconds).ok().filter(|khz| *khz > 0)
}

/// Reads counter and clock together: of some tries the one that was interrupted least.
fn read_both() -> Option<(u64, u128)> {
    const TRIES: usize = 32;
    (0..TRIES)
        .filter_map(|_| {
            let before = ticks()?;
            let clock = nanoseconds();
            let after = ticks()?;
            Some((after.checked_sub(before)?, before, clock))
        })
        .min()
        .map(|(width, before, clock)| (before + width / 2, clock))
}

fn nanoseconds() -> u128 {
    let now = clock_gettime(ClockId::MonotonicRaw);
    // It counts from the start of the machine, so it is not negative.
    now.tv_sec.unsigned_abs() as u128 * 1_000_000_000 + now.tv_nsec.unsigned_abs() as u128
}

#[cfg(target_arch = "x86_64")]
fn ticks() -> Option<u64> {
    // SAFETY: every x86-64 processor has the instruction; it reads a counter and touches no memory.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> Option<u64> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #[test]
    fn two_measurements_agree_within_a_thousandth() {
        let (first, second) = (super::measure_khz().unwrap(), super::measure_khz().unwrap());
        assert!(first.abs_diff(second) < first / 1000, "{first} kHz and {second} kHz");
    }
}
