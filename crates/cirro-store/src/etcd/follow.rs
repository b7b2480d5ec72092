//! Keeps the index like etcd: everything is read once, then a watch of all keys tells every revision in order.
//!
//! Keys that are not ours are watched too: so no revision of etcd is left out, and the one that a read waits for
//! is known to come. (Asking for progress instead tells it too early in etcd before 3.4.25 and 3.5.8, etcd #15220.)

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cirro_grpc::{Code, Status};
use tokio::sync::watch;
use tracing::{info, warn};

use super::client::Client;
use super::layout::{ALL, Layout, newest};
use super::messages::*;
use crate::index::Index;
use crate::plan::Plan;
use crate::shared::Shared;
use crate::{Change, Record, StoreError};

/// Objects of the first page, which may be of any size.
const FIRST_PAGE: i64 = 32;
const LARGEST_PAGE: i64 = 5000;
/// What a page should have, by the size of the ones before.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// What is waited before the next attempt after a failure, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The one who follows.
pub(super) struct Follower {
    pub(super) client: Arc<Client>,
    pub(super) layout: Layout,
    pub(super) shared: Arc<Shared>,
    /// Our newest revision, told after the index has it.
    pub(super) reached: watch::Sender<u64>,
}

/// Why a watch ended.
enum End {
    Failed(Status),
    /// What comes next cannot be told any more: everything is to be read again.
    Behind(String),
}

impl From<Status> for End {
    fn from(failure: Status) -> Self {
        Self::Failed(failure)
    }
}

/// Reads all objects at one revision.
pub(super) async fn load(client: &Client, layout: &Layout) -> Result<(u64, Vec<Record>), StoreError> {
    let (mut key, range_end) = layout.range();
    let (mut records, mut revision) = (Vec::new(), 0);
    let (mut limit, mut bytes) = (FIRST_PAGE, 0);
    loop {
        let request = RangeRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            limit,
            revision,
            ..RangeRequest::default()
        };
        let page: RangeResponse = client.call("/etcdserverpb.KV/Range", &request).await?;
        if revision == 0 {
            revision = page.header.unwrap_or_default().revision;
        }
        bytes += page.kvs.iter().map(|found| found.value.len()).sum::<usize>();
        records.extend(page.kvs.iter().filter_map(|found| layout.record(found)));
        match page.kvs.last() {
            Some(last) if page.more => key = [&last.key[..], b"\0"].concat().into(),
            _ => return Ok((layout.revision(revision), records)),
        }
        let average = bytes / records.len().max(1);
        let fitting = i64::try_from(PAGE_BYTES / average.max(1)).unwrap_or(LARGEST_PAGE);
        limit = fitting.clamp(FIRST_PAGE, LARGEST_PAGE);
    }
}

impl Follower {
    /// Follows until it is aborted.
    pub(super) async fn run(self) {
        let mut pause = PAUSE;
        loop {
            let before = *self.reached.borrow();
            match self.follow().await {
                Ok(()) => {}
                Err(End::Failed(why)) => {
                    warn!(%why, revision = before, "the watch of etcd ended; it begins again");
                }
                Err(End::Behind(why)) => {
                    warn!(why, revision = before, "cannot catch up with etcd; all objects are read again");
                    if let Err(why) = self.reload().await {
                        warn!(%why, "cannot read the objects in etcd");
                    }
                }
            }
            if *self.reached.borrow() != before {
                pause = PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn reload(&self) -> Result<(), StoreError> {
        let (revision, records) = load(&self.client, &self.layout).await?;
        info!(revision, objects = records.len(), "objects are read from etcd");
        self.shared.write().replace(revision, records);
        self.reached.send_replace(revision);
        Ok(())
    }

    /// Watches from the index's revision on.
    async fn follow(&self) -> Result<(), End> {
        let known = self.shared.read().revision();
        let present = newest(&self.client).await?;
        if self.layout.revision(present) < known {
            return Err(End::Behind(format!("etcd went back to its revision {present}")));
        }
        let create = WatchCreateRequest {
            key: Bytes::from_static(ALL),
            range_end: Bytes::from_static(ALL),
            start_revision: self.layout.etcds(known) + 1,
            fragment: true,
        };
        let request = WatchRequest { create: Some(create) };
        let mut stream = self.client.stream("/etcdserverpb.Watch/Watch", &request).await?;
        let mut events = Vec::new();
        while let Some(answer) = stream.next::<WatchResponse>().await? {
            if answer.compact_revision != 0 {
                return Err(End::Behind(format!("etcd has compacted {}", answer.compact_revision)));
            }
            if answer.canceled {
                return Err(End::Failed(Status::new(Code::Unavailable, answer.cancel_reason)));
            }
            events.extend(answer.events);
            let whole = whole_revisions(&events, answer.fragment);
            self.apply(events.drain(..whole));
        }
        Ok(())
    }

    /// Brings the index to what the events say; they are in order, and all of each revision are there.
    fn apply(&self, events: impl Iterator<Item = Event>) {
        let mut events = events.filter(|event| event.kv.is_some()).peekable();
        if events.peek().is_none() {
            return;
        }
        let mut index = self.shared.write();
        while let Some(revision) = events.peek().and_then(revision_of) {
            let of_revision =
                std::iter::from_fn(|| events.next_if(|event| revision_of(event) == Some(revision)));
            let number = self.layout.revision(revision);
            let changes: Vec<_> =
                of_revision.filter_map(|event| change(&self.layout, &index, number, &event)).collect();
            // A watch that begins again may repeat what is known.
            if number > index.revision() {
                index.advance(Plan { revision: number, changes, mended: Vec::new() });
            }
        }
        let reached = index.revision();
        drop(index);
        self.reached.send_replace(reached);
    }
}

/// How many of the events belong to revisions of which nothing is missing: the last revision of a piece may go on
/// in the next one.
fn whole_revisions(events: &[Event], more_follow: bool) -> usize {
    match events.last().and_then(revision_of) {
        Some(last) if more_follow => {
            events.iter().take_while(|event| revision_of(event) != Some(last)).count()
        }
        _ => events.len(),
    }
}

fn revision_of(event: &Event) -> Option<i64> {
    event.kv.as_ref().map(|found| found.mod_revision)
}

/// What an event means for our objects, if anything.
fn change(layout: &Layout, index: &Index, revision: u64, event: &Event) -> Option<Change> {
    let found = event.kv.as_ref()?;
    let key = layout.object(&found.key)?;
    let before = index.get(key).ok().flatten().cloned();
    match (event.kind, before) {
        (0, before) => {
            let mut record = layout.record(found)?;
            if let Some(before) = &before {
                record.key = before.key.clone();
            }
            Some(Change::Put(record, before))
        }
        (_, Some(before)) => Some(Change::Delete(revision, before)),
        (_, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_revision_of_a_piece_waits_for_the_next() {
        let event =
            |mod_revision| Event { kind: 0, kv: Some(KeyValue { mod_revision, ..KeyValue::default() }) };
        let events: Vec<_> = [5, 5, 6, 7, 7].map(event).into();
        assert_eq!(whole_revisions(&events, true), 3);
        assert_eq!(whole_revisions(&events, false), 5);
        assert_eq!(whole_revisions(&events[..2], true), 0);
        assert_eq!(whole_revisions(&[], true), 0);
    }
}
