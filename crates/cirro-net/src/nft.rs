//! One nftables table as a value, and the text that makes the kernel agree with it.
//!
//! A table is replaced whole, atomically, when the kernel's state is not known (start, a failed change), and
//! changed by a small transaction else. Connections do not notice either: their translation lives in
//! connection tracking, not in the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

/// A table of ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Table {
    /// `inet`, `arp` or `bridge`.
    pub(crate) family: &'static str,
    /// Its name.
    pub(crate) name: String,
    /// Named counters.
    pub(crate) counters: BTreeSet<String>,
    /// Sets and maps.
    pub(crate) sets: BTreeMap<String, Arc<Set>>,
    /// Chains.
    pub(crate) chains: BTreeMap<String, Chain>,
}

/// A set, or a map when its elements have values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Set {
    /// `set` or `map`.
    pub(crate) noun: &'static str,
    /// What its elements are: `type ipv4_addr`.
    pub(crate) kind: String,
    /// Its elements with the values of a map.
    pub(crate) elements: BTreeMap<String, Option<String>>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Chain {
    /// Type, hook, priority and policy of a base chain.
    pub(crate) hook: Option<String>,
    /// Its rules.
    pub(crate) rules: Vec<String>,
}

impl Table {
    /// Makes an empty table.
    pub(crate) fn new(family: &'static str, name: &str) -> Self {
        Self { family, name: name.into(), ..Self::default() }
    }

    /// Adds a chain.
    pub(crate) fn chain<S: Into<String>>(
        &mut self,
        name: impl Into<String>,
        hook: Option<&str>,
        rules: impl IntoIterator<Item = S>,
    ) {
        let rules = rules.into_iter().map(Into::into).collect();
        self.chains.insert(name.into(), Chain { hook: hook.map(Into::into), rules });
    }

    /// Adds a set with its elements.
    pub(crate) fn set(&mut self, name: &str, kind: &str, elements: impl IntoIterator<Item = String>) {
        let elements = elements.into_iter().map(|element| (element, None)).collect();
        self.sets.insert(name.into(), Arc::new(Set { noun: "set", kind: kind.into(), elements }));
    }

    /// Adds a map with its elements.
    pub(crate) fn map(&mut self, name: &str, kind: &str, elements: BTreeMap<String, String>) {
        let elements = elements.into_iter().map(|(key, value)| (key, Some(value))).collect();
        self.sets.insert(name.into(), Arc::new(Set { noun: "map", kind: kind.into(), elements }));
    }

    /// Returns the transaction that makes the kernel's table this one, whatever it is now.
    pub(crate) fn replace(&self) -> String {
        let mut text = self.remove();
        let (family, name) = (self.family, &self.name);
        let _ = writeln!(text, "table {family} {name} {{");
        for counter in &self.counters {
            let _ = writeln!(text, "\tcounter {counter} {{\n\t}}");
        }
        for (name, set) in &self.sets {
            let _ = writeln!(text, "\t{} {name} {{\n\t\t{}", set.noun, set.kind);
            if !set.elements.is_empty() {
                let _ = writeln!(text, "\t\telements = {{ {} }}", elements(set.elements.iter()));
            }
            text.push_str("\t}\n");
        }
        for (name, chain) in &self.chains {
            let _ = writeln!(text, "\tchain {name} {{");
            for line in chain.hook.iter().chain(&chain.rules) {
                let _ = writeln!(text, "\t\t{line}");
            }
            text.push_str("\t}\n");
        }
        text.push_str("}\n");
        text
    }

    /// Returns the transaction that removes the table, if there is one.
    pub(crate) fn remove(&self) -> String {
        let (family, name) = (self.family, &self.name);
        format!("add table {family} {name}\ndelete table {family} {name}\n")
    }

    /// Returns the transaction that makes this table out of `old`; empty if they are equal.
    pub(crate) fn change(&self, old: &Self) -> String {
        if self.reshapes(old) {
            return self.replace();
        }
        let mut text = String::new();
        let place = format!("{} {}", self.family, self.name);
        self.write_new_objects(old, &place, &mut text);
        self.write_rules(old, &place, &mut text);
        self.write_elements(old, &place, &mut text);
        for name in old.chains.keys().filter(|name| !self.chains.contains_key(*name)) {
            let _ = writeln!(text, "delete chain {place} {name}");
        }
        for (name, set) in old.sets.iter().filter(|(name, _)| !self.sets.contains_key(*name)) {
            let _ = writeln!(text, "delete {} {place} {name}", set.noun);
        }
        text
    }

