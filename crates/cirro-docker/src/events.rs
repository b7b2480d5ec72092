//! `/events`: what happened and what happens, as JSON lines.

use axum::extract::State;
use axum::response::Response;
use cirro_engine::Event;
use cirro_types::ImageReference;
use futures_util::{Stream, StreamExt};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::Face;
use crate::error::ApiError;
use crate::filters::Filters;
use crate::line_stream;
use crate::query::Params;
use crate::time;

/// Kinds of objects whose id or name a filter of the kind's name may begin.
const KINDS: [&str; 9] =
    ["config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume"];
/// Actions that go on after a colon (`exec_create: sh`): who asks for one of these means the beginning.
const OPEN_ACTIONS: [&str; 3] = ["exec_create", "exec_start", "health_status"];

/// Streams events from `since` (or from now on) until `until` (or the client leaves).
pub(crate) async fn get(State(face): State<Face>, params: Params) -> Result<Response, ApiError> {
    let filters = Filters::of_any_name(&params)?;
    let since = moment(&params, "since")?;
    let until = moment(&params, "until")?;
    // Subscribed before the past is read, so that nothing falls between; what is in both is left out below.
    let live = face.engine.events();
    let past = since.map(|since| face.engine.past_events(since)).unwrap_or_default();
    let horizon = Horizon::of(&past);
    let not_past = move |event: &Event| !horizon.covers(event);
    let events = futures_util::stream::iter(past)
        .chain(received(live).filter(move |event| std::future::ready(not_past(event))))
        .take_while(move |event| {
            std::future::ready(until.is_none_or(|until| event.time_nanoseconds <= until))
        })
        .filter(move |event| std::future::ready(fits(event, &filters)));
    let lines = events.map(|event| line_stream::line(&message(&event)));
    Ok(line_stream::json_lines(&face, lines.take_until(reached(until))))
}

/// Reads a moment; unlike elsewhere 0 is one, the beginning of 1970.
fn moment(params: &Params, name: &str) -> Result<Option<i64>, ApiError> {
    match params.text(name).map(str::trim) {
        Some("0") => Ok(Some(0)),
        text => time::moment(name, text),
    }
}

/// The newest of the events that were read from the past.
#[derive(Debug, Default)]
struct Horizon {
    time: i64,
    events: Vec<(String, String)>,
}

impl Horizon {
    fn of(past: &[Event]) -> Self {
        let time = past.iter().map(|event| event.time_nanoseconds).max().unwrap_or(i64::MIN);
        let at_time = past.iter().filter(|event| event.time_nanoseconds == time);
        Self { time, events: at_time.map(|event| (event.id.clone(), event.action.clone())).collect() }
    }

    fn covers(&self, event: &Event) -> bool {
        let same = |(id, action): &(String, String)| *id == event.id && *action == event.action;
        event.time_nanoseconds < self.time
            || (event.time_nanoseconds == self.time && self.events.iter().any(same))
    }
}

/// Resolves at a time; never without one.
async fn reached(until: Option<i64>) {
    match until {
        None => std::future::pending().await,
        Some(until) => {
            let left = until.saturating_sub(time::now_nanoseconds());
            tokio::time::sleep(std::time::Duration::from_nanos(left.max(0).unsigned_abs())).await;
        }
    }
}

/// Passes events on; one who reads too slowly misses some, as with dockerd.
fn received(live: broadcast::Receiver<Event>) -> impl Stream<Item = Event> + Send {
    futures_util::stream::unfold(live, |mut live| async move {
        loop {
            match live.recv().await {
                Ok(event) => return Some((event, live)),
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "an events client reads too slowly"),
                Err(RecvError::Closed) => return None,
            }
        }
    })
}

