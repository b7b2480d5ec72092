//! What an administrator says of the registry: a TOML file. Without one the defaults hold.

use std::time::Duration;

use cirro_image::distribution::{self, Pattern, Rules};
use cirro_types::Quantity;
use serde::{Deserialize, Deserializer, de};

/// How often collection runs, unless it is said.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);
/// How long a mirror serves a tag without asking upstream, unless it is said.
const REVALIDATE: Duration = Duration::from_secs(60);

/// The configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Further hosts (with ports) under which clients reach this registry.
    pub hosts: Vec<String>,
    /// Address that clients get their tokens at, when it is not the one they came to: `https://registry.example`.
    pub external_url: Option<String>,
    /// Whether who comes from this host's loopback is trusted without a password. Default: yes.
    pub trust_loopback: Option<bool>,
    /// How often collection runs.
    #[serde(deserialize_with = "optional_duration")]
    pub collect_every: Option<Duration>,
    /// Who there is.
    pub user: Vec<User>,
    /// Who may do what. Without any: every user everything.
    pub access: Vec<Grant>,
    /// Tags that may not be moved or removed.
    pub immutable: Vec<Immutable>,
    /// Bytes that repositories may have.
    pub quota: Vec<Quota>,
    /// What collection may remove.
    pub retention: Vec<Retention>,
    /// Registries whose content is fetched when it is asked for.
    pub mirror: Vec<Mirror>,
}

/// Somebody with a password.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct User {
    /// Name.
    pub name: String,
    /// What `cirro registry hash-password` prints. Whoever reads it can make the user's identity tokens.
    pub password_hash: String,
}

/// Lets some do something with some repositories.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Grant {
    /// Which repositories.
    #[serde(deserialize_with = "pattern")]
    pub repositories: Pattern,
    /// Names; `*` is every user, `anonymous` who has not said who they are.
    pub users: Vec<String>,
    /// What they may do.
    pub actions: Vec<Action>,
}

/// Something done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Read.
    Pull,
    /// Write.
    Push,
    /// Remove.
    Delete,
}

impl Action {
    /// Returns its name in scopes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// Tags that may not be moved or removed once they are there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Immutable {
    /// Which repositories.
    #[serde(deserialize_with = "pattern")]
    pub repositories: Pattern,
    /// Which tags; all of them when it is not said.
    #[serde(default = "everything", deserialize_with = "pattern")]
    pub tags: Pattern,
}

/// Bytes that the repositories of a pattern may have together.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Which repositories.
    #[serde(deserialize_with = "pattern")]
    pub repositories: Pattern,
    /// How many bytes, `10Gi`.
    #[serde(deserialize_with = "size")]
    pub bytes: u64,
}

/// What collection may remove.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Retention {
    /// Which repositories.
    #[serde(deserialize_with = "pattern")]
    pub repositories: Pattern,
    /// Which tags; all of them when it is not said.
    #[serde(default = "everything", deserialize_with = "pattern")]
    pub tags: Pattern,
    /// The newest tags, which stay however old they are. When it is not said: all.
    pub keep_last: Option<usize>,
    /// Tags older than this go, `30d`; without it all but the newest.
    #[serde(default, deserialize_with = "optional_duration")]
    pub older_than: Option<Duration>,
    /// Manifests without a tag go when they are older than this.
    #[serde(default, deserialize_with = "optional_duration")]
    pub untagged_after: Option<Duration>,
}

/// A registry whose content is fetched when it is asked for.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Mirror {
    /// Repositories below this are upstream's, without it: `hub` makes `hub/library/node` of `library/node`. Empty:
    /// every repository that is not here.
    pub prefix: String,
    /// Upstream's address, `https://registry-1.docker.io`.
    pub upstream: String,
    /// Name to log in with.
    pub username: Option<String>,
    /// Password to log in with.
    pub password: Option<String>,
    /// How long a tag is served without asking upstream, `60s`.
    #[serde(default, deserialize_with = "optional_duration")]
    pub revalidate: Option<Duration>,
}

impl Mirror {
    /// Returns the prefix without slashes at its ends.
    pub(crate) fn prefix(&self) -> &str {
        self.prefix.trim_matches('/')
    }

