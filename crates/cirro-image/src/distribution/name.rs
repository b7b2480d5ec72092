//! Names of repositories and tags, as the distribution-spec bounds them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name that clients can use: 255 bytes with a host before it.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A repository's name, `team/app`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RepositoryName(String);

/// A tag's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TagName(String);

/// A string that names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid name `{0}`")]
pub struct InvalidName(String);

macro_rules! text {
    ($name:ident, $check:path) => {
        impl $name {
            /// Returns it as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if $check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidName(text.chars().take(300).collect()))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text!(RepositoryName, is_repository);
text!(TagName, is_tag);

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`
fn is_repository(text: &str) -> bool {
    text.len() <= MAX_NAME && text.split('/').all(is_component)
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends_well = |b: Option<u8>| b.is_some_and(alphanumeric);
    let joint = |joint: &str| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-');
    ends_well(component.bytes().next())
        && ends_well(component.bytes().next_back())
        && component.split(|c: char| c.is_ascii() && alphanumeric(c as u8)).all(joint)
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        for name in ["a", "team/app", "a.b/c__d/e--f", "quay.io/a/b", "1/2"] {
            assert!(name.parse::<RepositoryName>().is_ok(), "{name}");
        }
        let long = "a".repeat(256);
        for name in ["", "/a", "a/", "a//b", "A", "a/../b", "a b", "a___b", "-a", "a:5000/b", "é", &long] {
            assert!(name.parse::<RepositoryName>().is_err(), "{name}");
        }
    }

    #[test]
    fn tags_are_those_of_the_specification() {
        for tag in ["latest", "v1.0-rc_1", "_", &"a".repeat(128)] {
            assert!(tag.parse::<TagName>().is_ok(), "{tag}");
        }
        for tag in ["", ".a", "-a", "a b", "a/b", "a:b", &"a".repeat(129)] {
            assert!(tag.parse::<TagName>().is_err(), "{tag}");
        }
    }
}