/// Whether an event passes the filters; those of names that nobody knows let everything pass.
///
/// Source: moby `daemon/events/filter.go`.
fn fits(event: &Event, filters: &Filters) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
    let object = |kind: &&str| {
        filters.any(kind, |value| event.id.starts_with(value) || attribute("name").starts_with(value))
    };
    let image = if event.kind == "image" { attribute("name") } else { attribute("image") };
    let untagged = |name: &str| name.parse::<ImageReference>().ok().map(|name| name.familiar_name());
    filters.exact("type", &event.kind)
        && is_action(&event.action, filters)
        && filters.exact("scope", "local")
        && KINDS.iter().all(object)
        && filters.any("image", |value| {
            value == event.id || value == image || untagged(image).as_deref() == Some(value)
        })
        && filters.labels(&event.attributes)
}

fn is_action(action: &str, filters: &Filters) -> bool {
    let open = filters
        .values("event")
        .is_some_and(|values| values.iter().any(|value| OPEN_ACTIONS.contains(&value.as_str())));
    filters.any("event", |value| value == action || open && action.starts_with(value))
}

/// Writes an event as docker does, with the members that old clients read (`status`, `id`, `from`).
fn message(event: &Event) -> Value {
    let mut message = json!({
        "Type": event.kind,
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time_nanoseconds.div_euclid(1_000_000_000),
        "timeNano": event.time_nanoseconds,
    });
    if matches!(event.kind.as_str(), "container" | "image") {
        message["status"] = json!(event.action);
        message["id"] = json!(event.id);
    }
    if event.kind == "container" {
        message["from"] = json!(event.attributes.get("image"));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn start(time: i64) -> Event {
        Event {
            kind: "container".into(),
            action: "start".into(),
            id: "abcdef".into(),
            attributes: BTreeMap::from([
                ("name".to_owned(), "web".to_owned()),
                ("image".to_owned(), "busybox:latest".to_owned()),
                ("tier".to_owned(), "front".to_owned()),
            ]),
            time_nanoseconds: time,
        }
    }

    fn filters(text: &str) -> Filters {
        Filters::of_any_name(&Params(vec![("filters".into(), text.into())])).unwrap()
    }

    #[test]
    fn zero_is_a_moment() {
        let params = Params(vec![("since".into(), "0".into()), ("until".into(), String::new())]);
        assert_eq!((moment(&params, "since"), moment(&params, "until")), (Ok(Some(0)), Ok(None)));
    }

    #[test]
    fn an_event_has_the_new_and_the_old_members() {
        let line = String::from_utf8(line_stream::line(&message(&start(1_500_000_000))).to_vec()).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["Actor"]["ID"], "abcdef");
        assert_eq!(value["status"], "start");
        assert_eq!(value["from"], "busybox:latest");
        assert_eq!((&value["time"], &value["timeNano"]), (&json!(1), &json!(1_500_000_000_i64)));
        assert!(line.ends_with('\n'));
    }

    #[test]
    fn filters_pick_events() {
        for (text, expected) in [
            (r#"{"type":{"container":true}}"#, true),
            (r#"{"type":["image"]}"#, false),
            (r#"{"event":["start","die"]}"#, true),
            (r#"{"container":["web"]}"#, true),
            (r#"{"container":["abc"]}"#, true),
            (r#"{"container":["we"]}"#, true),
            (r#"{"event":["exec_create","sta"]}"#, true),
            (r#"{"event":["sta"]}"#, false),
            (r#"{"daemon":["here"]}"#, false),
            (r#"{"image":["busybox:latest"]}"#, true),
            (r#"{"image":["box"]}"#, false),
            (r#"{"colour":["red"]}"#, true),
            (r#"{"container":["other"]}"#, false),
            (r#"{"image":["busybox"]}"#, true),
            (r#"{"label":["tier=front"]}"#, true),
            (r#"{"label":["tier=back"]}"#, false),
            (r#"{"network":["bridge"]}"#, false),
        ] {
            assert_eq!(fits(&start(1), &filters(text)), expected, "{text}");
        }
    }

    #[test]
    fn what_the_past_had_does_not_come_again() {
        let horizon = Horizon::of(&[start(1), start(5)]);
        assert!(horizon.covers(&start(5)));
        assert!(horizon.covers(&start(2)));
        assert!(!horizon.covers(&start(6)));
        assert!(!horizon.covers(&Event { action: "die".into(), ..start(5) }));
        assert!(!Horizon::of(&[]).covers(&start(1)));
    }
}
