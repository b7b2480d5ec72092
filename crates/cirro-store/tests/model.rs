//! The object stores against a model that keeps every state it ever had.

mod etcd_server;

use std::collections::BTreeMap;
use std::path::PathBuf;

use cirro_store::{
    Change, Condition, EmbeddedStore, MemoryObjectStore, ObjectStore, Operation, Record, StoreError,
    WatchItem,
};
use etcd_server::EtcdServer;
use proptest::prelude::*;
use tokio::sync::mpsc::Receiver;

type State = BTreeMap<String, Record>;

#[derive(Debug, Clone)]
enum Step {
    /// Conditions (key, what is expected: nothing, the present revision, a wrong one) and writes.
    Commit(Vec<(u8, Expected)>, BTreeMap<u8, Option<u8>>),
    /// A list of a prefix, by pages of so many, at the newest revision less so many.
    List { prefix: u8, limit: usize, back: u64 },
    /// A watch of a prefix from the newest revision less so many; it is read at the end.
    Watch { prefix: u8, back: u64 },
    /// Compaction at the newest revision less so many.
    Compact { back: u64 },
    /// The durable store is closed and opened again.
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum Expected {
    Absent,
    Present,
    Wrong,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let expected = prop_oneof![Just(Expected::Absent), Just(Expected::Present), Just(Expected::Wrong)];
    let conditions = proptest::collection::vec((0..12_u8, expected), 0..2);
    let writes =
        proptest::collection::btree_map(0..12_u8, proptest::option::weighted(0.7, any::<u8>()), 0..4);
    let step = prop_oneof![
        8 => (conditions, writes).prop_map(|(conditions, writes)| Step::Commit(conditions, writes)),
        4 => (0..4_u8, 0..4_usize, 0..6_u64).prop_map(|(prefix, limit, back)| Step::List { prefix, limit, back }),
        2 => (0..4_u8, 0..6_u64).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        1 => (0..4_u64).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

fn key(number: u8) -> String {
    format!("/{}/{}", number % 3, number / 3)
}

/// The last one is that of all keys.
fn prefix(number: u8) -> String {
    if number < 3 { format!("/{number}/") } else { String::new() }
}

/// Every state by its revision, and the oldest one that can be told.
struct Model {
    states: BTreeMap<u64, State>,
    floor: u64,
}

impl Model {
    fn new() -> Self {
        Self { states: [(1, State::new())].into(), floor: 0 }
    }

    fn revision(&self) -> u64 {
        *self.states.last_key_value().unwrap().0
    }

    fn at(&self, revision: u64) -> &State {
        self.states.range(..=revision).next_back().map_or(&self.states[&1], |(_, state)| state)
    }

    fn commit(&mut self, conditions: &[Condition], operations: &[Operation]) -> Result<u64, String> {
        let mut state = self.at(self.revision()).clone();
        for condition in conditions {
            let (key, wanted) = match condition {
                Condition::Absent(key) => (key, 0),
                Condition::Revision(key, revision) => (key, *revision),
            };
            let present = state.get(key).map_or(0, |record| record.revision);
            if present != wanted {
                return Err(format!("{key} {present}"));
            }
        }
        let revision = self.revision() + 1;
        let mut is_changed = false;
        for operation in operations {
            is_changed |= apply(&mut state, operation, revision);
        }
        if !is_changed {
            return Ok(self.revision());
        }
        self.states.insert(revision, state);
        Ok(revision)
    }
}

fn apply(state: &mut State, operation: &Operation, revision: u64) -> bool {
    match operation {
        Operation::Delete(key) => state.remove(key).is_some(),
        Operation::Put(key, value) => {
            let before = state.get(key);
            let record = Record {
                key: key.as_str().into(),
                value: value.clone(),
                revision,
                create_revision: before.map_or(revision, |record| record.create_revision),
                version: before.map_or(1, |record| record.version + 1),
            };
            state.insert(key.clone(), record);
            true
        }
    }
}

/// A watcher, its prefix, and the revision that it began after.
type Watching = (Receiver<WatchItem>, String, u64);

/// A store under test, the model beside it.
struct Run<'a> {
    store: Option<Box<dyn ObjectStore>>,
    place: Place<'a>,
    model: Model,
    watching: Vec<Watching>,
}

impl Run<'_> {
    fn store(&self) -> &dyn ObjectStore {
        self.store.as_deref().unwrap()
    }

    async fn step(&mut self, step: Step) {
        let newest = self.model.revision();
        match step {
            Step::Commit(conditions, writes) => self.commit(&conditions, writes).await,
            Step::List { prefix: number, limit, back } => {
                self.list(&prefix(number), limit, newest.saturating_sub(back).max(1)).await;
            }
            Step::Watch { prefix: number, back } => {
                let after = newest.saturating_sub(back);
                match self.store().watch(&prefix(number), after).await {
                    Ok(receiver) => {
                        assert!(after >= self.model.floor);
                        self.watching.push((receiver, prefix(number), after));
                    }
                    Err(StoreError::Compacted(_)) => assert!(after < self.model.floor),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Compact { back } => {
                let revision = newest.saturating_sub(back);
                self.store().compact(revision).await.unwrap();
                self.model.floor = self.model.floor.max(revision);
            }
            Step::Reopen => {
                if matches!(self.place, Place::Memory) {
                    return;
                }
                self.read_watchers();
                self.store = None;
                self.store = Some(self.place.open().await);
                self.model.floor = if newest == 1 { 0 } else { newest };
            }
        }
        assert_eq!(self.store().revision(), self.model.revision());
    }

    async fn commit(&mut self, conditions: &[(u8, Expected)], writes: BTreeMap<u8, Option<u8>>) {
        let newest = self.model.at(self.model.revision());
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(number, expected)| {
                let present = newest.get(&key(*number)).map_or(0, |record| record.revision);
                match expected {
                    Expected::Absent => Condition::Absent(key(*number)),
                    Expected::Present => Condition::Revision(key(*number), present),
                    Expected::Wrong => Condition::Revision(key(*number), present + 1),
                }
            })
            .collect();
        let operations: Vec<_> = writes
            .into_iter()
            .map(|(number, value)| match value {
                Some(value) => Operation::Put(key(number), vec![value; 3].into()),
                None => Operation::Delete(key(number)),
            })
            .collect();
        let expected = self.model.commit(&conditions, &operations);
        let result = self.store().commit(conditions, operations).await.map_err(|error| match error {
            StoreError::Conflict { key, revision } => format!("{key} {revision}"),
            error => panic!("{error}"),
        });
        assert_eq!(result, expected);
    }

    async fn list(&self, prefix: &str, limit: usize, revision: u64) {
        let all: Vec<_> = self
            .model
            .at(revision)
            .values()
            .filter(|record| record.key.starts_with(prefix))
            .cloned()
            .collect();
        let mut found: Vec<Record> = Vec::new();
        loop {
            let start_after = found.last().map(|record| record.key.clone());
            match self.store().list(prefix, start_after.as_deref(), limit, revision).await {
                Ok(page) => {
                    assert!(revision >= self.model.floor);
                    assert_eq!((page.revision, page.total), (revision, all.len()));
                    assert!(limit == 0 || page.records.len() <= limit);
                    found.extend(page.records);
                    assert_eq!(page.more, found.len() < all.len());
                    if !page.more {
                        break;
                    }
                }
                Err(StoreError::Compacted(_)) => {
                    assert!(revision < self.model.floor);
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(found, all);
    }

    /// Every watcher has got every change since it began, once, in order.
    fn read_watchers(&mut self) {
        for (mut receiver, prefix, after) in self.watching.drain(..) {
            let mut state = self.model.at(after).clone();
            let mut last = after;
            while let Ok(item) = receiver.try_recv() {
                let WatchItem::Changes(revision, changes) = item else { panic!("{item:?}") };
                assert!(revision > last);
                last = revision;
                changes.iter().for_each(|change| replay(&mut state, change, revision));
                let of_prefix = |state: &State| -> Vec<Record> {
                    state.values().filter(|record| record.key.starts_with(&prefix)).cloned().collect()
                };
                assert_eq!(of_prefix(&state), of_prefix(self.model.at(revision)));
            }
            state.retain(|key, _| key.starts_with(&prefix));
            let mut newest = self.model.at(self.model.revision()).clone();
            newest.retain(|key, _| key.starts_with(&prefix));
            assert_eq!(state, newest);
        }
    }
}

fn replay(state: &mut State, change: &Change, revision: u64) {
    assert_eq!(change.before(), state.get(&**change.key()));
    match change {
        Change::Put(record, _) => {
            assert_eq!(record.revision, revision);
            state.insert(record.key.to_string(), record.clone());
        }
        Change::Delete(at, record) => {
            assert_eq!(*at, revision);
            state.remove(&*record.key);
        }
    }
}

/// Where a store is.
enum Place<'a> {
    Memory,
    File(PathBuf),
    Etcd(&'a EtcdServer, String),
}

impl Place<'_> {
    async fn open(&self) -> Box<dyn ObjectStore> {
        match self {
            Self::Memory => Box::new(MemoryObjectStore::new()),
            Self::File(path) => Box::new(EmbeddedStore::open(path).unwrap()),
            Self::Etcd(server, prefix) => Box::new(server.store(prefix).await),
        }
    }
}

fn run(place: Place<'_>, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Some(place.open().await);
        let mut run = Run { store, place, model: Model::new(), watching: Vec::new() };
        for step in steps {
            run.step(step).await;
        }
        run.read_watchers();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]
    #[test]
    fn the_memory_store_is_like_its_model(steps in steps()) {
        run(Place::Memory, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]
    #[test]
    fn the_durable_store_is_like_its_model(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        run(Place::File(directory.path().join("objects.redb")), steps);
    }
}

#[test]
fn the_store_in_etcd_is_like_its_model() {
    let etcd = EtcdServer::start();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) };
    let case = std::cell::Cell::new(0);
    let result = proptest::test_runner::TestRunner::new(config).run(&steps(), |steps| {
        case.set(case.get() + 1);
        run(Place::Etcd(&etcd, format!("/case-{}", case.get())), steps);
        Ok(())
    });
    result.unwrap();
}