    pub(crate) fn revalidate(&self) -> Duration {
        self.revalidate.unwrap_or(REVALIDATE)
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidConfig(String);

impl Config {
    /// Reads the file's text.
    ///
    /// # Errors
    /// The text says where and why.
    pub fn parse(text: &str) -> Result<Self, InvalidConfig> {
        let config: Self = toml::from_str(text).map_err(|error| InvalidConfig(error.to_string()))?;
        for user in &config.user {
            if !crate::login::is_hash(&user.password_hash) {
                return Err(InvalidConfig(format!(
                    "user `{}`: password-hash is not what `cirro registry hash-password` prints",
                    user.name
                )));
            }
            if matches!(user.name.as_str(), "" | "*" | "anonymous") || user.name.contains(':') {
                return Err(InvalidConfig(format!("user `{}`: the name is reserved", user.name)));
            }
        }
        for mirror in &config.mirror {
            if !mirror.upstream.starts_with("https://") && !mirror.upstream.starts_with("http://") {
                return Err(InvalidConfig(format!(
                    "mirror `{}`: upstream is no http address",
                    mirror.prefix
                )));
            }
        }
        Ok(config)
    }

    /// Returns what the store has to know of it; `own_hosts` are the addresses that the registry listens on.
    pub fn rules(&self, own_hosts: Vec<String>) -> Rules {
        Rules {
            own_hosts: own_hosts.into_iter().chain(self.hosts.iter().cloned()).collect(),
            mirrored: self.mirror.iter().map(|mirror| mirror.prefix().to_owned()).collect(),
            immutable: self
                .immutable
                .iter()
                .map(|rule| distribution::ImmutableTags {
                    repositories: rule.repositories.clone(),
                    tags: rule.tags.clone(),
                })
                .collect(),
            quotas: self
                .quota
                .iter()
                .map(|rule| distribution::Quota {
                    repositories: rule.repositories.clone(),
                    bytes: rule.bytes,
                })
                .collect(),
            retention: self
                .retention
                .iter()
                .map(|rule| distribution::Retention {
                    repositories: rule.repositories.clone(),
                    tags: rule.tags.clone(),
                    keep_last: rule.keep_last.unwrap_or(if rule.older_than.is_some() {
                        0
                    } else {
                        usize::MAX
                    }),
                    older_than: rule.older_than,
                    untagged_after: rule.untagged_after,
                })
                .collect(),
        }
    }

    pub(crate) fn collect_every(&self) -> Duration {
        self.collect_every.unwrap_or(COLLECT_EVERY).max(Duration::from_secs(1))
    }
}

fn everything() -> Pattern {
    "**".parse().expect("it is a pattern")
}

fn pattern<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let quantity: Quantity = String::deserialize(deserializer)?.parse().map_err(de::Error::custom)?;
    u64::try_from(quantity.units()).map_err(|_| de::Error::custom("a size is not negative"))
}

fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[end..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(de::Error::custom(format!("`{text}`: want a number with s, m, h or d"))),
    };
    let number: u64 =
        text[..end].parse().map_err(|_| de::Error::custom(format!("`{text}`: want a number")))?;
    match number.checked_mul(unit) {
        Some(seconds) if i64::try_from(seconds).is_ok() => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(de::Error::custom(format!("`{text}`: too long"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_whole() {
        let hash = "pbkdf2-sha256:1:BwcHBwcHBwcHBwcHBwcHBw:cxxer4Iqi9zTqJVHRecZxAoVB12ZzXwJ813RD6ATZS0";
        let text = format!(
            r#"
            hosts = ["registry.example:5000"]
            collect-every = "10m"
            [[user]]
            name = "ci"
            password-hash = "{hash}"
            [[access]]
            repositories = "team/**"
            users = ["ci"]
            actions = ["pull", "push"]
            [[quota]]
            repositories = "team/*"
            bytes = "10Gi"
            [[retention]]
            repositories = "**"
            older-than = "30d"
            untagged-after = "1h"
            [[mirror]]
            prefix = "hub"
            upstream = "https://registry-1.docker.io"
        "#
        );
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.collect_every(), Duration::from_secs(600));
        let rules = config.rules(vec!["localhost:5000".into()]);
        assert_eq!(rules.own_hosts, ["localhost:5000", "registry.example:5000"]);
        assert_eq!(rules.quotas[0].bytes, 10 << 30);
        assert_eq!(
            (rules.retention[0].keep_last, rules.retention[0].older_than),
            (0, Some(Duration::from_secs(30 * 86_400)))
        );
    }

    #[test]
    fn mistakes_are_told() {
        for text in [
            "unknown = 1",
            "collect-every = \"5\"",
            "[[user]]\nname = \"x\"\npassword-hash = \"plain\"",
            "[[quota]]\nrepositories = \"a\"\nbytes = \"-1\"",
            "[[quota]]\nrepositories = \"\"\nbytes = \"1\"",
            "[[mirror]]\nprefix = \"a\"\nupstream = \"ftp://x\"",
        ] {
            assert!(Config::parse(text).is_err(), "{text}");
        }
    }
}
