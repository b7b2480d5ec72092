//! The builds that were: what `buildx history` asks for. Kept in memory, the last ones only.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use cirro_grpc::{Code, RpcStatus, Status};
use tokio::sync::broadcast;

use crate::messages::{
    BuildHistoryEvent, BuildHistoryRecord, BuildHistoryRequest, Exporter, UpdateBuildHistoryRequest, Vertex,
};
use crate::status::{Record, now};

/// Builds that are kept after their end; pinned ones count too.
const MAX_ENDED: usize = 64;
/// Events that wait for whoever listens; who falls behind is cut off.
const EVENTS: usize = 256;

/// What is asked for, as the history keeps it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The build's name.
    pub(crate) reference: String,
    /// The frontend.
    pub(crate) frontend: String,
    /// What it was asked.
    pub(crate) attributes: BTreeMap<String, String>,
    /// The outputs.
    pub(crate) exporters: Vec<Exporter>,
}

/// The builds that run and those that have ended.
pub(crate) struct History {
    known: Mutex<Known>,
    events: broadcast::Sender<Arc<BuildHistoryEvent>>,
}

#[derive(Default)]
struct Known {
    running: BTreeMap<String, BuildHistoryRecord>,
    /// The oldest first.
    ended: VecDeque<BuildHistoryRecord>,
}

impl Default for History {
    fn default() -> Self {
        Self { known: Mutex::default(), events: broadcast::channel(EVENTS).0 }
    }
}

/// A build under way. Dropping it without its end says that it was given up.
pub(crate) struct Entry {
    history: Arc<History>,
    record: Arc<Record>,
    reference: String,
}

impl Entry {
    /// Notes how the build ended.
    pub(crate) fn end(self, result: &Result<BTreeMap<String, String>, Status>) {
        self.history.end(&self.reference, &self.record, result.as_ref().map_err(Status::clone));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Nothing happens if it has ended already.
        let cancelled = Status::new(Code::Cancelled, "context canceled");
        self.history.end(&self.reference, &self.record, Err(cancelled));
    }
}

impl History {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, kind: i32, record: BuildHistoryRecord) {
        // Nobody may be listening.
        let _ = self.events.send(Arc::new(BuildHistoryEvent { kind, record: Some(record) }));
    }

    /// Notes that a build has begun.
    pub(crate) fn begin(self: &Arc<Self>, facts: Facts, record: &Arc<Record>) -> Entry {
        let entry =
            Entry { history: self.clone(), record: record.clone(), reference: facts.reference.clone() };
        let begun = BuildHistoryRecord {
            reference: facts.reference.clone(),
            frontend: facts.frontend,
            frontend_attributes: facts.attributes,
            exporters: facts.exporters,
            created_at: now(),
            ..BuildHistoryRecord::default()
        };
        self.lock().running.insert(facts.reference, begun.clone());
        self.tell(BuildHistoryEvent::STARTED, begun);
        entry
    }

    fn end(&self, reference: &str, record: &Record, result: Result<&BTreeMap<String, String>, Status>) {
        let mut known = self.lock();
        let Some(mut ended) = known.running.remove(reference) else { return };
        ended.completed_at = now();
        count(&mut ended, &record.vertexes());
        match result {
            Ok(told) => ended.exporter_response.clone_from(told),
            Err(status) => ended.error = Some(RpcStatus::from(status)),
        }
        known.ended.retain(|earlier| earlier.reference != reference);
        known.ended.push_back(ended.clone());
        let gone = match known.ended.len() > MAX_ENDED {
            true => {
                let oldest = known.ended.iter().position(|ended| !ended.pinned).unwrap_or(0);
                known.ended.remove(oldest)
            }
            false => None,
        };
        drop(known);
        self.tell(BuildHistoryEvent::COMPLETE, ended);
        if let Some(gone) = gone {
            self.tell(BuildHistoryEvent::DELETED, gone);
        }
    }

    /// Answers a request: what is there now, and what will come unless only the present is asked for.
    ///
    /// # Errors
    /// For a filter that is not there.
    pub(crate) fn listen(self: &Arc<Self>, request: &BuildHistoryRequest) -> Result<Listening, Status> {
        let wanted = Wanted::read(request)?;
        // Before looking, so that nothing is missed.
        let events = self.events.subscribe();
        let known = self.lock();
        let events_of = |kind, record: &BuildHistoryRecord| {
            Arc::new(BuildHistoryEvent { kind, record: Some(record.clone()) })
        };
        let mut present: Vec<Arc<BuildHistoryEvent>> =
            known.running.values().map(|record| events_of(BuildHistoryEvent::STARTED, record)).collect();
        if !wanted.active_only {
            present.extend(known.ended.iter().map(|record| events_of(BuildHistoryEvent::COMPLETE, record)));
        }
        present.retain(|event| wanted.takes(event));
        if let Some(limit) = usize::try_from(request.limit).ok().filter(|limit| *limit > 0) {
            let time = |event: &Arc<BuildHistoryEvent>| {
                let made =
                    event.record.as_ref().and_then(|record| record.created_at.clone()).unwrap_or_default();
                std::cmp::Reverse((made.seconds, made.nanos))
            };
            present.sort_by_key(time);
            present.truncate(limit);
        }
        let events = (!request.early_exit).then_some(events);
        Ok(Listening { present: present.into(), events, wanted })
    }

    /// Pins, releases or removes a record.
    ///
    /// # Errors
    /// If there is none of that name.
    pub(crate) fn update(&self, request: &UpdateBuildHistoryRequest) -> Result<(), Status> {
        let mut known = self.lock();
        let place = known.ended.iter().position(|record| record.reference == request.reference);
        let missing =
            || Status::new(Code::NotFound, format!("no record found for ref {}", request.reference));
        let place = place.ok_or_else(missing)?;
        if request.delete {
            let gone = known.ended.remove(place);
            drop(known);
            gone.into_iter().for_each(|gone| self.tell(BuildHistoryEvent::DELETED, gone));
            return Ok(());
        }
        // `finalize` waits for what is exported about a build, of which there is nothing here.
        if !request.finalize {
            let record = &mut known.ended[place];
            record.pinned = request.pinned;
            record.generation += 1;
            let changed = record.clone();
            drop(known);
            self.tell(BuildHistoryEvent::COMPLETE, changed);
        }
        Ok(())
    }
}

