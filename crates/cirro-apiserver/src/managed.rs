//! Who set which member of an object: `metadata.managedFields`, and server-side apply over it.
//!
//! ```text
//! update:  old, new ─▶ what differs ─▶ becomes the writer's, is taken from all others
//! apply:   live + what the manager says ─▶ merge ─▶ take out what only it owned and says no more
//!                                           └▶ others' members that change are conflicts, unless forced
//! ```
//! `set` is the tree of owned paths in the form of `FieldsV1`, `walk` goes through values by their schema,
//! `apply` merges and prunes.
//!
//! Source: structured-merge-diff v4 (`merge/update.go`, `typed/tofieldset.go`, `typed/merge.go`); apimachinery
//! `util/managedfields`.

use cirro_seams::api::ApiError;
use serde_json::{Map, Value, json};

use crate::error;
use crate::json;
use crate::registry::{Kind, Subresource};
use crate::schema::{Shape, types};
use crate::storage::Target;

mod apply;
mod last_applied;
mod set;
mod walk;

pub(crate) use apply::{applied, scale_applied};
pub(crate) use set::Set;

/// Who writes in this process when no request does.
const OWN_MANAGER: &str = "cirro";
/// Most managers of updates that an object remembers; older ones are merged into one.
const MAX_UPDATE_MANAGERS: usize = 10;
/// What is nobody's.
const STRIPPED: [&[&str]; 10] = [
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
];

tokio::task_local! {
    /// The manager, and the group and version that its request speaks.
    static MANAGER: (String, String);
}

/// Runs a future whose writes are a manager's, said in a group and version.
pub(crate) async fn scope<F: Future>(manager: String, api_version: String, future: F) -> F::Output {
    MANAGER.scope((manager, api_version), future).await
}

fn current() -> String {
    MANAGER.try_with(|(manager, _)| manager.clone()).unwrap_or_else(|_| OWN_MANAGER.into())
}

/// Returns the version that the members of a write are told in: that of the request, where all versions of the kind
/// have the same members.
fn told_in(kind: &Kind) -> String {
    let own = kind.api_version();
    if kind.custom.is_none() || kind.conversion().is_some() {
        return own;
    }
    let group = |version: &str| version.rsplit_once('/').map(|(group, _)| group.to_owned());
    let spoken = MANAGER.try_with(|(_, version)| version.clone()).ok();
    spoken.filter(|spoken| group(spoken) == group(&own)).unwrap_or(own)
}

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    manager: String,
    applies: bool,
    api_version: String,
    time: String,
    subresource: String,
    fields: Set,
}

