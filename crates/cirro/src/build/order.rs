//! What `cirro build` and the daemon say to each other.
//!
//! A request's body is the length of the order (four bytes, the highest first), the order as JSON, and the context's
//! tar. The answer is a JSON document per line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cirro_build::StepEvent;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of an order at most: secrets and a Dockerfile are in it.
pub(super) const MAX_ORDER: usize = 16 << 20;

/// What is to be built, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Order {
    /// Path of the Dockerfile in the context.
    pub(super) dockerfile: String,
    /// Its text, if it is not in the context.
    pub(super) dockerfile_text: Option<String>,
    pub(super) ignore_text: Option<String>,
    /// Address of the context, if it is not in the body.
    pub(super) remote: Option<String>,
    /// Where the context is, in words.
    pub(super) origin: String,
    pub(super) tags: Vec<String>,
    pub(super) build_args: BTreeMap<String, Option<String>>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) target: Option<String>,
    pub(super) pull: bool,
    pub(super) no_cache: bool,
    pub(super) network: String,
    pub(super) extra_hosts: Vec<String>,
    pub(super) memory: Option<i64>,
    pub(super) secrets: BTreeMap<String, Secret>,
    /// Sockets of agents on this host, by id.
    pub(super) ssh: BTreeMap<String, PathBuf>,
}

/// A secret; not shown by mistake.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("(secret)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The error must not show what it is about.
        let decoded =
            BASE64_STANDARD.decode(text).map_err(|_| serde::de::Error::custom("a secret is not base64"));
        decoded.map(Self)
    }
}

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Told {
    Step(StepEvent),
    Output { text: String },
    Warning { text: String },
    Image { id: String },
    Error { message: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_arrives_as_it_was_and_shows_no_secret() {
        let secret = Secret(b"s3cret".to_vec());
        let order = Order { secrets: [("key".to_owned(), secret)].into(), ..Order::default() };
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
        assert!(!format!("{order:?}").contains("s3cret"));
        let error = serde_json::from_str::<Order>(r#"{"secrets":{"key":"s3cret!"}}"#).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