/// Which records are wanted.
#[derive(Debug, Default)]
struct Wanted {
    active_only: bool,
    reference: String,
    /// One of these must hold; each is several conditions that must all hold.
    filters: Vec<Vec<(String, String)>>,
}

impl Wanted {
    fn read(request: &BuildHistoryRequest) -> Result<Self, Status> {
        let condition = |text: &str| match text.split_once("==").or_else(|| text.split_once('=')) {
            Some((name @ ("ref" | "status"), value)) => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Status::unsupported(format!("the filter {text}"))),
        };
        let filter = |text: &String| text.split(',').map(condition).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            active_only: request.active_only,
            reference: request.reference.clone(),
            filters: request.filter.iter().map(filter).collect::<Result<_, _>>()?,
        })
    }

    fn takes(&self, event: &BuildHistoryEvent) -> bool {
        let Some(record) = &event.record else { return false };
        if !self.reference.is_empty() && self.reference != record.reference {
            return false;
        }
        let holds = |(name, value): &(String, String)| match name.as_str() {
            "ref" => record.reference == *value,
            _ => status_of(record) == value,
        };
        self.filters.is_empty() || self.filters.iter().any(|filter| filter.iter().all(holds))
    }
}

fn status_of(record: &BuildHistoryRecord) -> &'static str {
    match (&record.error, &record.completed_at) {
        (_, None) => "running",
        (None, Some(_)) => "completed",
        (Some(error), _) if error.code == Code::Cancelled as i32 => "canceled",
        (Some(_), _) => "error",
    }
}

/// The events that answer one request.
pub(crate) struct Listening {
    present: VecDeque<Arc<BuildHistoryEvent>>,
    events: Option<broadcast::Receiver<Arc<BuildHistoryEvent>>>,
    wanted: Wanted,
}

impl Listening {
    /// Returns the next event; `None` after the last.
    ///
    /// # Errors
    /// If the listener has fallen behind.
    pub(crate) async fn next(&mut self) -> Result<Option<Arc<BuildHistoryEvent>>, Status> {
        if let Some(event) = self.present.pop_front() {
            return Ok(Some(event));
        }
        let Some(events) = &mut self.events else { return Ok(None) };
        loop {
            match events.recv().await {
                Ok(event) if self.wanted.takes(&event) => return Ok(Some(event)),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Closed) => return Ok(None),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    return Err(Status::new(Code::ResourceExhausted, "too many events for the listener"));
                }
            }
        }
    }
}

