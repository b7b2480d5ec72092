//! The groups of this server and those of aggregated ones, in one order.

use crate::http::aggregate::{Foreign, priority};
use crate::registry::{Registry, Served};

/// A group with its versions, the preferred one first.
pub(super) struct Listed<'a> {
    pub(super) name: &'a str,
    pub(super) versions: Vec<Version<'a>>,
}

/// A version of a group, by who answers for it.
pub(super) enum Version<'a> {
    Own(&'a str, Vec<&'a Served>),
    Foreign(&'a Foreign),
}

impl Version<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Own(name, _) => name,
            Self::Foreign(foreign) => foreign.version(),
        }
    }

    /// Returns the priorities of the group and of the version.
    fn priority(&self, group: &str) -> (i64, i64) {
        match self {
            Self::Own(name, served) => {
                priority(group, name, served.iter().any(|one| one.kind.custom.is_some()))
            }
            Self::Foreign(foreign) => (foreign.remote.group_priority, foreign.remote.version_priority),
        }
    }
}

/// Returns all groups. Those of this server stay in their order; others come before what is less important.
pub(super) fn groups<'a>(registry: &'a Registry, foreign: &'a [Foreign]) -> Vec<Listed<'a>> {
    let own = registry.groups().into_iter().map(|group| Listed {
        name: group.name,
        versions: group.versions.into_iter().map(|(name, served)| Version::Own(name, served)).collect(),
    });
    let mut all: Vec<Listed<'a>> = own.collect();
    for foreign in foreign {
        let at = all.iter().position(|group| group.name == foreign.group());
        let at = at.unwrap_or_else(|| {
            let importance = |group: &Listed<'_>| {
                group.versions.iter().map(|version| version.priority(group.name).0).max().unwrap_or(0)
            };
            let at = all.iter().position(|group| importance(group) < foreign.remote.group_priority);
            let at = at.unwrap_or(all.len());
            all.insert(at, Listed { name: foreign.group(), versions: Vec::new() });
            at
        });
        let group = &mut all[at];
        group.versions.retain(|version| version.name() != foreign.version());
        let rank = foreign.remote.version_priority;
        let before = |version: &Version<'_>| {
            let theirs = version.priority(group.name).1;
            let by_name = crate::custom::by_priority(foreign.version(), version.name());
            theirs < rank || theirs == rank && by_name.is_lt()
        };
        let at = group.versions.iter().position(before).unwrap_or(group.versions.len());
        group.versions.insert(at, Version::Foreign(foreign));
    }
    all
}
