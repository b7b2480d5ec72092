//! Records Kubernetes events about objects; `correlate` says which are counted and which dropped, as client-go does.

use std::sync::Arc;

use cirro_seams::api::{Api, Resource};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::debug;

use crate::object::{name, namespace, text, uid};

mod correlate;

use correlate::{Correlator, Event, Write, hash};

/// Beyond this many events that wait to be written, new ones are dropped: events are best effort.
const BACKLOG: usize = 512;

/// Writes events from one source. Cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    sender: mpsc::Sender<Draft>,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// For the record.
    Normal,
    /// Somebody may have to do something.
    Warning,
}

struct Draft {
    regarding: Value,
    severity: Severity,
    reason: &'static str,
    message: String,
}

impl EventRecorder {
    /// Starts a recorder for a component (`kubelet`), on a host if it belongs to one.
    pub fn start(api: Arc<dyn Api>, component: &str, host: Option<&str>) -> Self {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let source = match host {
            Some(host) => json!({"component": component, "host": host}),
            None => json!({"component": component}),
        };
        tokio::spawn(write(api, source, receiver));
        Self { sender }
    }

    /// Records that something happened to `object`; does not wait.
    pub fn record(
        &self,
        object: &Value,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let regarding = json!({
            "apiVersion": object["apiVersion"], "kind": object["kind"], "namespace": namespace(object),
            "name": name(object), "uid": uid(object), "resourceVersion": text(object, "/metadata/resourceVersion"),
        });
        let _ = self.sender.try_send(Draft { regarding, severity, reason, message: message.into() });
    }
}

async fn write(api: Arc<dyn Api>, source: Value, mut drafts: mpsc::Receiver<Draft>) {
    let events = Resource::new("", "events");
    let mut correlator = Correlator::default();
    while let Some(draft) = drafts.recv().await {
        let now = Timestamp::now();
        let Some(write) = correlator.correlate(&draft.correlated(), now) else { continue };
        if let Some(key) = &write.counted_by {
            let patch =
                json!({"count": write.count, "lastTimestamp": seconds(now), "message": write.message});
            match api.merge_patch(key, false, patch).await {
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    debug!(%error, "cannot count an event");
                    continue;
                }
                Ok(_) => continue,
            }
        }
        let event = draft.event(&source, &write, now);
        let key = crate::object::key_of(&events, &event);
        match api.create(&events, event).await {
            Ok(_) => correlator.written(write.place, key),
            // The namespace may be going; nothing depends on events.
            Err(error) => debug!(%error, "cannot write an event"),
        }
    }
}

impl Draft {
    fn correlated(&self) -> Event<'_> {
        let about =
            ["/apiVersion", "/kind", "/namespace", "/name", "/uid"].map(|path| text(&self.regarding, path));
        Event {
            object: hash(&about),
            sort: hash(&(about, self.severity, self.reason)),
            message: &self.message,
        }
    }

    fn event(&self, source: &Value, write: &Write, now: Timestamp) -> Value {
        let about = text(&self.regarding, "/name");
        let of = text(&self.regarding, "/namespace");
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                // As upstream names them: the object and the time.
                "name": format!("{about}.{:x}", now.as_nanosecond()),
                "namespace": if of.is_empty() { "default" } else { of },
            },
            "involvedObject": self.regarding,
            "reason": self.reason,
            "message": write.message,
            "source": source,
            "reportingComponent": source["component"],
            "reportingInstance": source.get("host").cloned().unwrap_or_else(|| "".into()),
            "firstTimestamp": seconds(write.first),
            "lastTimestamp": seconds(now),
            "count": write.count,
            "type": match self.severity { Severity::Normal => "Normal", Severity::Warning => "Warning" },
        })
    }
}

/// Prints a time as Kubernetes' `Time` does: RFC 3339 in whole seconds.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
