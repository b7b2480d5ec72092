//! Rules of roles: what they let through, and which rules they cover.
//!
//! Source: `pkg/apis/rbac/v1/evaluation_helpers.go`, `component-helpers/auth/rbac/validation/policy_comparator.go`.

use serde::{Deserialize, Serialize};

use super::{Access, Target};

/// One rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) non_resource_urls: Vec<String>,
}

const ALL: &str = "*";

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == wanted)
}

fn has_or_all(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == wanted || one == ALL)
}

impl Rule {
    /// Whether the rule lets a request through.
    pub(crate) fn allows(&self, access: &Access) -> bool {
        if !has_or_all(&self.verbs, &access.verb) {
            return false;
        }
        match &access.target {
            Target::Path(path) => self.non_resource_urls.iter().any(|url| path_matches(url, path)),
            Target::Resource { group, resource, subresource, name, .. } => {
                has_or_all(&self.api_groups, group)
                    && self.resources.iter().any(|one| resource_matches(one, resource, subresource))
                    && (self.resource_names.is_empty() || has(&self.resource_names, name))
            }
        }
    }

    /// Takes a rule apart into rules of one verb and one resource, name or path each.
    pub(crate) fn atoms(&self) -> Vec<Self> {
        let mut atoms = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let atom = Self {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(atom.clone());
                    }
                    for name in &self.resource_names {
                        atoms.push(Self { resource_names: one(name), ..atom.clone() });
                    }
                }
            }
            for url in &self.non_resource_urls {
                atoms.push(Self { verbs: one(verb), non_resource_urls: one(url), ..Self::default() });
            }
        }
        atoms
    }

    /// Whether everything that an atom of another rule grants is granted by this rule.
    pub(crate) fn covers(&self, atom: &Self) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|one| has_or_all(own, one));
        let names = self.resource_names.is_empty()
            || !atom.resource_names.is_empty()
                && atom.resource_names.iter().all(|name| has(&self.resource_names, name));
        all(&self.verbs, &atom.verbs)
            && all(&self.api_groups, &atom.api_groups)
            && atom.resources.iter().all(|resource| self.covers_resource(resource))
            && names
            && atom.non_resource_urls.iter().all(|url| self.covers_url(url))
    }

    fn covers_resource(&self, resource: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        self.resources.iter().any(|one| resource_matches(one, resource, subresource))
    }

    fn covers_url(&self, url: &str) -> bool {
        self.non_resource_urls.iter().any(|one| one == url || path_matches(one, url))
    }

    /// Writes the rule as upstream's messages do: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    pub(crate) fn compact(&self) -> String {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let parts = parts.iter().filter(|(_, list)| !list.is_empty());
        let parts: Vec<_> = parts.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// Writes a list as Go's `%q` does.
pub(crate) fn quoted(list: &[String]) -> String {
    let words: Vec<_> = list.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

/// `*` is every resource with every subresource, `*/scale` one subresource of all.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == ALL {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((ALL, wanted)) => !subresource.is_empty() && wanted == subresource,
        Some((of, wanted)) => of == resource && wanted == subresource,
    }
}

fn path_matches(rule: &str, path: &str) -> bool {
    rule == ALL || rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// Puts rules together that differ in their verbs only, for messages.
pub(crate) fn compacted(atoms: Vec<Rule>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for atom in atoms {
        let same = |one: &&mut Rule| Rule { verbs: atom.verbs.clone(), ..(**one).clone() } == atom;
        match rules.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(atom.verbs),
            None => rules.push(atom),
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            resource_names: list(names),
            ..Rule::default()
        }
    }

    #[test]
    fn subresources_are_named_alone() {
        let pods = rule(&["get"], &[""], &["pods"], &[]);
        let access = |resource: &str, subresource: &str| {
            Access::to_resource("get", "", resource, subresource, "ns", "x")
        };
        assert!(pods.allows(&access("pods", "")) && !pods.allows(&access("pods", "log")));
        let scales = rule(&["get"], &[""], &["*/scale"], &[]);
        assert!(scales.allows(&access("pods", "scale")) && !scales.allows(&access("pods", "")));
        assert!(rule(&["*"], &["*"], &["*"], &[]).allows(&access("pods", "exec")));
        assert!(!rule(&["get"], &[""], &["pods"], &["y"]).allows(&access("pods", "")));
    }

    #[test]
    fn messages_show_rules_as_upstream() {
        let rules = compacted(rule(&["get", "list"], &[""], &["pods"], &["a"]).atoms());
        let [one] = rules.as_slice() else { panic!("{rules:?}") };
        assert_eq!(
            one.compact(),
            r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["a"], Verbs:["get" "list"]}"#
        );
    }

    fn some(words: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<String>> {
        proptest::sample::subsequence(words, least..=words.len()).prop_map(|words| list(&words))
    }

    prop_compose! {
        fn any_rule()(
            verbs in some(&["get", "list", "*"], 1),
            api_groups in some(&["", "apps", "*"], 1),
            resources in some(&["pods", "pods/log", "*/log", "*"], 1),
            resource_names in some(&["a", "b"], 0),
        ) -> Rule {
            Rule { verbs, api_groups, resources, resource_names, ..Rule::default() }
        }
    }

    /// The decision table in its simplest form: every member on its own.
    fn model(rule: &Rule, verb: &str, group: &str, resource: &str, subresource: &str, name: &str) -> bool {
        let full = if subresource.is_empty() { resource.into() } else { format!("{resource}/{subresource}") };
        let one = |list: &[String], word: &str| list.contains(&word.to_owned()) || list.contains(&"*".into());
        let resources = one(&rule.resources, &full)
            || !subresource.is_empty() && rule.resources.contains(&format!("*/{subresource}"));
        one(&rule.verbs, verb)
            && one(&rule.api_groups, group)
            && resources
            && (rule.resource_names.is_empty() || rule.resource_names.contains(&name.to_owned()))
    }

    proptest! {
        #[test]
        fn decisions_are_those_of_the_model_and_atoms_cover_what_they_grant(one in any_rule(), other in any_rule()) {
            for verb in ["get", "list", "delete"] {
                for group in ["", "apps", "batch"] {
                    for (resource, subresource) in [("pods", ""), ("pods", "log"), ("nodes", "log"), ("nodes", "")] {
                        for name in ["", "a", "c"] {
                            let access = Access::to_resource(verb, group, resource, subresource, "", name);
                            let wanted = model(&one, verb, group, resource, subresource, name);
                            prop_assert_eq!(one.allows(&access), wanted);
                            // Whoever holds a rule that covers another may do all that the other may.
                            let covered = other.atoms().iter().all(|atom| one.covers(atom));
                            prop_assert!(!covered || !other.allows(&access) || wanted);
                        }
                    }
                }
            }
            prop_assert!(one.atoms().iter().all(|atom| one.covers(atom)));
        }
    }
}