/// Counts the steps of a build by what it told of them.
fn count(record: &mut BuildHistoryRecord, vertexes: &[Vertex]) {
    let mut last: HashMap<&str, &Vertex> = HashMap::new();
    for vertex in vertexes {
        last.insert(&vertex.digest, vertex);
    }
    let number = |wanted: &dyn Fn(&Vertex) -> bool| {
        i32::try_from(last.values().filter(|vertex| wanted(vertex)).count()).unwrap_or(i32::MAX)
    };
    record.total_steps = number(&|_| true);
    record.cached_steps = number(&|vertex| vertex.cached);
    record.completed_steps = number(&|vertex| vertex.completed.is_some() && vertex.error.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::StatusResponse;

    fn begin(history: &Arc<History>, reference: &str) -> (Entry, Arc<Record>) {
        let record = Arc::new(Record::default());
        let facts = Facts { reference: reference.into(), ..Facts::default() };
        (history.begin(facts, &record), record)
    }

    async fn all(history: &Arc<History>, request: BuildHistoryRequest) -> Vec<(i32, String, &'static str)> {
        let mut listening = history.listen(&BuildHistoryRequest { early_exit: true, ..request }).unwrap();
        let mut events = Vec::new();
        while let Some(event) = listening.next().await.unwrap() {
            let record = event.record.as_ref().unwrap();
            events.push((event.kind, record.reference.clone(), status_of(record)));
        }
        events
    }

    #[tokio::test]
    async fn builds_are_told_with_their_end() {
        let history = Arc::new(History::default());
        let mut listening = history.listen(&BuildHistoryRequest::default()).unwrap();
        let (good, record) = begin(&history, "good");
        let (bad, _) = begin(&history, "bad");
        let (given_up, _) = begin(&history, "given up");
        let vertex = |digest: &str, cached, error: &str| Vertex {
            digest: digest.into(),
            cached,
            completed: now(),
            error: error.into(),
            ..Vertex::default()
        };
        let vertexes = vec![vertex("1", true, ""), vertex("2", false, ""), vertex("2", false, "")];
        record.tell(StatusResponse { vertexes, ..StatusResponse::default() });
        let running = BuildHistoryRequest { active_only: true, ..BuildHistoryRequest::default() };
        assert_eq!(all(&history, running.clone()).await.len(), 3);
        good.end(&Ok(BTreeMap::from([("containerimage.digest".into(), "x".into())])));
        bad.end(&Err(Status::unknown("no")));
        drop(given_up);
        assert!(all(&history, running).await.is_empty());
        let told = all(&history, BuildHistoryRequest::default()).await;
        let told: Vec<_> = told.iter().map(|(_, name, status)| (name.as_str(), *status)).collect();
        assert_eq!(told, [("good", "completed"), ("bad", "error"), ("given up", "canceled")]);
        let mut kinds = Vec::new();
        for _ in 0..6 {
            let event = listening.next().await.unwrap().unwrap();
            kinds.push(event.kind);
            if let Some(record) =
                event.record.as_ref().filter(|record| record.reference == "good" && event.kind == 1)
            {
                assert_eq!((record.total_steps, record.cached_steps, record.completed_steps), (2, 1, 2));
                assert_eq!(record.exporter_response["containerimage.digest"], "x");
            }
        }
        assert_eq!(kinds, [0, 0, 0, 1, 1, 1]);
    }

    #[tokio::test]
    async fn records_are_bounded_filtered_pinned_and_removed() {
        let history = Arc::new(History::default());
        begin(&history, "first").0.end(&Err(Status::unknown("no")));
        let update =
            UpdateBuildHistoryRequest { reference: "first".into(), pinned: true, ..Default::default() };
        history.update(&update).unwrap();
        for number in 0..MAX_ENDED + 3 {
            begin(&history, &number.to_string()).0.end(&Ok(BTreeMap::new()));
        }
        let known = all(&history, BuildHistoryRequest::default()).await;
        assert_eq!(known.len(), MAX_ENDED);
        assert_eq!((known[0].1.as_str(), known[1].1.as_str()), ("first", "4"));
        let asked = |filter: &[&str], limit| BuildHistoryRequest {
            filter: filter.iter().map(|text| (*text).to_owned()).collect(),
            limit,
            ..BuildHistoryRequest::default()
        };
        assert_eq!(all(&history, asked(&["status=error"], 0)).await.len(), 1);
        assert_eq!(all(&history, asked(&["status=error", "ref=9,status=completed"], 0)).await.len(), 2);
        assert_eq!(all(&history, asked(&[], 5)).await.len(), 5);
        assert!(history.listen(&asked(&["repository=x"], 0)).is_err());
        let by_name = BuildHistoryRequest { reference: "9".into(), ..BuildHistoryRequest::default() };
        assert_eq!(all(&history, by_name).await.len(), 1);
        let remove =
            UpdateBuildHistoryRequest { reference: "first".into(), delete: true, ..Default::default() };
        history.update(&remove).unwrap();
        assert!(history.update(&remove).unwrap_err().is(Code::NotFound));
    }
}
