//! What is known of each group: how many checks hold, and which do not, with the reason.
//!
//! ```text
//! run_pod_tests 210
//!     cannot core.sh:12 the reason, for a server of this version
//!     missing core.sh:34 what it is that we lack
//! ```

use std::collections::BTreeMap;

use anyhow::{Context, bail};

use super::group::Outcome;

/// What is known of a group.
#[derive(Debug, Default)]
pub(super) struct Expected {
    passed: u32,
    /// Places that do not hold.
    known: BTreeMap<String, Known>,
}

/// Why a place does not hold.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// `cannot`, where a server of this version must differ, or `missing`.
    pub(super) kind: String,
    pub(super) reason: String,
}

/// Reads the list.
pub(super) fn read(text: &str) -> anyhow::Result<BTreeMap<String, Expected>> {
    let mut groups = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some(rest) = line.strip_prefix("    ") {
            let mut words = rest.splitn(3, ' ');
            let mut word = || words.next().with_context(|| format!("three parts in {line:?}"));
            let (kind, place, reason) = (word()?.to_owned(), word()?.to_owned(), word()?.to_owned());
            if kind != "cannot" && kind != "missing" {
                bail!("neither cannot nor missing: {line:?}");
            }
            let name = current.as_ref().with_context(|| format!("a group before {line:?}"))?;
            let group: &mut Expected = groups.get_mut(name).context("the group")?;
            group.known.insert(place, Known { kind, reason });
        } else {
            let (name, passed) = line.split_once(' ').with_context(|| format!("two words in {line:?}"))?;
            let passed = passed.parse().with_context(|| format!("a number in {line:?}"))?;
            groups.insert(name.to_owned(), Expected { passed, known: BTreeMap::new() });
            current = Some(name.to_owned());
        }
    }
    Ok(groups)
}

impl Expected {
    /// Returns what is worse than it was.
    pub(super) fn lost(&self, outcome: &Outcome) -> Vec<String> {
        let mut lost: Vec<String> = outcome
            .failed
            .iter()
            .filter(|(place, _)| !self.known.contains_key(place))
            .map(|(place, command)| format!("does not hold: {place} {command}"))
            .collect();
        if outcome.passed < self.passed {
            lost.push(format!("{} checks held, not {}", outcome.passed, self.passed));
        }
        lost
    }

    /// Returns why a place does not hold, when that is known.
    pub(super) fn known(&self, place: &str) -> Option<&Known> {
        self.known.get(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_must_hold() {
        let groups =
            read("# head\na 2\n    cannot x.sh:1 gone since 1.25\n    missing x.sh:2 no jobs\nb 0\n")
                .unwrap();
        let outcome =
            |passed, place: &str| Outcome { passed, failed: vec![(place.into(), "kubectl".into())] };
        assert!(groups["a"].lost(&outcome(2, "x.sh:1")).is_empty());
        assert_eq!(groups["a"].lost(&outcome(1, "x.sh:3")).len(), 2);
        assert_eq!(groups["a"].known("x.sh:2").unwrap().reason, "no jobs");
        assert!(read("    cannot x.sh:1 y\n").is_err() && read("a 1\n    never x.sh:1 y\n").is_err());
    }
}
