//! How much is little, when to look again, and who is stopped: decided from numbers alone.

use std::collections::BTreeMap;
use std::time::Duration;

use super::DiskOptions;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Bytes per second that a writer may reach; nothing crosses the mark unseen at less.
const FASTEST: u64 = GIB;
const SHORTEST: Duration = Duration::from_millis(250);
/// Between two looks while nothing is written, however near the mark.
const CALM: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(30);
/// Less than this is written on any host.
const NOISE: u64 = MIB;
/// A culprit has at least this part of the loss, and near the end this one.
const SHARE: u64 = 4;
const LAST_SHARE: u64 = 16;

/// What a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes of the file system.
    pub(crate) total: u64,
    /// Bytes that anybody may take.
    pub(crate) available: u64,
    /// Bytes that root may take.
    pub(crate) free: u64,
}

/// How much of a file system is little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Free bytes below which the container that writes most is stopped.
    pub(crate) low: u64,
    /// Bytes of the reserved file.
    pub(crate) reserve: u64,
}

impl Marks {
    pub(crate) fn of(total: u64, options: &DiskOptions) -> Self {
        let low = (total / 20).max(16 * MIB).min(total / 8).min(GIB);
        let reserve = (total / 50).max(8 * MIB).min(total / 10).min(64 * MIB);
        Self { low: options.low_water.unwrap_or(low), reserve: options.reserve.unwrap_or(reserve) }
    }

    /// Whether the reserved file must be given up.
    ///
    /// Ext4 keeps up to 2 % and 16 MiB (4096 blocks) to itself that it counts as free and gives to nobody.
    pub(crate) fn is_nearly_full(&self, space: Space) -> bool {
        let kept = (space.total / 40).min(16 * MIB);
        self.reserve > 0 && space.free < self.reserve / 2 + kept
    }

    /// Whether there is room for the reserved file without coming near the mark.
    pub(crate) fn has_room_for_reserve(&self, space: Space) -> bool {
        space.available > self.enough().saturating_add(self.reserve)
    }

    /// Free bytes from which on all is well again: a little above the mark, so that it is not crossed back and forth.
    pub(crate) fn enough(&self) -> u64 {
        self.low + self.low / 8
    }
}

/// Returns when to look again: before the fastest writer can cross the mark, and less often while nothing is written.
pub(crate) fn next_look(above_mark: u64, fallen: u64, previous: Duration) -> Duration {
    let reach = Duration::from_millis(above_mark.saturating_mul(1000) / FASTEST).clamp(SHORTEST, LONGEST);
    match fallen < NOISE {
        true => reach.max((previous * 2).min(CALM)),
        false => reach,
    }
}

/// Whether what everybody wrote should be counted: free space has fallen by a good part of what was above the mark.
pub(crate) fn is_time_to_count(available_then: u64, available: u64, low: u64) -> bool {
    let above = available_then.saturating_sub(low);
    available_then.saturating_sub(available) > (above / 8).max(4 * NOISE)
}

/// Bytes that each writer has.
pub(crate) type Written = BTreeMap<String, u64>;

/// Finds who grew most, if that was a good share of the `lost` bytes; a smaller one will do when `desperate`.
pub(crate) fn culprit(before: &Written, now: &Written, lost: u64, desperate: bool) -> Option<(String, u64)> {
    let share = if desperate { LAST_SHARE } else { SHARE };
    let grown =
        now.iter().map(|(id, bytes)| (id, bytes.saturating_sub(before.get(id).copied().unwrap_or(0))));
    let (id, bytes) = grown.max_by_key(|(_, bytes)| *bytes)?;
    (bytes >= NOISE && bytes >= lost / share).then(|| (id.clone(), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(of: &[(&str, u64)]) -> Written {
        of.iter().map(|(id, mib)| ((*id).to_owned(), mib * MIB)).collect()
    }

    #[test]
    fn marks_fit_small_and_large_disks_and_can_be_said() {
        let none = DiskOptions::default();
        assert_eq!(Marks::of(200 * MIB, &none), Marks { low: 16 * MIB, reserve: 8 * MIB });
        assert_eq!(Marks::of(100 * GIB, &none), Marks { low: GIB, reserve: 64 * MIB });
        let said = DiskOptions { low_water: Some(5), reserve: Some(0) };
        assert_eq!(Marks::of(100 * GIB, &said), Marks { low: 5, reserve: 0 });
        let tiny = Marks::of(10 * MIB, &none);
        assert!(tiny.low + tiny.reserve < 3 * MIB, "{tiny:?}");
    }

    #[test]
    fn the_reserve_is_given_up_before_the_end_and_taken_only_with_room() {
        let marks = Marks { low: 16 * MIB, reserve: 8 * MIB };
        let space = |mib: u64| Space { total: 200 * MIB, available: mib * MIB, free: mib * MIB };
        assert!(marks.is_nearly_full(space(8)) && !marks.is_nearly_full(space(10)));
        assert!(!marks.has_room_for_reserve(space(26)) && marks.has_room_for_reserve(space(27)));
        assert!(!Marks { low: 0, reserve: 0 }.is_nearly_full(space(0)), "nothing to give up");
    }

    #[test]
    fn looks_come_before_the_mark_can_be_crossed_and_rarely_in_peace() {
        let (second, previous) = (Duration::from_secs(1), SHORTEST);
        assert_eq!(next_look(100 * GIB, 0, previous), LONGEST);
        assert_eq!(next_look(10 * GIB, GIB, previous), 10 * second);
        assert_eq!(next_look(100 * MIB, 50 * MIB, previous), SHORTEST);
        let mut pause = previous;
        for _ in 0..10 {
            pause = next_look(100 * MIB, 0, pause);
        }
        assert_eq!(pause, CALM);
        assert_eq!(next_look(100 * MIB, 2 * MIB, pause), SHORTEST);
    }

    #[test]
    fn counting_waits_for_a_loss_that_matters() {
        assert!(!is_time_to_count(100 * GIB, 95 * GIB, GIB));
        assert!(is_time_to_count(100 * GIB, 80 * GIB, GIB));
        assert!(!is_time_to_count(20 * MIB, 19 * MIB, 16 * MIB));
        assert!(is_time_to_count(20 * MIB, 10 * MIB, 16 * MIB));
        assert!(!is_time_to_count(20 * MIB, 30 * MIB, 16 * MIB));
    }

    #[test]
    fn who_grew_most_is_the_culprit_not_who_has_most() {
        let before = written(&[("large", 5000), ("writer", 10)]);
        let now = written(&[("large", 5001), ("writer", 90), ("new", 30)]);
        assert_eq!(culprit(&before, &now, 120 * MIB, false), Some(("writer".into(), 80 * MIB)));
        let before = written(&[("large", 5000), ("writer", 90)]);
        assert_eq!(culprit(&before, &now, 40 * MIB, false), Some(("new".into(), 30 * MIB)));
    }

    #[test]
    fn nobody_is_stopped_for_what_others_took() {
        let (before, now) = (written(&[("quiet", 10)]), written(&[("quiet", 20)]));
        assert_eq!(culprit(&before, &now, 1000 * MIB, false), None);
        assert_eq!(culprit(&before, &now, 100 * MIB, true), Some(("quiet".into(), 10 * MIB)));
        assert_eq!(culprit(&now, &now, 0, true), None);
        assert_eq!(culprit(&Written::new(), &Written::new(), 0, true), None);
    }
}
