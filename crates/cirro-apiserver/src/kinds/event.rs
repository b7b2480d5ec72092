//! core/v1 Event, and the same objects as events.k8s.io/v1.

use serde_json::{Map, Value};

use crate::error::Causes;
use crate::json;
use crate::registry::{Kind, Strategy, View};
use crate::validate::NameRule;

/// What the two versions call the same thing: core's name, the other's name.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Returns the kind.
pub(crate) fn kind() -> Kind {
    Kind::namespaced("", "v1", "Event", "events")
        .short(&["ev"])
        .schema("io.k8s.api.core.v1.Event")
        .selectable(&[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "type",
        ])
        .columns(crate::table::core::event())
        .strategy(&Event)
        .view(View {
            group: "events.k8s.io".into(),
            version: "v1".into(),
            schema: "io.k8s.api.events.v1.Event".into(),
            import: |event| rename(event, |(core, other)| (other, core)),
            export: |event| rename(event, |names| names),
            deprecation: None,
        })
}

fn rename(event: &mut Value, order: fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Some(members) = event.as_object_mut() else { return };
    for (from, to) in NAMES.map(order) {
        move_member(members, from, to);
    }
}

fn move_member(members: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = members.remove(from) {
        members.insert(to.to_owned(), value);
    }
}

struct Event;

impl Strategy for Event {
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    fn validate(&self, event: &Value, causes: &mut Causes) {
        let involved = json::text(event, "involvedObject.namespace");
        let namespace = json::namespace(event);
        let fits = if involved.is_empty() {
            namespace == "default" || namespace == "kube-system"
        } else {
            involved == namespace
        };
        if !fits {
            let detail = "does not match event.namespace";
            causes.invalid("involvedObject.namespace", &involved.into(), detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_versions_say_the_same() {
        let core = json!({"involvedObject": {"name": "x"}, "message": "hello", "reportingComponent": "c"});
        let kind = kind();
        let mut event = core.clone();
        (kind.views[0].export)(&mut event);
        assert_eq!(event, json!({"regarding": {"name": "x"}, "note": "hello", "reportingController": "c"}));
        (kind.views[0].import)(&mut event);
        assert_eq!(event, core);
    }
}
