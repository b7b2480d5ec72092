//! The objects in memory: the newest state of every key, the changes of the last revisions, and
//! who watches them.
//!
//! An older state is the newest one with the changes since taken back; history is bounded by count
//! and by the bytes that only it holds on to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::plan::Plan;
use crate::watchers::{Watchers, with_prefix};
use crate::{Change, Listing, Record, StoreError, WatchItem};

/// Revisions whose changes are kept.
const HISTORY_REVISIONS: usize = 10_000;
/// Bytes of replaced and deleted values that are kept.
const HISTORY_BYTES: usize = 32 * 1024 * 1024;
/// What a change costs beside its value.
const CHANGE_OVERHEAD: usize = 128;

/// Watchers are told how far things are after so much history: several times before it is forgotten.
const PROGRESS_REVISIONS: u64 = HISTORY_REVISIONS as u64 / 10;
const PROGRESS_BYTES: u64 = HISTORY_BYTES as u64 / 10;

/// The objects of a store.
pub(crate) struct Index {
    records: BTreeMap<Arc<str>, Record>,
    /// Keys whose record on disk is damaged.
    damaged: BTreeSet<Arc<str>>,
    revision: u64,
    /// The oldest revision whose state can be told.
    floor: u64,
    history: VecDeque<Revision>,
    history_bytes: usize,
    /// Bytes of history since the beginning, forgotten ones included.
    remembered_bytes: u64,
    /// Revision, and bytes remembered, when progress was last reported.
    reported: (u64, u64),
    watchers: Watchers,
}

struct Revision {
    revision: u64,
    changes: Arc<[Change]>,
    bytes: usize,
}

impl Index {
    /// An empty index. As in etcd it begins at revision 1, and the first write makes 2.
    pub(crate) fn new() -> Self {
        Self { floor: 0, ..Self::load(1, BTreeMap::new(), BTreeSet::new()) }
    }

    /// An index of what was found on disk; it has no history.
    pub(crate) fn load(
        revision: u64,
        records: BTreeMap<Arc<str>, Record>,
        damaged: BTreeSet<Arc<str>>,
    ) -> Self {
        Self {
            records,
            damaged,
            revision,
            floor: revision,
            history: VecDeque::new(),
            history_bytes: 0,
            remembered_bytes: 0,
            reported: (revision, 0),
            watchers: Watchers::new(),
        }
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Number of records, damaged ones included.
    pub(crate) fn count(&self) -> u64 {
        (self.records.len() + self.damaged.len()) as u64
    }

    /// Bytes of keys and values.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.records.values().map(|record| (record.key.len() + record.value.len()) as u64).sum()
    }

    /// Keys of damaged records.
    pub(crate) fn damaged(&self) -> impl Iterator<Item = &Arc<str>> {
        self.damaged.iter()
    }

    /// Returns a key's newest record.
    pub(crate) fn get(&self, key: &str) -> Result<Option<&Record>, StoreError> {
        if self.damaged.contains(key) {
            return Err(StoreError::Damaged(key.to_owned()));
        }
        Ok(self.records.get(key))
    }

