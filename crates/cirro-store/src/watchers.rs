//! Who waits for changes of which prefix.
//!
//! Watchers are grouped by their prefix, and the groups are found by the lengths of prefixes in use:
//! a change looks up one map entry per length, however many watchers other prefixes have.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::{Change, WatchItem};

/// Revisions that a watcher may be behind before it is dropped.
pub(crate) const WATCH_BUFFER: usize = 1024;

const FIRST_SWEEP: usize = 64;

/// All watchers of a store.
pub(crate) struct Watchers {
    groups: HashMap<Arc<str>, Vec<Watcher>>,
    /// Number of groups by length of their prefix.
    lengths: BTreeMap<usize, usize>,
    count: usize,
    sweep_at: usize,
}

struct Watcher {
    sender: mpsc::Sender<WatchItem>,
    /// A place in the channel that is kept for the last word.
    lost: mpsc::OwnedPermit<WatchItem>,
}

impl Watchers {
    pub(crate) fn new() -> Self {
        Self { groups: HashMap::new(), lengths: BTreeMap::new(), count: 0, sweep_at: FIRST_SWEEP }
    }

    /// Adds a watcher of `prefix` that begins with `backlog`.
    pub(crate) fn add(&mut self, prefix: &str, backlog: Vec<WatchItem>) -> mpsc::Receiver<WatchItem> {
        let (sender, receiver) = mpsc::channel(backlog.len() + WATCH_BUFFER + 1);
        let lost = sender.clone().try_reserve_owned().expect("the channel is new and has room");
        for item in backlog {
            sender.try_send(item).expect("the channel was made large enough for the backlog");
        }
        if self.count >= self.sweep_at {
            self.sweep();
        }
        self.count += 1;
        let group = self.groups.entry(Arc::from(prefix)).or_insert_with(|| {
            *self.lengths.entry(prefix.len()).or_default() += 1;
            Vec::new()
        });
        group.push(Watcher { sender, lost });
        receiver
    }

    /// Tells everybody concerned about the changes of one revision.
    pub(crate) fn notify(&mut self, revision: u64, changes: &Arc<[Change]>) {
        if self.groups.is_empty() {
            return;
        }
        for prefix in self.concerned(changes) {
            let of_prefix = with_prefix(changes, &prefix).expect("the prefix was found by its changes");
            self.send(&prefix, &WatchItem::Changes(revision, of_prefix));
        }
    }

    /// Tells everybody that nothing else happened up to a revision.
    pub(crate) fn report_progress(&mut self, revision: u64) {
        let prefixes: Vec<_> = self.groups.keys().cloned().collect();
        for prefix in prefixes {
            self.send(&prefix, &WatchItem::Progress(revision));
        }
    }

    /// Ends all watches: what was watched is not there any more.
    pub(crate) fn lose_all(&mut self) {
        for watcher in self.groups.drain().flat_map(|(_, group)| group) {
            watcher.lost.send(WatchItem::Lost);
        }
        self.lengths.clear();
        self.count = 0;
    }

    fn concerned(&self, changes: &[Change]) -> Vec<Arc<str>> {
        let mut concerned = Vec::new();
        for change in changes {
            let prefixes = self.lengths.keys().map_while(|length| match *length <= change.key().len() {
                true => Some(change.key().get(..*length)),
                false => None,
            });
            for prefix in prefixes.flatten() {
                if let Some((prefix, _)) = self.groups.get_key_value(prefix)
                    && !concerned.contains(prefix)
                {
                    concerned.push(prefix.clone());
                }
            }
        }
        concerned
    }

    fn send(&mut self, prefix: &str, item: &WatchItem) {
        let Some(group) = self.groups.get_mut(prefix) else { return };
        let before = group.len();
        let mut kept = Vec::with_capacity(before);
        for watcher in group.drain(..) {
            match watcher.sender.try_send(item.clone()) {
                Ok(()) => kept.push(watcher),
                Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(_)) => {
                    watcher.lost.send(WatchItem::Lost);
                }
            }
        }
        self.count -= before - kept.len();
        *group = kept;
        if group.is_empty() {
            self.remove_group(prefix);
        }
    }

    /// Drops watchers whose reader has gone. A quiet prefix gets no changes that would show it.
    fn sweep(&mut self) {
        for group in self.groups.values_mut() {
            group.retain(|watcher| !watcher.sender.is_closed());
        }
        let empty: Vec<_> = self
            .groups
            .iter()
            .filter(|(_, group)| group.is_empty())
            .map(|(prefix, _)| prefix.clone())
            .collect();
        for prefix in empty {
            self.remove_group(&prefix);
        }
        self.count = self.groups.values().map(Vec::len).sum();
        self.sweep_at = FIRST_SWEEP.max(self.count * 2);
    }

    fn remove_group(&mut self, prefix: &str) {
        self.groups.remove(prefix);
        if let Some(groups) = self.lengths.get_mut(&prefix.len()) {
            *groups -= 1;
            if *groups == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
    }
}

/// Returns those of the changes whose key has the prefix, if any; all of them are shared, not copied.
pub(crate) fn with_prefix(changes: &Arc<[Change]>, prefix: &str) -> Option<Arc<[Change]>> {
    let matching = changes.iter().filter(|change| change.key().starts_with(prefix)).count();
    if matching == 0 {
        None
    } else if matching == changes.len() {
        Some(changes.clone())
    } else {
        Some(changes.iter().filter(|change| change.key().starts_with(prefix)).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_that_left_a_quiet_prefix_are_forgotten() {
        let mut watchers = Watchers::new();
        for number in 0..10_000 {
            drop(watchers.add(&format!("/quiet/{number}/"), Vec::new()));
        }
        assert!(watchers.count <= FIRST_SWEEP + 1, "{} watchers are left", watchers.count);
        assert_eq!(watchers.groups.len(), watchers.count);
        assert_eq!(watchers.lengths.values().sum::<usize>(), watchers.groups.len());
    }
}
