//! Which events are written anew, which are counted, and which are dropped.
//!
//! ```text
//! event ─▶ ten similar ones with other words become one ─▶ equal ones are counted ─▶ a bucket per object
//! ```
//! Everything that is remembered is bounded; what is forgotten begins anew.
//!
//! Source: client-go `tools/record/events_cache.go`.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher as _};

use cirro_seams::api::ObjectKey;
use jiff::{SignedDuration, Timestamp};

/// Entries that each of the memories keeps.
const REMEMBERED: usize = 4096;
/// Words that similar events may have before they become one.
const MAX_SIMILAR: usize = 10;
/// How long similar events belong together.
const SIMILAR_FOR: SignedDuration = SignedDuration::from_secs(600);
/// Events about one object that may come at once.
const BURST: f64 = 25.0;
/// Seconds until one more may come.
const REFILL: f64 = 300.0;
/// How the words of one that stands for many begin.
const COMBINED: &str = "(combined from similar events): ";

/// An event, as far as it decides.
pub(super) struct Event<'a> {
    /// What it is about, whoever says it.
    pub(super) object: u64,
    /// What sort of event it is: the object, type and reason.
    pub(super) sort: u64,
    pub(super) message: &'a str,
}

/// What is to be written.
#[derive(Debug, PartialEq)]
pub(super) struct Write {
    /// Where it is remembered.
    pub(super) place: u64,
    /// How often it happened.
    pub(super) count: u64,
    pub(super) first: Timestamp,
    pub(super) message: String,
    /// The event that counts it; a new one without.
    pub(super) counted_by: Option<ObjectKey>,
}

/// What is remembered of the events of one source.
#[derive(Default)]
pub(super) struct Correlator {
    similar: Memory<Similar>,
    observed: Memory<Observed>,
    buckets: Memory<Bucket>,
}

struct Similar {
    messages: HashSet<u64>,
    last: Timestamp,
}

#[derive(Clone)]
struct Observed {
    count: u64,
    first: Timestamp,
    event: Option<ObjectKey>,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl Correlator {
    /// Says what becomes of an event; nothing when too many came about its object.
    pub(super) fn correlate(&mut self, event: &Event<'_>, now: Timestamp) -> Option<Write> {
        let (place, message) = self.aggregate(event, now);
        let before = self.observed.get(place).cloned();
        let before = before.unwrap_or(Observed { count: 0, first: now, event: None });
        let observed = Observed { count: before.count + 1, ..before };
        self.observed.put(place, observed.clone());
        let Observed { count, first, event: counted_by } = observed;
        self.take_token(event.object, now).then_some(Write { place, count, first, message, counted_by })
    }

    /// Remembers which event counts.
    pub(super) fn written(&mut self, place: u64, event: ObjectKey) {
        if let Some(observed) = self.observed.get(place) {
            observed.event = Some(event);
        }
    }

    fn aggregate(&mut self, event: &Event<'_>, now: Timestamp) -> (u64, String) {
        let fresh = || Similar { messages: HashSet::new(), last: now };
        let mut similar = self.similar.take(event.sort).unwrap_or_else(fresh);
        if now.duration_since(similar.last) > SIMILAR_FOR {
            similar = fresh();
        }
        similar.last = now;
        let message = hash(&event.message);
        similar.messages.insert(message);
        let many = similar.messages.len() >= MAX_SIMILAR;
        if many && let Some(any) = similar.messages.iter().next().copied() {
            similar.messages.remove(&any);
        }
        self.similar.put(event.sort, similar);
        match many {
            true => (event.sort, format!("{COMBINED}{}", event.message)),
            false => (hash(&(event.sort, message)), event.message.to_owned()),
        }
    }

    fn take_token(&mut self, object: u64, now: Timestamp) -> bool {
        let mut bucket = self.buckets.take(object).unwrap_or(Bucket { tokens: BURST, at: now });
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed / REFILL).min(BURST);
        bucket.at = now;
        let may = bucket.tokens >= 1.0;
        if may {
            bucket.tokens -= 1.0;
        }
        self.buckets.put(object, bucket);
        may
    }
}

/// Hashes what decides.
pub(super) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A map that forgets what was not used for longest.
struct Memory<V> {
    entries: HashMap<u64, (u64, V)>,
    uses: u64,
}

impl<V> Default for Memory<V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), uses: 0 }
    }
}

impl<V> Memory<V> {
    fn get(&mut self, key: u64) -> Option<&mut V> {
        self.uses += 1;
        let (used, value) = self.entries.get_mut(&key)?;
        *used = self.uses;
        Some(value)
    }

    fn take(&mut self, key: u64) -> Option<V> {
        self.entries.remove(&key).map(|(_, value)| value)
    }

    fn put(&mut self, key: u64, value: V) {
        self.uses += 1;
        self.entries.insert(key, (self.uses, value));
        if self.entries.len() > REMEMBERED {
            let mut used: Vec<u64> = self.entries.values().map(|(used, _)| *used).collect();
            // A quarter at a time, so that it costs little per event.
            let (_, limit, _) = used.select_nth_unstable(REMEMBERED / 4);
            let limit = *limit;
            self.entries.retain(|_, (used, _)| *used > limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use cirro_seams::api::Resource;

    use super::*;

    fn event(object: u64, message: &str) -> Event<'_> {
        Event { object, sort: object, message }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn equal_events_are_counted() {
        let mut correlator = Correlator::default();
        let first = correlator.correlate(&event(1, "x"), at(5)).unwrap();
        assert_eq!((first.count, &first.counted_by), (1, &None));
        let key =
            ObjectKey { resource: Resource::new("", "events"), namespace: "n".into(), name: "e".into() };
        correlator.written(first.place, key.clone());
        let second = correlator.correlate(&event(1, "x"), at(9)).unwrap();
        assert_eq!((second.count, second.first, second.counted_by), (2, at(5), Some(key)));
    }

    #[test]
    fn ten_similar_events_become_one() {
        let mut correlator = Correlator::default();
        let messages: Vec<_> = (0..12).map(|number| format!("number {number}")).collect();
        let written: Vec<_> =
            messages.iter().map(|message| correlator.correlate(&event(1, message), at(1)).unwrap()).collect();
        assert_eq!(written[8].message, "number 8");
        assert_eq!(written[9].message, "(combined from similar events): number 9");
        assert_eq!(written[9].place, written[11].place);
        assert_eq!(written[11].count, 3);
        // After the interval it begins anew.
        let later = correlator.correlate(&event(1, "number 1"), at(1000)).unwrap();
        assert_eq!(later.message, "number 1");
    }

    #[test]
    fn an_object_has_25_events_and_one_more_every_five_minutes() {
        let mut correlator = Correlator::default();
        let mut say = |second| correlator.correlate(&event(1, "x"), at(second));
        assert_eq!((0..40).filter(|_| say(0).is_some()).count(), 25);
        assert!(say(200).is_none());
        let next = say(301).unwrap();
        // What was dropped counts.
        assert_eq!(next.count, 42);
        assert!(correlator.correlate(&event(2, "x"), at(0)).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory::default();
        (0..3 * REMEMBERED as u64).for_each(|key| memory.put(key, ()));
        assert!(memory.entries.len() <= REMEMBERED);
        assert!(memory.get(3 * REMEMBERED as u64 - 1).is_some() && memory.get(0).is_none());
    }
}
