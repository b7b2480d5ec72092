//! Server-side apply: merge what a manager says into an object, and take out what it says no more.

use super::last_applied;
use super::walk::{self, Place};
use super::*;

/// Returns `live` as it is after a manager applied `config`, entries included.
///
/// # Errors
/// 409 with a cause per member that another manager owns and that would change, unless `force`.
pub(crate) fn applied(
    kind: &Kind,
    target: Target,
    live: &Value,
    config: &Value,
    manager: &str,
    force: bool,
) -> Result<Value, ApiError> {
    let own = entry(kind, target, manager.to_owned(), true);
    applied_by(own, kind, target, live, config, force)
}

/// Does the same with the part of `config` that a manager said by the subresource `scale`.
///
/// # Errors
/// As above.
pub(crate) fn scale_applied(
    kind: &Kind,
    live: &Value,
    config: &Value,
    manager: &str,
    force: bool,
) -> Result<Value, ApiError> {
    let own = entry(kind, Target::Object, manager.to_owned(), true);
    let own = Entry { subresource: "scale".into(), ..own };
    applied_by(own, kind, Target::Object, live, config, force)
}

fn applied_by(
    mut own: Entry,
    kind: &Kind,
    target: Target,
    live: &Value,
    config: &Value,
    force: bool,
) -> Result<Value, ApiError> {
    let root = Place::root(&shape_of(kind));
    let mut entries = read(live).unwrap_or_default();
    own.fields = without_foreign(kind, target, walk::named(&root.shape, config));
    let at = entries.iter().position(|other| other.is_same(&own));
    let before = at.map(|at| entries.remove(at));
    let mut merged = merge(&root, live, config);
    let mut owned = own.fields.clone();
    entries.iter().for_each(|other| owned.merge(&other.fields));
    if let Some(before) = &before {
        prune(&root, &mut merged, &before.fields, &owned);
    }
    let difference = walk::compare(&root.shape, live, &merged);
    let changed = without_foreign(kind, target, difference.changed());
    let inherited = last_applied::inherited(&root.shape, &own.manager, live);
    let mut conflicts = Vec::new();
    for other in &mut entries {
        let lost = other.fields.intersection(&changed);
        if !force {
            let mut refused = lost.clone();
            refused.subtract(&inherited);
            conflicts.extend(refused.shown().into_iter().map(|path| (other.clone(), path)));
        }
        other.fields.subtract(&lost);
        other.fields.subtract(&difference.removed);
    }
    if !conflicts.is_empty() {
        return Err(conflict(conflicts));
    }
    if let Some(before) = before.filter(|before| before.fields == own.fields && merged == *live) {
        own.time = before.time;
    }
    if own.subresource.is_empty() {
        last_applied::follow(&mut merged, config, &own.manager);
    }
    entries.push(own);
    write(&mut merged, entries);
    Ok(merged)
}

/// Merges a configuration into a value.
fn merge(place: &Place, live: &Value, config: &Value) -> Value {
    match (live, config) {
        (Value::Object(live), Value::Object(config)) if place.splits_object() => {
            let mut merged = live.clone();
            for (name, value) in config {
                let (inner, _) = place.member(name);
                let next = match live.get(name) {
                    Some(present) => merge(&inner, present, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), next);
            }
            Value::Object(merged)
        }
        (Value::Array(present), Value::Array(wanted)) => {
            let (Some(there), Some(_)) = (place.elements(present), place.elements(wanted)) else {
                return config.clone();
            };
            let items = place.items();
            let next = |item: &Value| {
                let element = place.element(item).expect("its elements have keys");
                there.get(&element).map_or_else(|| item.clone(), |one| merge(&items, one, item))
            };
            merge_lists(place, present, wanted, next)
        }
        _ => config.clone(),
    }
}

/// The configuration's elements come in its order; what only the server has stays before what followed it.
fn merge_lists(place: &Place, present: &[Value], wanted: &[Value], next: impl Fn(&Value) -> Value) -> Value {
    let mut left = wanted.iter().peekable();
    let mut merged = Vec::new();
    for one in present {
        let element = place.element(one);
        if !wanted.iter().any(|item| place.element(item) == element) {
            merged.push(one.clone());
        } else if left.clone().any(|item| place.element(item) == element) {
            for item in left.by_ref() {
                merged.push(next(item));
                if place.element(item) == element {
                    break;
                }
            }
        }
    }
    merged.extend(left.map(next));
    Value::Array(merged)
}

/// Takes out of a value what was the manager's and is nobody's any more.
fn prune(place: &Place, value: &mut Value, before: &Set, owned: &Set) {
    for element in before.elements() {
        let inner = before.below(element).expect("it is one of its elements");
        match (owned.below(element), child(place, value, element)) {
            (_, None) => {}
            (Some(owned), Some((inner_place, inner_value))) => {
                let was_empty = is_empty(inner_value);
                prune(&inner_place, inner_value, inner, owned);
                // What Go's encoder would leave out.
                if !was_empty && is_empty(inner_value) {
                    remove(place, value, element);
                }
            }
            (None, Some(_)) => remove(place, value, element),
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn child<'a>(place: &Place, value: &'a mut Value, element: &str) -> Option<(Place, &'a mut Value)> {
    if let Some(name) = element.strip_prefix("f:") {
        return Some((place.member(name).0, value.get_mut(name)?));
    }
    let list = value.as_array_mut()?;
    let found = list.iter_mut().find(|item| place.element(item).as_deref() == Some(element))?;
    Some((place.items(), found))
}

fn remove(place: &Place, value: &mut Value, element: &str) {
    match value {
        Value::Object(members) => {
            members.remove(element.strip_prefix("f:").unwrap_or(element));
        }
        Value::Array(list) => list.retain(|item| place.element(item).as_deref() != Some(element)),
        _ => {}
    }
}