    /// Lists a prefix; see [`crate::ObjectStore::list`].
    pub(crate) fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        revision: u64,
    ) -> Result<Listing, StoreError> {
        let revision = if revision == 0 { self.revision } else { revision };
        self.check_revision(revision)?;
        if let Some(key) = with_prefix_from(&self.damaged, prefix) {
            return Err(StoreError::Damaged(key.to_string()));
        }
        let since = self.undo(prefix, revision);
        let mut page = Page::new(start_after, limit);
        if since.is_empty() {
            self.newest(prefix).for_each(|record| page.add(record));
        } else {
            let gone = since.values().copied().flatten();
            let unchanged = self.newest(prefix).filter(|record| !since.contains_key(&*record.key));
            merge(unchanged, gone).for_each(|record| page.add(record));
        }
        Ok(Listing { records: page.records, revision, more: page.more, total: page.total })
    }

    /// Watches a prefix; see [`crate::ObjectStore::watch`].
    pub(crate) fn watch(
        &mut self,
        prefix: &str,
        revision: u64,
    ) -> Result<mpsc::Receiver<WatchItem>, StoreError> {
        self.check_revision(revision)?;
        let backlog = self
            .history_after(revision)
            .filter_map(|kept| {
                let changes = with_prefix(&kept.changes, prefix)?;
                Some(WatchItem::Changes(kept.revision, changes))
            })
            .collect();
        Ok(self.watchers.add(prefix, backlog))
    }

    /// Makes a plan true, and tells those who watch. One that changes nothing has no revision of its own.
    pub(crate) fn apply(&mut self, plan: Plan) {
        if plan.is_effective() {
            self.advance(plan);
        }
    }

    /// Makes a plan true that has a revision of its own in any case, and tells those who watch.
    pub(crate) fn advance(&mut self, plan: Plan) {
        for key in &plan.mended {
            self.damaged.remove(key);
        }
        for change in &plan.changes {
            match change {
                Change::Put(record, _) => self.records.insert(record.key.clone(), record.clone()),
                Change::Delete(_, record) => self.records.remove(&record.key),
            };
        }
        self.revision = plan.revision;
        let changes: Arc<[Change]> = plan.changes.into();
        self.watchers.notify(plan.revision, &changes);
        self.remember(plan.revision, changes);
        self.report_progress();
        if !plan.mended.is_empty() {
            // What was there before cannot be told, so neither can any older state.
            self.forget_up_to(plan.revision);
        }
    }

    /// Puts other records in the place of all that is known; who watches is told to list again.
    pub(crate) fn replace(&mut self, revision: u64, records: Vec<Record>) {
        self.watchers.lose_all();
        let records = records.into_iter().map(|record| (record.key.clone(), record)).collect();
        *self = Self::load(revision, records, BTreeSet::new());
    }

    /// Forgets history up to `revision`, whose own state can still be told.
    pub(crate) fn compact(&mut self, revision: u64) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future(revision));
        }
        self.forget_up_to(revision);
        Ok(())
    }

    fn check_revision(&self, revision: u64) -> Result<(), StoreError> {
        if revision > self.revision {
            Err(StoreError::Future(revision))
        } else if revision < self.floor {
            Err(StoreError::Compacted(revision))
        } else {
            Ok(())
        }
    }

    fn newest(&self, prefix: &str) -> impl Iterator<Item = &Record> {
        self.records
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .map(|(_, record)| record)
            .take_while(move |record| record.key.starts_with(prefix))
    }

    fn history_after(&self, revision: u64) -> impl DoubleEndedIterator<Item = &Revision> {
        let first = self.history.partition_point(|kept| kept.revision <= revision);
        self.history.range(first..)
    }

    /// What was, at `revision`, under those keys of the prefix that have changed since.
    fn undo(&self, prefix: &str, revision: u64) -> BTreeMap<&str, Option<&Record>> {
        let mut since = BTreeMap::new();
        for kept in self.history_after(revision).rev() {
            for change in kept.changes.iter().rev().filter(|change| change.key().starts_with(prefix)) {
                since.insert(&**change.key(), change.before());
            }
        }
        since
    }

    /// Tells all watchers now and then how far things are, so that one that sees no changes still knows a
    /// revision that a new watch could begin at.
    fn report_progress(&mut self) {
        let (revisions, bytes) = (self.revision - self.reported.0, self.remembered_bytes - self.reported.1);
        if revisions >= PROGRESS_REVISIONS || bytes >= PROGRESS_BYTES {
            self.reported = (self.revision, self.remembered_bytes);
            self.watchers.report_progress(self.revision);
        }
    }

    fn remember(&mut self, revision: u64, changes: Arc<[Change]>) {
        let bytes = changes
            .iter()
            .map(|change| CHANGE_OVERHEAD + change.before().map_or(0, |record| record.value.len()))
            .sum();
        self.history_bytes += bytes;
        self.remembered_bytes += bytes as u64;
        self.history.push_back(Revision { revision, changes, bytes });
        while self.history.len() > HISTORY_REVISIONS || self.history_bytes > HISTORY_BYTES {
            self.forget_oldest();
        }
    }

    fn forget_up_to(&mut self, revision: u64) {
        self.floor = self.floor.max(revision);
        while self.history.front().is_some_and(|oldest| oldest.revision <= self.floor) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.history.pop_front() {
            self.history_bytes -= oldest.bytes;
            self.floor = self.floor.max(oldest.revision);
        }
    }
}

/// Collects a page and counts what is not on it.
struct Page<'a> {
    start_after: Option<&'a str>,
    limit: usize,
    records: Vec<Record>,
    more: bool,
    total: usize,
}

impl<'a> Page<'a> {
    fn new(start_after: Option<&'a str>, limit: usize) -> Self {
        Self { start_after, limit, records: Vec::new(), more: false, total: 0 }
    }

    fn add(&mut self, record: &Record) {
        self.total += 1;
        if self.start_after.is_some_and(|start_after| &*record.key <= start_after) {
            return;
        }
        if self.limit != 0 && self.records.len() == self.limit {
            self.more = true;
        } else {
            self.records.push(record.clone());
        }
    }
}

/// Merges two sequences in key order that have no key in common.
fn merge<'a>(
    left: impl Iterator<Item = &'a Record>,
    right: impl Iterator<Item = &'a Record>,
) -> impl Iterator<Item = &'a Record> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(l), Some(r)) if l.key < r.key => left.next(),
        (_, Some(_)) => right.next(),
        (_, None) => left.next(),
    })
}

fn with_prefix_from<'a>(keys: &'a BTreeSet<Arc<str>>, prefix: &str) -> Option<&'a Arc<str>> {
    keys.range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .next()
        .filter(|key| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Operation;
    use crate::plan::Planner;

    fn put(index: &mut Index, key: &str, value: Vec<u8>) {
        let plan = Planner::new(index).plan(&[], vec![Operation::Put(key.into(), value.into())]).unwrap();
        index.apply(plan);
    }

    #[test]
    fn history_is_bounded_by_count() {
        let mut index = Index::new();
        for number in 0..HISTORY_REVISIONS + 10 {
            put(&mut index, &format!("/k/{}", number % 7), vec![1]);
        }
        assert_eq!(index.history.len(), HISTORY_REVISIONS);
        assert_eq!(index.floor, 11);
        assert!(index.list("/", None, 0, 11).is_ok());
        assert!(matches!(index.list("/", None, 0, 10), Err(StoreError::Compacted(10))));
        assert!(matches!(index.watch("/", 10), Err(StoreError::Compacted(10))));
    }

    #[test]
    fn history_is_bounded_by_bytes() {
        let mut index = Index::new();
        for _ in 0..100 {
            put(&mut index, "/k", vec![1; 1024 * 1024]);
        }
        assert!(index.history_bytes <= HISTORY_BYTES);
        assert!((30..40).contains(&index.history.len()), "{} revisions are kept", index.history.len());
    }
}
