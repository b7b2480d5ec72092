//! Deletes events that are an hour old.
//!
//! Upstream's server gives events a lease in etcd; here the time of each is waited for.

use std::sync::Arc;
use std::time::Duration;

use cirro_client::{Next, WorkQueue, key_of, namespaced_name, text};
use cirro_seams::api::{DeleteOptions, Resource};
use jiff::Timestamp;
use serde_json::Value;

use crate::Context;

const LIFE: Duration = Duration::from_secs(3600);

/// Runs the controller until the context's stop.
pub(crate) async fn run(context: Arc<Context>) {
    let events = context.cache("", "events");
    events.synced().await;
    let queue: Arc<WorkQueue<(String, String)>> = WorkQueue::new();
    let own = queue.clone();
    events.on_change(move |old, new| {
        // A change lets it live longer; the first look finds out how long.
        if let (None, Some(event)) = (old, new) {
            own.add(namespaced_name(event));
        }
    });
    let api = context.api.clone();
    cirro_client::run("event", queue, 1, context.stop.clone(), move |(namespace, name)| {
        let (api, events) = (api.clone(), events.clone());
        async move {
            let Some(event) = events.get(&namespace, &name) else { return Ok(Next::Wait) };
            if let Some(left) = left(&event, Timestamp::now()) {
                return Ok(Next::After(left));
            }
            let key = key_of(&Resource::new("", "events"), &event);
            match api.delete(&key, DeleteOptions::default()).await {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(Next::Wait),
            }
        }
    })
    .await;
}

/// Returns how long an event has to live; `None` when its time is over.
fn left(event: &Value, now: Timestamp) -> Option<Duration> {
    let times = ["/lastTimestamp", "/series/lastObservedTime", "/eventTime", "/metadata/creationTimestamp"];
    let times = times.iter().filter_map(|pointer| text(event, pointer).parse::<Timestamp>().ok());
    let age = now.duration_since(times.max()?).unsigned_abs();
    // A clock that went back makes nothing older than it is.
    LIFE.checked_sub(age).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_lives_an_hour_after_it_was_last_seen() {
        let event = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "lastTimestamp": "2026-01-01T00:30:00Z"});
        let at = |time: &str| left(&event, time.parse().unwrap());
        assert_eq!(at("2026-01-01T01:00:00Z"), Some(Duration::from_secs(1800)));
        assert_eq!(at("2026-01-01T01:30:00Z"), None);
        assert_eq!(left(&json!({}), Timestamp::UNIX_EPOCH), None);
    }
}
