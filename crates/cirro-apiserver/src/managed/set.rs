//! Sets of paths, as the tree that `FieldsV1` writes.
//!
//! An element of a path is written as there: `f:name` a member, `k:{"name":"a"}` an element of a list by its
//! keys, `v:"x"` an element of a set.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Set(BTreeMap<String, Node>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Whether the path that ends here is in the set.
    pub(super) member: bool,
    pub(super) below: Set,
}

/// Deepest nesting of what clients send as `fieldsV1`; JSON's own limit is 128.
const SELF: &str = ".";

impl Set {
    /// Reads the form of `FieldsV1`.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (element, value) in value.as_object()? {
            if element == SELF {
                continue;
            }
            let inner = value.as_object()?;
            let member = inner.is_empty() || inner.contains_key(SELF);
            set.0.insert(element.clone(), Node { member, below: Self::read(value)? });
        }
        Some(set)
    }

    /// Writes the form of `FieldsV1`.
    pub(super) fn into_value(self) -> Value {
        let write = |(element, node): (String, Node)| {
            let marked = node.member && !node.below.is_empty();
            let mut inner = node.below.into_value();
            if marked {
                inner[SELF] = Value::Object(Map::new());
            }
            (element, inner)
        };
        Value::Object(self.0.into_iter().map(write).collect())
    }

    /// Whether no path is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the node of an element, which has to get members or become one.
    pub(super) fn node(&mut self, element: String) -> &mut Node {
        self.0.entry(element).or_default()
    }

    /// Puts a path in.
    pub(super) fn insert(&mut self, path: &[String]) {
        self.change(path, |node| node.member = true);
    }

    /// Changes the node at the end of a path. The empty path has none that stays.
    pub(super) fn change(&mut self, path: &[String], change: impl FnOnce(&mut Node)) {
        let mut root = Node { member: false, below: std::mem::take(self) };
        change(path.iter().fold(&mut root, |node, element| node.below.node(element.clone())));
        *self = root.below;
    }

    /// Takes a path out with everything below it.
    pub(super) fn remove(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [element] => drop(self.0.remove(*element)),
            [element, rest @ ..] => {
                if let Some(node) = self.0.get_mut(*element) {
                    node.below.remove(rest);
                    self.drop_if_bare(element);
                }
            }
        }
    }

    fn drop_if_bare(&mut self, element: &str) {
        if self.0.get(element).is_some_and(|node| !node.member && node.below.is_empty()) {
            self.0.remove(element);
        }
    }

    /// Keeps only what is below two elements.
    pub(super) fn keep_only(&mut self, one: &str, other: &str) {
        self.0.retain(|element, _| element == one || element == other);
    }

    /// Keeps only what is below a path.
    pub(super) fn keep_below(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        self.0.retain(|element, _| element == first);
        if let Some(node) = self.0.get_mut(*first) {
            node.below.keep_below(rest);
            self.drop_if_bare(first);
        }
    }

    /// Takes the paths of another set in.
    pub(super) fn merge(&mut self, other: &Self) {
        for (element, node) in &other.0 {
            let own = self.0.entry(element.clone()).or_default();
            own.member |= node.member;
            own.below.merge(&node.below);
        }
    }

    /// Takes the paths of another set out.
    pub(super) fn subtract(&mut self, other: &Self) {
        for (element, node) in &other.0 {
            if let Some(own) = self.0.get_mut(element) {
                own.member &= !node.member;
                own.below.subtract(&node.below);
                self.drop_if_bare(element);
            }
        }
    }

    /// Returns the paths that are in both.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let both = self.0.iter().filter_map(|(element, node)| {
            let theirs = other.0.get(element)?;
            let node =
                Node { member: node.member && theirs.member, below: node.below.intersection(&theirs.below) };
            (node.member || !node.below.is_empty()).then(|| (element.clone(), node))
        });
        Self(both.collect())
    }

    /// Returns what is below an element; `None` when neither it nor anything below is in the set.
    pub(super) fn below(&self, element: &str) -> Option<&Self> {
        self.0.get(element).map(|node| &node.below)
    }

    /// Returns the elements at the top.
    pub(super) fn elements(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns every path, as people read them: `.spec.containers[name="a"].image`.
    pub(super) fn shown(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.show("", &mut paths);
        paths
    }

    fn show(&self, prefix: &str, paths: &mut Vec<String>) {
        for (element, node) in &self.0 {
            let path = format!("{prefix}{}", shown(element));
            if node.member {
                paths.push(path.clone());
            }
            node.below.show(&path, paths);
        }
    }
}

fn shown(element: &str) -> String {
    let (kind, rest) = element.split_once(':').unwrap_or(("f", element));
    match kind {
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        "v" => format!("[={rest}]"),
        "i" => format!("[{rest}]"),
        _ => format!(".{rest}"),
    }
}
