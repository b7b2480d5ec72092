//! What happened: broadcast as it happens, and the newest few hundred kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use cirro_seams::container::Container;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

const KEPT: usize = 512;
const CHANNEL: usize = 1024;

/// A change that docker's `events` and the kubelet see.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// `container`, `image`, `network`, `volume`, `instance`.
    pub kind: String,
    /// `create`, `start`, `die`, `stop`, `kill`, `destroy`, `tag`, `exec_create: ...`.
    pub action: String,
    /// Id of the object.
    pub id: String,
    /// name, image, exitCode, signal, labels...
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since 1970.
    pub time_nanoseconds: i64,
}

/// The events of one engine.
pub(crate) struct EventLog {
    sender: broadcast::Sender<Event>,
    kept: Mutex<VecDeque<Event>>,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::channel(CHANNEL).0, kept: Mutex::new(VecDeque::with_capacity(KEPT)) }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    /// Returns how many listen.
    pub(crate) fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }

    /// Returns kept events that are not older than `since`, the oldest first.
    pub(crate) fn past(&self, since: i64) -> Vec<Event> {
        let kept = self.kept.lock().expect("no panic while it is held");
        kept.iter().filter(|event| event.time_nanoseconds >= since).cloned().collect()
    }

    /// Records an event of an object.
    pub(crate) fn emit(&self, kind: &str, action: &str, id: &str, attributes: &[(&str, &str)]) {
        self.publish(Event {
            kind: kind.into(),
            action: action.into(),
            id: id.into(),
            attributes: attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            time_nanoseconds: crate::clock::nanoseconds(),
        });
    }

    /// Records an event of a container, with its labels, image and name as docker gives them.
    pub(crate) fn emit_container(&self, action: &str, container: &Container, more: &[(&str, String)]) {
        let mut attributes = container.labels.clone();
        attributes.insert("image".into(), container.spec.image.clone());
        attributes.insert("name".into(), container.name.clone());
        attributes.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.publish(Event {
            kind: "container".into(),
            action: action.into(),
            id: container.id.clone(),
            attributes,
            time_nanoseconds: crate::clock::nanoseconds(),
        });
    }

    fn publish(&self, event: Event) {
        let mut kept = self.kept.lock().expect("no panic while it is held");
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Sent under the lock, so that live and kept events have one order. Nobody listening is no error.
        let _ = self.sender.send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_are_kept_and_the_oldest_go() {
        let log = EventLog::new();
        for number in 0..KEPT + 3 {
            log.emit("image", "tag", &number.to_string(), &[]);
        }
        let past = log.past(0);
        assert_eq!(past.len(), KEPT);
        assert_eq!(past[0].id, "3");
        assert!(log.past(past[KEPT - 1].time_nanoseconds + 1).is_empty());
    }
}