    /// Tells whether something changed that only a replacement can change.
    fn reshapes(&self, old: &Self) -> bool {
        let set = |(name, set): (&String, &Arc<Set>)| {
            old.sets.get(name).is_some_and(|old| (old.noun, &old.kind) != (set.noun, &set.kind))
        };
        let chain =
            |(name, chain): (&String, &Chain)| old.chains.get(name).is_some_and(|old| old.hook != chain.hook);
        (self.family, &self.name) != (old.family, &old.name)
            || !self.counters.is_superset(&old.counters)
            || self.sets.iter().any(set)
            || self.chains.iter().any(chain)
    }

    fn write_new_objects(&self, old: &Self, place: &str, text: &mut String) {
        for counter in self.counters.difference(&old.counters) {
            let _ = writeln!(text, "add counter {place} {counter}");
        }
        for (name, set) in self.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
            let _ = writeln!(text, "add {} {place} {name} {{ {}; }}", set.noun, set.kind);
        }
        for (name, chain) in self.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
            let hook = chain.hook.as_ref().map(|hook| format!(" {{ {hook} }}")).unwrap_or_default();
            let _ = writeln!(text, "add chain {place} {name}{hook}");
        }
    }

    fn write_rules(&self, old: &Self, place: &str, text: &mut String) {
        // A chain that goes lets go of what it refers to before anything is deleted.
        for name in old.chains.keys().filter(|name| !self.chains.contains_key(*name)) {
            let _ = writeln!(text, "flush chain {place} {name}");
        }
        for (name, chain) in &self.chains {
            match old.chains.get(name) {
                Some(old) if old.rules == chain.rules => continue,
                Some(_) => {
                    let _ = writeln!(text, "flush chain {place} {name}");
                }
                None => {}
            }
            for rule in &chain.rules {
                let _ = writeln!(text, "add rule {place} {name} {rule}");
            }
        }
    }

    fn write_elements(&self, old: &Self, place: &str, text: &mut String) {
        let none = Set::default();
        let mut added = String::new();
        for (name, set) in &self.sets {
            let old = old.sets.get(name).map_or(&none, |old| old.as_ref());
            if std::ptr::eq(old, set.as_ref()) {
                continue;
            }
            let gone = old.elements.iter().filter(|(key, value)| set.elements.get(*key) != Some(*value));
            let gone: Vec<&str> = gone.map(|(key, _)| key.as_str()).collect();
            if !gone.is_empty() {
                let _ = writeln!(text, "delete element {place} {name} {{ {} }}", gone.join(", "));
            }
            let new =
                elements(set.elements.iter().filter(|(key, value)| old.elements.get(*key) != Some(*value)));
            if !new.is_empty() {
                let _ = writeln!(added, "add element {place} {name} {{ {new} }}");
            }
        }
        for (name, set) in old.sets.iter().filter(|(name, _)| !self.sets.contains_key(*name)) {
            if !set.elements.is_empty() {
                let _ = writeln!(text, "flush {} {place} {name}", set.noun);
            }
        }
        text.push_str(&added);
    }
}

fn elements<'a>(pairs: impl Iterator<Item = (&'a String, &'a Option<String>)>) -> String {
    let texts: Vec<String> = pairs
        .map(|(key, value)| value.as_ref().map_or_else(|| key.clone(), |value| format!("{key} : {value}")))
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(elements: &[(&str, &str)], rules: &[&str]) -> Table {
        let mut table = Table::new("inet", "t");
        let pairs = elements.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        table.map("m", "type inet_service : ipv4_addr", pairs);
        table.chain("c", None, rules.iter().copied());
        table
    }

    #[test]
    fn equal_tables_need_no_change() {
        assert_eq!(
            table(&[("1", "10.0.0.1")], &["accept"]).change(&table(&[("1", "10.0.0.1")], &["accept"])),
            ""
        );
    }

    #[test]
    fn a_change_touches_only_what_differs() {
        let old = table(&[("1", "10.0.0.1"), ("2", "10.0.0.2")], &["accept"]);
        let new = table(&[("1", "10.0.0.9"), ("3", "10.0.0.3")], &["drop"]);
        let expected = "flush chain inet t c\nadd rule inet t c drop\ndelete element inet t m { 1, 2 }\n\
                        add element inet t m { 1 : 10.0.0.9, 3 : 10.0.0.3 }\n";
        assert_eq!(new.change(&old), expected);
    }

    #[test]
    fn another_kind_of_set_replaces_the_table() {
        let mut new = table(&[], &[]);
        new.set("m", "type ipv4_addr", []);
        assert!(new.change(&table(&[], &[])).starts_with("add table inet t\ndelete table inet t\n"));
    }
}
