//! What a build tells of itself: kept from its first word on, so that who listens late hears everything.
//!
//! A record grows while the build runs and is bounded: of a step's output the first megabytes are kept, as BuildKit
//! does. Those who listen hold a place in it and are woken when it grows.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cirro_grpc::Status;
use tokio::sync::watch;

use crate::messages::{StatusResponse, Timestamp, Vertex, VertexLog};

/// Bytes of output that are kept of one step: BuildKit's limit.
const MAX_STEP_OUTPUT: usize = 2 << 20;
/// Bytes of output of one build.
const MAX_OUTPUT: usize = 64 << 20;
/// Parts of one build's record.
const MAX_PARTS: usize = 1 << 20;
/// Builds whose records are kept after their end, for those who ask late.
const MAX_ENDED: usize = 32;
/// Builds at the same time.
const MAX_RUNNING: usize = 256;
/// How long who asks for a build waits for it to begin.
const WAIT: Duration = Duration::from_secs(5);

/// The time now, as it is told.
pub(crate) fn now() -> Option<Timestamp> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some(Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
    })
}

#[derive(Default)]
struct Written {
    parts: Vec<Arc<StatusResponse>>,
    output: usize,
    step_output: HashMap<String, usize>,
}

/// The record of one build.
pub(crate) struct Record {
    written: Mutex<Written>,
    /// How many parts there are, and whether there will be more.
    state: watch::Sender<(usize, bool)>,
}

impl Default for Record {
    fn default() -> Self {
        Self { written: Mutex::default(), state: watch::channel((0, false)).0 }
    }
}

impl Record {
    fn lock(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a part.
    pub(crate) fn tell(&self, mut part: StatusResponse) {
        let mut written = self.lock();
        part.logs = part.logs.into_iter().filter_map(|log| written.bounded(log)).collect();
        let empty = StatusResponse::default();
        if part == empty || written.parts.len() >= MAX_PARTS {
            return;
        }
        written.parts.push(Arc::new(part));
        let length = written.parts.len();
        self.state.send_modify(|state| state.0 = length);
    }

    /// Returns everything that was told of steps, in order.
    pub(crate) fn vertexes(&self) -> Vec<Vertex> {
        self.lock().parts.iter().flat_map(|part| part.vertexes.clone()).collect()
    }

    /// Says that there will be no more.
    pub(crate) fn end(&self) {
        self.state.send_modify(|state| state.1 = true);
    }

    /// Starts to listen, from the beginning.
    pub(crate) fn listen(self: &Arc<Self>) -> Listener {
        Listener { record: self.clone(), state: self.state.subscribe(), next: 0 }
    }
}

impl Written {
    /// Cuts output where its step's, or the build's, has become too long.
    fn bounded(&mut self, mut log: VertexLog) -> Option<VertexLog> {
        let so_far = self.step_output.entry(log.vertex.clone()).or_default();
        if *so_far >= MAX_STEP_OUTPUT || self.output >= MAX_OUTPUT {
            return None;
        }
        *so_far += log.message.len();
        self.output += log.message.len();
        if *so_far >= MAX_STEP_OUTPUT || self.output >= MAX_OUTPUT {
            let text = format!("\n[output clipped, log limit {}MiB reached]\n", MAX_STEP_OUTPUT >> 20);
            log.message = Bytes::from([log.message.as_ref(), text.as_bytes()].concat());
        }
        Some(log)
    }
}

/// A place in a record.
pub(crate) struct Listener {
    record: Arc<Record>,
    state: watch::Receiver<(usize, bool)>,
    next: usize,
}

impl Listener {
    /// Returns the next part; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Arc<StatusResponse>> {
        let place = self.next;
        // The sender lives in the record that we hold.
        let state = *self.state.wait_for(|(length, ended)| place < *length || *ended).await.ok()?;
        if place >= state.0 {
            return None;
        }
        self.next += 1;
        self.record.lock().parts.get(place).cloned()
    }
}

/// The builds that run, and some that have ended.
#[derive(Default)]
pub(crate) struct Records {
    known: Mutex<Known>,
    changed: tokio::sync::Notify,
}

#[derive(Default)]
struct Known {
    records: HashMap<String, Arc<Record>>,
    ended: VecDeque<String>,
}

/// A build's record while it runs; it ends with this.
pub(crate) struct Running {
    records: Arc<Records>,
    reference: String,
    record: Arc<Record>,
}

impl Running {
    /// Returns the record.
    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.record.end();
        let mut known = self.records.lock();
        known.ended.push_back(self.reference.clone());
        if known.ended.len() > MAX_ENDED
            && let Some(oldest) = known.ended.pop_front()
        {
            known.records.remove(&oldest);
        }
    }
}

impl Records {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a build's record.
    ///
    /// # Errors
    /// If there is one of that name, or too many builds run.
    pub(crate) fn begin(self: &Arc<Self>, reference: &str) -> Result<Running, Status> {
        let mut known = self.lock();
        if reference.is_empty() || reference.len() > 256 || known.records.contains_key(reference) {
            return Err(Status::unknown(format!("job ID {reference} exists")));
        }
        if known.records.len() - known.ended.len() >= MAX_RUNNING {
            return Err(Status::unknown(format!("more than {MAX_RUNNING} builds at the same time")));
        }
        let record = Arc::new(Record::default());
        known.records.insert(reference.to_owned(), record.clone());
        drop(known);
        self.changed.notify_waiters();
        Ok(Running { records: self.clone(), reference: reference.to_owned(), record })
    }

    /// Finds a build's record; waits a little for a build that has not begun.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) async fn find(&self, reference: &str) -> Result<Arc<Record>, Status> {
        let find = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(record) = self.lock().records.get(reference) {
                    return record.clone();
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(WAIT, find).await;
        found.map_err(|_| Status::unknown(format!("no such job {reference}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(vertex: &str, length: usize) -> StatusResponse {
        let log =
            VertexLog { vertex: vertex.into(), message: vec![b'x'; length].into(), ..VertexLog::default() };
        StatusResponse { logs: vec![log], ..StatusResponse::default() }
    }

    #[tokio::test]
    async fn who_listens_late_hears_everything() {
        let records = Arc::new(Records::default());
        let running = records.begin("b").unwrap();
        assert!(records.begin("b").is_err());
        running.record().tell(log("1", 3));
        let mut early = records.find("b").await.unwrap().listen();
        assert_eq!(early.next().await.unwrap().logs[0].message.len(), 3);
        running.record().tell(log("1", 4));
        drop(running);
        let mut late = records.find("b").await.unwrap().listen();
        assert_eq!(early.next().await.unwrap().logs[0].message.len(), 4);
        assert!(early.next().await.is_none());
        assert!(late.next().await.is_some() && late.next().await.is_some() && late.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn ended_builds_are_forgotten_and_unknown_ones_an_error() {
        let records = Arc::new(Records::default());
        for number in 0..MAX_ENDED + 5 {
            drop(records.begin(&number.to_string()).unwrap());
        }
        assert_eq!(records.lock().records.len(), MAX_ENDED);
        assert!(records.find("0").await.is_err());
        assert!(records.find("20").await.is_ok());
    }

    #[test]
    fn output_is_cut_where_it_becomes_too_long() {
        let record = Arc::new(Record::default());
        for _ in 0..5 {
            record.tell(log("1", MAX_STEP_OUTPUT / 2));
        }
        record.tell(log("2", 1));
        let written = record.lock();
        assert_eq!(written.parts.len(), 3);
        assert!(written.parts[1].logs[0].message.ends_with(b"log limit 2MiB reached]\n"));
    }
}
