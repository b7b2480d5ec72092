//! What an administrator says of repositories: quotas, immutable tags, retention.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::name::{RepositoryName, TagName};

/// A pattern of names: `*` stands for anything but `/`, `**` for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

/// A pattern that is too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern `{0}` is empty or longer than 255 bytes")]
pub struct InvalidPattern(String);

/// Longest pattern, as names are no longer.
const MAX_PATTERN: usize = 255;

impl Pattern {
    /// Whether a name fits.
    pub fn matches(&self, name: &str) -> bool {
        fits(self.0.as_bytes(), name.as_bytes())
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        match text.len() {
            1..=MAX_PATTERN => Ok(Self(text.to_owned())),
            _ => Err(InvalidPattern(text.chars().take(MAX_PATTERN).collect())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Matches in time proportional to the product of the lengths: one row of the table of what fits what.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let mut row = vec![false; name.len() + 1];
    row[0] = true;
    let mut rest = pattern;
    while let [first, tail @ ..] = rest {
        let (star, deep) = (*first == b'*', rest.starts_with(b"**"));
        let mut next = vec![false; name.len() + 1];
        next[0] = star && row[0];
        for (i, byte) in name.iter().enumerate() {
            next[i + 1] = match star {
                true => row[i + 1] || next[i] && (deep || *byte != b'/'),
                false => row[i] && first == byte,
            };
        }
        row = next;
        rest = if deep { &rest[2..] } else { tail };
    }
    row[name.len()]
}

/// Everything that is said of repositories.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Hosts (with ports) under which clients reach this registry.
    pub own_hosts: Vec<String>,
    /// Repositories below these are another registry's: what is here of them may be old.
    pub mirrored: Vec<String>,
    /// Tags that may not be moved or removed.
    pub immutable: Vec<ImmutableTags>,
    /// Bytes that repositories may have.
    pub quotas: Vec<Quota>,
    /// What collection may remove.
    pub retention: Vec<Retention>,
}

impl Rules {
    /// Whether a repository is another registry's.
    pub(super) fn is_mirrored(&self, repository: &str) -> bool {
        let below = |prefix: &String| {
            prefix.is_empty() || repository.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
        };
        self.mirrored.iter().any(below)
    }
}

/// Tags that may not be moved or removed once they are there.
#[derive(Debug, Clone)]
pub struct ImmutableTags {
    /// Which repositories.
    pub repositories: Pattern,
    /// Which tags.
    pub tags: Pattern,
}

/// Bytes that the repositories of a pattern may have together; a blob that several have counts once.
#[derive(Debug, Clone)]
pub struct Quota {
    /// Which repositories.
    pub repositories: Pattern,
    /// How many bytes.
    pub bytes: u64,
}

/// What collection may remove from repositories.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Which repositories.
    pub repositories: Pattern,
    /// Which tags.
    pub tags: Pattern,
    /// The newest tags, which stay however old they are.
    pub keep_last: usize,
    /// Older tags are removed; without it, all but the newest.
    pub older_than: Option<Duration>,
    /// Manifests that no tag, index or subject leads to are removed when they are older than this.
    pub untagged_after: Option<Duration>,
}

impl Rules {
    pub(crate) fn is_immutable(&self, repository: &RepositoryName, tag: &TagName) -> bool {
        self.immutable
            .iter()
            .any(|rule| rule.repositories.matches(repository.as_str()) && rule.tags.matches(tag.as_str()))
    }

    pub(crate) fn quotas_of(&self, repository: &RepositoryName) -> impl Iterator<Item = &Quota> {
        self.quotas.iter().filter(|quota| quota.repositories.matches(repository.as_str()))
    }

    pub(crate) fn retention_of(&self, repository: &RepositoryName) -> impl Iterator<Item = &Retention> {
        self.retention.iter().filter(|rule| rule.repositories.matches(repository.as_str()))
    }
}

/// A tag with the time of its push.
pub(crate) type Dated = (TagName, i64);

/// Chooses the tags that a rule removes: a pure function of what is there and the time.
pub(crate) fn expired(rule: &Retention, tags: &[Dated], now: i64) -> Vec<TagName> {
    let mut fitting: Vec<_> = tags.iter().filter(|(tag, _)| rule.tags.matches(tag.as_str())).collect();
    // The newest first; of those pushed in one second, the one with the greatest name.
    fitting.sort_by(|a, b| b.1.cmp(&a.1).then(b.0.cmp(&a.0)));
    let too_old = |pushed: i64| rule.older_than.is_none_or(|limit| now - pushed > limit.as_secs() as i64);
    fitting
        .into_iter()
        .skip(rule.keep_last)
        .filter(|(_, pushed)| too_old(*pushed))
        .map(|(tag, _)| tag.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(name)
    }

    #[test]
    fn one_star_stays_within_a_component_and_two_do_not() {
        for (pattern, name) in [
            ("a", "a"),
            ("*", "abc"),
            ("a/*", "a/b"),
            ("**", "a/b/c"),
            ("a/**/z", "a/b/c/z"),
            ("v*.0", "v1.0"),
            ("a*b*c", "aXbYc"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("a", "b"), ("*", "a/b"), ("a/*", "a/b/c"), ("a/**", "a"), ("v*", "w"), ("a", "ab")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn the_newest_stay_however_old_they_are() {
        let day = 86_400;
        let tags: Vec<Dated> = (1..=5).map(|i| (format!("v{i}").parse().unwrap(), i * day)).collect();
        let rule = |keep_last, days: Option<u64>| Retention {
            repositories: "**".parse().unwrap(),
            tags: "v*".parse().unwrap(),
            keep_last,
            older_than: days.map(|days| Duration::from_secs(days * 86_400)),
            untagged_after: None,
        };
        let gone = |rule: Retention| {
            expired(&rule, &tags, 10 * day).iter().map(TagName::to_string).collect::<Vec<_>>()
        };
        assert_eq!(gone(rule(2, None)), ["v3", "v2", "v1"]);
        assert_eq!(gone(rule(2, Some(7))), ["v2", "v1"]);
        assert_eq!(gone(rule(10, Some(0))), Vec::<String>::new());
        assert!(gone(Retention { tags: "x*".parse().unwrap(), ..rule(0, None) }).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn two_stars_fit_everything_and_a_name_fits_itself(name in "[a-z/]{1,40}") {
            assert!(matches("**", &name) && matches(&name, &name) && matches(&format!("**{name}**"), &name));
        }
    }
}
