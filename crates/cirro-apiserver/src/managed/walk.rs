//! Values beside their schema: which paths a value has, and how two values differ.

use std::collections::BTreeMap;

use serde_json::Value;

use super::set::{Node, Set};
use crate::schema::{Field, ListKind, Shape};

/// How a place in an object is owned.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) shape: Shape,
    list: ListKind,
    atomic: bool,
}

impl Place {
    /// The place of a whole object.
    pub(super) fn root(shape: &Shape) -> Self {
        Self { shape: shape.clone(), list: ListKind::Atomic, atomic: false }
    }

    fn of(field: &Field) -> Self {
        Self { shape: field.shape.clone(), list: field.list.clone(), atomic: field.atomic }
    }

    /// Returns the place of a member and whether the schema declares it (else it is an item of a map).
    pub(super) fn member(&self, name: &str) -> (Self, bool) {
        if let Some(kind) = self.shape.object_type() {
            return match kind.field(name) {
                Some(field) => (Self::of(field), true),
                // Kinds that keep what they do not know: each member is one value.
                None => (kind.others().map_or_else(|| Self::root(&Shape::Any), Self::of), false),
            };
        }
        match &self.shape {
            Shape::Map(values) => (Self::root(values), false),
            _ => (Self::root(&Shape::Any), false),
        }
    }

    /// Returns the place of the elements of a list.
    pub(super) fn items(&self) -> Self {
        match &self.shape {
            Shape::List(items) => Self::root(items),
            _ => Self::root(&Shape::Any),
        }
    }

    /// Whether members of an object here have owners of their own.
    pub(super) fn splits_object(&self) -> bool {
        let known = matches!(self.shape, Shape::Map(_) | Shape::Any | Shape::Object);
        !self.atomic && (known || self.shape.object_type().is_some())
    }

    /// Returns the elements of a list here with their path elements; `None` when the list is one value or two
    /// elements cannot be told apart.
    pub(super) fn elements<'a>(&self, list: &'a [Value]) -> Option<BTreeMap<String, &'a Value>> {
        let mut elements = BTreeMap::new();
        for item in list {
            if elements.insert(self.element(item)?, item).is_some() {
                return None;
            }
        }
        Some(elements)
    }

    /// Returns the path element of an element of a list here.
    pub(super) fn element(&self, item: &Value) -> Option<String> {
        match &self.list {
            ListKind::Atomic => None,
            ListKind::Set => Some(format!("v:{item}")),
            ListKind::Map(keys) => {
                let mut found = BTreeMap::new();
                for key in keys {
                    match item.get(&**key) {
                        Some(value) => drop(found.insert(&**key, value.clone())),
                        // The one key that has a default in the schemas.
                        None if **key == *"protocol" => drop(found.insert(key, "TCP".into())),
                        None => {}
                    }
                }
                let text = serde_json::to_string(&found).expect("keys are JSON");
                (!found.is_empty()).then(|| format!("k:{text}"))
            }
        }
    }
}

/// Returns the paths that a new value's writer owns.
pub(super) fn owned(shape: &Shape, value: &Value) -> Set {
    let mut root = Node::default();
    Walk { containers: true }.value(&Place::root(shape), value, &mut root);
    root.below
}

/// Returns the paths that an applied configuration names.
pub(super) fn named(shape: &Shape, value: &Value) -> Set {
    let mut root = Node::default();
    Walk { containers: false }.value(&Place::root(shape), value, &mut root);
    root.below
}

#[derive(Clone, Copy)]
struct Walk {
    /// Whether maps themselves are in the set too.
    containers: bool,
}

impl Walk {
    /// Puts in what a value has, its own node being given.
    fn value(self, place: &Place, value: &Value, node: &mut Node) {
        match value {
            Value::Object(members) if place.splits_object() && !members.is_empty() => {
                node.member |= self.containers && matches!(place.shape, Shape::Map(_));
                for (name, value) in members {
                    let (inner, declared) = place.member(name);
                    let below = node.below.node(format!("f:{name}"));
                    below.member |= !declared;
                    self.value(&inner, value, below);
                }
            }
            Value::Array(list) => match place.elements(list) {
                Some(elements) if !elements.is_empty() => {
                    node.member |= self.containers;
                    for (element, value) in elements {
                        let below = node.below.node(element);
                        below.member = true;
                        self.value(&place.items(), value, below);
                    }
                }
                _ => node.member = true,
            },
            _ => node.member = true,
        }
    }
}

/// How one value differs from an older one.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

impl Difference {
    /// Returns what is new or has another value.
    pub(super) fn changed(&self) -> Set {
        let mut set = self.added.clone();
        set.merge(&self.modified);
        set
    }
}

/// Compares two values.
pub(super) fn compare(shape: &Shape, old: &Value, new: &Value) -> Difference {
    let mut compare = Compare { found: Difference::default(), path: Vec::new() };
    compare.values(&Place::root(shape), Some(old), Some(new));
    compare.found
}

struct Compare {
    found: Difference,
    path: Vec<String>,
}

impl Compare {
    fn values(&mut self, place: &Place, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (Some(old), Some(new)) if old == new => {}
            (Some(Value::Object(old)), Some(Value::Object(new)))
                if place.splits_object() && !(old.is_empty() && new.is_empty()) =>
            {
                let mut names: Vec<_> = old.keys().chain(new.keys()).collect();
                names.sort_unstable();
                names.dedup();
                for name in names {
                    self.path.push(format!("f:{name}"));
                    let (inner, declared) = place.member(name);
                    self.one(&inner, declared, old.get(name), new.get(name));
                    self.path.pop();
                }
            }
            (Some(Value::Array(before)), Some(Value::Array(after))) => {
                let elements = place.elements(before).zip(place.elements(after));
                let Some((before, after)) = elements else {
                    self.found.modified.insert(&self.path);
                    return;
                };
                let mut keys: Vec<_> = before.keys().chain(after.keys()).cloned().collect();
                keys.sort_unstable();
                keys.dedup();
                for key in keys {
                    let (old, new) = (before.get(&key).copied(), after.get(&key).copied());
                    self.path.push(key);
                    self.one(&place.items(), false, old, new);
                    self.path.pop();
                }
            }
            (Some(_), Some(_)) => self.found.modified.insert(&self.path),
            (old, new) => self.one(place, true, old, new),
        }
    }

    /// Compares what is below one element; items of maps and lists are members of the sets themselves.
    fn one(&mut self, place: &Place, declared: bool, old: Option<&Value>, new: Option<&Value>) {
        let (set, value) = match (old, new) {
            (Some(_), Some(_)) => return self.values(place, old, new),
            (None, Some(value)) => (&mut self.found.added, value),
            (Some(value), None) => (&mut self.found.removed, value),
            (None, None) => return,
        };
        set.change(&self.path, |node| {
            node.member |= !declared;
            Walk { containers: true }.value(place, value, node);
        });
    }
}
