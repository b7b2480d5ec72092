//! Which names a definition gets: the first one has them, and what was accepted stays.
//!
//! Source: apiextensions-apiserver `pkg/controller/status/naming_controller.go`.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::json;
use crate::registry::Registry;

/// What becomes of a definition's names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decision {
    pub(super) names: Value,
    /// What stands in the way, as reason and message.
    pub(super) conflict: Option<(&'static str, String)>,
    /// Whether the definition is served.
    pub(super) established: bool,
}

/// Names of a group that have an owner.
#[derive(Default)]
struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Taken {
    fn take(&mut self, names: &Value) {
        for member in ["plural", "singular"] {
            self.resources.insert(json::text(names, member).into());
        }
        let short = json::array(names, "shortNames").iter().filter_map(Value::as_str);
        self.resources.extend(short.map(str::to_owned));
        for member in ["kind", "listKind"] {
            self.kinds.insert(json::text(names, member).into());
        }
        self.resources.remove("");
        self.kinds.remove("");
    }
}

/// Decides about definition `index` of those that there are.
pub(super) fn decide(definitions: &[&Value], index: usize, built_in: &Registry) -> Decision {
    let definition = definitions[index];
    let group = json::text(definition, "spec.group");
    let mut taken = Taken::default();
    for kind in built_in.kinds().iter().filter(|kind| kind.group == group) {
        taken.take(&json!({"plural": kind.plural, "singular": kind.singular, "shortNames": kind.short_names,
            "kind": kind.kind, "listKind": format!("{}List", kind.kind)}));
    }
    for (at, other) in definitions.iter().enumerate() {
        if at != index && json::text(other, "spec.group") == group {
            taken.take(&other["status"]["acceptedNames"]);
        }
    }
    let (names, conflict) =
        accept(&definition["spec"]["names"], &definition["status"]["acceptedNames"], &taken);
    let established = conflict.is_none() || is_true(definition, "Established");
    Decision { names, conflict, established }
}

/// Returns the names that are accepted, and the first thing that is not.
fn accept(wanted: &Value, before: &Value, taken: &Taken) -> (Value, Option<(&'static str, String)>) {
    let mut names = before.clone();
    if !names.is_object() {
        names = json!({"plural": "", "kind": ""});
    }
    let mut conflict = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    let plain = [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ];
    for (member, reason, taken) in plain {
        let name = json::text(wanted, member);
        if taken.contains(name) {
            conflict.get_or_insert((reason, in_use(name)));
        } else if !name.is_empty() {
            names[member] = name.into();
        }
    }
    let short: Vec<&str> = json::array(wanted, "shortNames").iter().filter_map(Value::as_str).collect();
    match short.iter().find(|name| taken.resources.contains(**name)) {
        Some(name) => drop(conflict.get_or_insert(("ShortNamesConflict", in_use(name)))),
        None => copy(&mut names, wanted, "shortNames"),
    }
    copy(&mut names, wanted, "categories");
    (names, conflict)
}

fn copy(names: &mut Value, wanted: &Value, member: &str) {
    match json::at(wanted, member) {
        Some(value) => names[member] = value.clone(),
        None => drop(json::remove(names, member)),
    }
}

/// Whether a condition of a definition holds.
pub(super) fn is_true(definition: &Value, condition: &str) -> bool {
    let conditions = json::array(definition, "status.conditions");
    conditions.iter().any(|one| one["type"] == condition && one["status"] == "True")
}

/// Returns a definition's status as the decision makes it.
pub(super) fn status(definition: &Value, decision: &Decision) -> Value {
    let mut status = definition["status"].clone();
    status["acceptedNames"] = decision.names.clone();
    let (holds, reason, message) = match &decision.conflict {
        None => ("True", "NoConflicts", "no conflicts found"),
        Some((reason, message)) => ("False", *reason, message.as_str()),
    };
    set_condition(&mut status, "NamesAccepted", holds, reason, message);
    if !is_true(definition, "Established") {
        let (holds, reason, message) = match decision.established {
            true => ("True", "InitialNamesAccepted", "the initial names have been accepted"),
            false => ("False", "NotAccepted", "not all names are accepted"),
        };
        set_condition(&mut status, "Established", holds, reason, message);
    }
    status
}

/// Sets a condition; the time is that of its last change.
pub(crate) fn set_condition(status: &mut Value, name: &str, holds: &str, reason: &str, message: &str) {
    let mut condition = json!({"type": name, "status": holds, "reason": reason, "message": message,
        "lastTransitionTime": crate::identity::now()});
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|one| one["type"] == name) {
        Some(present) => {
            if present["status"] == holds {
                condition["lastTransitionTime"] = present["lastTransitionTime"].clone();
            }
            *present = condition;
        }
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str, short: &[&str]) -> Value {
        json!({"spec": {"group": "x.io", "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
            "listKind": format!("{kind}List"), "shortNames": short}}, "status": {}})
    }

    #[test]
    fn the_first_has_the_names_and_keeps_them() {
        let built_in = Registry::new(Vec::new());
        let mut one = definition("tabs", "Tab", &["t"]);
        let other = definition("tables", "Table", &["t"]);
        let first = decide(&[&one, &other], 0, &built_in);
        assert!(first.established && first.conflict.is_none());
        one["status"] = status(&one, &first);
        assert!(is_true(&one, "NamesAccepted") && is_true(&one, "Established"));
        let second = decide(&[&one, &other], 1, &built_in);
        assert_eq!(second.conflict, Some(("ShortNamesConflict", "\"t\" is already in use".into())));
        assert!(!second.established);
        assert_eq!(second.names["plural"], "tables");
        assert!(second.names.get("shortNames").is_none());
        // A change that cannot be had leaves what was accepted.
        one["spec"]["names"]["shortNames"] = json!(["tab", "t"]);
        assert_eq!(decide(&[&one, &other], 0, &built_in).names["shortNames"], json!(["tab", "t"]));
    }

    #[test]
    fn kinds_that_are_built_in_have_their_names() {
        let built_in = crate::kinds::registry();
        let mut one = definition("deployments", "Deployment", &[]);
        one["spec"]["group"] = "apps".into();
        assert_eq!(decide(&[&one], 0, &built_in).conflict.unwrap().0, "PluralConflict");
    }

    #[test]
    fn a_condition_keeps_its_time_while_it_holds() {
        let mut status =
            json!({"conditions": [{"type": "A", "status": "True", "lastTransitionTime": "then"}]});
        set_condition(&mut status, "A", "True", "r", "m");
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "then");
        set_condition(&mut status, "A", "False", "r", "m");
        assert_ne!(status["conditions"][0]["lastTransitionTime"], "then");
    }

    #[test]
    fn a_condition_keeps_its_time_while_it_says_the_same() {
        let mut status = Value::Null;
        set_condition(&mut status, "Available", "False", "ServiceNotFound", "a");
        status["conditions"][0]["lastTransitionTime"] = "then".into();
        set_condition(&mut status, "Available", "False", "MissingEndpoints", "b");
        assert_eq!(status["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "then");
        assert_eq!(status["conditions"][0]["reason"], "MissingEndpoints");
        set_condition(&mut status, "Available", "True", "Passed", "all checks passed");
        assert_ne!(status["conditions"][0]["lastTransitionTime"], "then");
    }
}