impl Entry {
    fn read(value: &Value) -> Option<Self> {
        let text = |member| json::text(value, member).to_owned();
        let applies = match json::text(value, "operation") {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        Some(Self {
            manager: text("manager"),
            applies,
            api_version: text("apiVersion"),
            time: text("time"),
            subresource: text("subresource"),
            fields: Set::read(value.get("fieldsV1")?)?,
        })
    }

    fn into_value(self) -> Value {
        let operation = if self.applies { "Apply" } else { "Update" };
        let mut entry = Map::new();
        entry.insert("apiVersion".into(), self.api_version.into());
        entry.insert("fieldsType".into(), "FieldsV1".into());
        entry.insert("fieldsV1".into(), self.fields.into_value());
        entry.insert("manager".into(), self.manager.into());
        entry.insert("operation".into(), operation.into());
        for (member, text) in [("subresource", self.subresource), ("time", self.time)] {
            if !text.is_empty() {
                entry.insert(member.into(), text.into());
            }
        }
        entry.into()
    }

    /// Whether the two are the same manager: its version counts for updates only.
    fn is_same(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.applies == other.applies
            && self.subresource == other.subresource
            && (self.applies || self.api_version == other.api_version)
    }

    /// Names the manager as conflicts do.
    fn described(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applies {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// Reads the entries of an object; `None` when one of them is malformed.
fn read(object: &Value) -> Option<Vec<Entry>> {
    json::array(object, "metadata.managedFields").iter().map(Entry::read).collect()
}

/// Writes the entries of an object, oldest last changes first.
fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    // Appliers come first, then by time, as upstream sorts them.
    entries.sort_by(|one, other| {
        other
            .applies
            .cmp(&one.applies)
            .then_with(|| one.time.cmp(&other.time))
            .then_with(|| one.manager.cmp(&other.manager))
    });
    let metadata = json::object_mut(object, "metadata");
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        let list: Vec<_> = entries.into_iter().map(Entry::into_value).collect();
        metadata.insert("managedFields".into(), list.into());
    }
}

/// Returns the shape of a kind's objects.
pub(crate) fn shape_of(kind: &Kind) -> Shape {
    match &kind.own_type {
        Some(own) => Shape::Own(own.clone()),
        None => types().find(&kind.schema).map_or(Shape::Object, Shape::Type),
    }
}

/// Returns what a write to this part of an object cannot own.
fn without_foreign(kind: &Kind, target: Target, mut set: Set) -> Set {
    STRIPPED.iter().for_each(|path| set.remove(path));
    match target {
        Target::Object if kind.has(Subresource::Status) => set.remove(&["f:status"]),
        Target::Status => {
            set.keep_only("f:status", "f:metadata");
        }
        Target::Part(Subresource::EphemeralContainers) => {
            set.keep_below(&["f:spec", "f:ephemeralContainers"]);
        }
        Target::Part(Subresource::Resize) => set.keep_below(&["f:spec", "f:containers"]),
        _ => {}
    }
    set
}

fn entry(kind: &Kind, target: Target, manager: String, applies: bool) -> Entry {
    Entry {
        manager,
        applies,
        api_version: told_in(kind),
        time: crate::identity::now(),
        subresource: target.subresource().into(),
        fields: Set::default(),
    }
}

/// Notes who made a new object.
pub(crate) fn created(kind: &Kind, object: &mut Value) {
    if !json::array(object, "metadata.managedFields").is_empty() {
        return;
    }
    let target = if kind.strategy.keeps_status_at_creation() { Target::Whole } else { Target::Object };
    let mut own = entry(kind, target, current(), false);
    own.fields = without_foreign(kind, target, walk::owned(&shape_of(kind), object));
    write(object, vec![own]);
}

/// Notes who changed an object. Entries that are malformed are forgotten.
pub(crate) fn updated(kind: &Kind, target: Target, new: &mut Value, old: &Value) {
    let mut entries = read(new).unwrap_or_default();
    let difference = walk::compare(&shape_of(kind), old, new);
    let changed = difference.changed();
    let mut own = entry(kind, target, current(), false);
    let taken = without_foreign(kind, target, changed.clone());
    let gone = difference.removed;
    if taken.is_empty() && gone.is_empty() {
        return;
    }
    for other in entries.iter_mut().filter(|other| !other.is_same(&own)) {
        other.fields.subtract(&gone);
        other.fields.subtract(&changed);
    }
    let at = entries.iter().position(|other| other.is_same(&own));
    let before = at.map(|at| entries.remove(at));
    own.fields = before.as_ref().map(|before| before.fields.clone()).unwrap_or_default();
    own.fields.subtract(&gone);
    own.fields.merge(&taken);
    if let Some(before) = before.filter(|before| before.fields == own.fields && taken.is_empty()) {
        own.time = before.time;
    }
    entries.push(own);
    cap(&mut entries);
    write(new, entries);
}

/// Merges the oldest managers of updates into one.
fn cap(entries: &mut Vec<Entry>) {
    let updates = entries.iter().filter(|entry| !entry.applies).count();
    if updates <= MAX_UPDATE_MANAGERS {
        return;
    }
    entries.sort_by(|one, other| one.time.cmp(&other.time));
    let mut merged = Set::default();
    let mut left = updates - MAX_UPDATE_MANAGERS + 1;
    let (mut api_version, mut time) = (String::new(), String::new());
    entries.retain(|entry| {
        let take = !entry.applies && left > 0;
        if take {
            left -= 1;
            merged.merge(&entry.fields);
            (api_version, time) = (entry.api_version.clone(), entry.time.clone());
        }
        !take
    });
    entries.push(Entry {
        manager: "ancient-changes".into(),
        applies: false,
        api_version,
        time,
        subresource: String::new(),
        fields: merged,
    });
}

/// Puts into a new state the entries that it starts from: those that the client sent, when it changed them,
/// else the old ones. Returns whether the client asked for none at all.
pub(crate) fn restored(new: &mut Value, old: &Value, sent: Option<Value>) -> bool {
    let Some(Value::Array(list)) = sent else { return false };
    let before = json::array(old, "metadata.managedFields");
    if list.is_empty() || list == before {
        return false;
    }
    // One empty entry resets.
    let reset = list.iter().all(|entry| entry.as_object().is_some_and(serde_json::Map::is_empty));
    let metadata = json::object_mut(new, "metadata");
    if reset {
        metadata.remove("managedFields");
    } else if list.iter().all(|entry| Entry::read(entry).is_some()) {
        metadata.insert("managedFields".into(), Value::Array(list));
    }
    reset
}

/// Returns the refusal of an apply that would change what others own.
fn conflict(conflicts: Vec<(Entry, String)>) -> ApiError {
    let mut causes = Vec::new();
    let mut by_manager: Vec<(String, Vec<String>)> = Vec::new();
    for (entry, path) in conflicts {
        let manager = entry.described();
        causes.push(json!({"reason": "FieldManagerConflict",
            "message": format!("conflict with {manager}"), "field": path}));
        match by_manager.iter_mut().find(|(name, _)| *name == manager) {
            Some((_, paths)) => paths.push(path),
            None => by_manager.push((manager, vec![path])),
        }
    }
    let message = if let [(manager, paths)] = by_manager.as_slice()
        && let [path] = paths.as_slice()
    {
        format!("Apply failed with 1 conflict: conflict with {manager}: {path}")
    } else {
        let lines = by_manager.iter().map(|(manager, paths)| {
            let paths: Vec<_> = paths.iter().map(|path| format!("- {path}")).collect();
            format!("conflicts with {manager}:\n{}", paths.join("\n"))
        });
        let lines: Vec<_> = lines.collect();
        format!("Apply failed with {} conflicts: {}", causes.len(), lines.join("\n"))
    };
    error::apply_conflict(message, causes)
}

#[cfg(test)]
mod tests;
