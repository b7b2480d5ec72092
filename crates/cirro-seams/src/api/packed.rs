//! Objects in a compact form: what everybody asks of them at hand, the rest decoded when it is looked at.
//!
//! A decoded object takes ten times its bytes. Whoever follows a hundred thousand of them keeps this, and decodes the
//! few that it works on.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// What indexes and filters ask of every object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its uid.
    pub uid: Box<str>,
    /// Its resource version.
    pub revision: u64,
    /// Whether its deletion has begun.
    pub deleting: bool,
    /// Its labels, in order of their keys.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Its owners.
    pub owners: Box<[OwnerUid]>,
}

/// An owner, as indexes see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerUid {
    /// Its uid.
    pub uid: Box<str>,
    /// Whether it is the controller.
    pub controls: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    namespace: Option<Box<str>>,
    #[serde(default)]
    name: Option<Box<str>>,
    #[serde(default)]
    uid: Option<Box<str>>,
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default)]
    deletion_timestamp: Option<IgnoredAny>,
    #[serde(default)]
    labels: Option<BTreeMap<Box<str>, Box<str>>>,
    #[serde(default)]
    owner_references: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
struct Reference {
    #[serde(default)]
    uid: Option<Box<str>>,
    #[serde(default)]
    controller: Option<bool>,
}

impl Head {
    /// Reads the metadata that bytes begin with; what follows it is not looked at.
    ///
    /// # Errors
    /// When it is not the metadata of an object.
    pub fn from_metadata(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let metadata = Metadata::deserialize(&mut serde_json::Deserializer::from_slice(bytes))?;
        let owners = metadata.owner_references.into_iter().flatten().filter_map(|reference| {
            Some(OwnerUid { uid: reference.uid?, controls: reference.controller == Some(true) })
        });
        Ok(Self {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            revision: metadata.resource_version.and_then(|text| text.parse().ok()).unwrap_or(0),
            deleting: metadata.deletion_timestamp.is_some(),
            labels: metadata.labels.into_iter().flatten().collect(),
            owners: owners.collect(),
        })
    }

    /// Reads a decoded object; members of another type count as absent.
    pub fn read(object: &Value) -> Self {
        let text = |member: &str| object["metadata"][member].as_str().unwrap_or_default();
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let owner = |owner: &Value| {
            Some(OwnerUid { uid: owner["uid"].as_str()?.into(), controls: owner["controller"] == true })
        };
        Self {
            namespace: text("namespace").into(),
            name: text("name").into(),
            uid: text("uid").into(),
            revision: text("resourceVersion").parse().unwrap_or(0),
            deleting: !object["metadata"]["deletionTimestamp"].is_null(),
            labels: labels
                .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())))
                .collect(),
            owners: owners.filter_map(owner).collect(),
        }
    }

    /// Returns the labels as selectors want them.
    pub fn labels(&self) -> BTreeMap<&str, &str> {
        self.labels.iter().map(|(key, value)| (&**key, &**value)).collect()
    }

    /// Returns the uid of the owner that controls the object, if there is one.
    pub fn controller(&self) -> Option<&str> {
        self.owners.iter().find(|owner| owner.controls).map(|owner| &*owner.uid)
    }
}

/// An object that somebody holds in a form of his own.
pub trait Encoded: Send + Sync {
    /// Returns what is at hand.
    fn head(&self) -> &Head;
    /// Returns the whole object.
    fn decode(&self) -> Arc<Value>;
    /// Returns the string at a JSON pointer, empty when there is none, without keeping anything decoded.
    fn text(&self, pointer: &str) -> String;
}

/// An object in a compact form. Cheap to clone.
#[derive(Clone)]
pub struct Packed(Arc<dyn Encoded>);

impl Packed {
    /// Takes what somebody encoded.
    pub fn new(encoded: impl Encoded + 'static) -> Self {
        Self(Arc::new(encoded))
    }

    /// Returns what is at hand.
    pub fn head(&self) -> &Head {
        self.0.head()
    }

    /// Returns the whole object.
    pub fn decode(&self) -> Arc<Value> {
        self.0.decode()
    }

    /// Returns the string at a JSON pointer, empty when there is none.
    pub fn text(&self, pointer: &str) -> String {
        self.0.text(pointer)
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Packed").field(self.head()).finish()
    }
}

/// An object that is there decoded anyway.
impl From<Arc<Value>> for Packed {
    fn from(object: Arc<Value>) -> Self {
        Self::new(Decoded { head: Head::read(&object), object })
    }
}

struct Decoded {
    head: Head,
    object: Arc<Value>,
}

impl Encoded for Decoded {
    fn head(&self) -> &Head {
        &self.head
    }

    fn decode(&self) -> Arc<Value> {
        self.object.clone()
    }

    fn text(&self, pointer: &str) -> String {
        self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_head_is_the_same_from_bytes_and_from_a_value() {
        let metadata = json!({"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
            "deletionTimestamp": "2026-01-01T00:00:00Z", "labels": {"b": "2", "a": "1"}, "managedFields": [{}],
            "ownerReferences": [{"uid": "x"}, {"uid": "y", "controller": true}]});
        let read = Head::read(&json!({"metadata": metadata}));
        assert_eq!(Head::from_metadata(format!("{metadata},\"spec\":").as_bytes()).unwrap(), read);
        assert_eq!((read.controller(), read.revision, read.deleting), (Some("y"), 7, true));
        assert_eq!(read.labels(), BTreeMap::from([("a", "1"), ("b", "2")]));
        let bare = json!({"name": "a", "labels": null, "ownerReferences": null, "deletionTimestamp": null});
        let read = Head::read(&json!({"metadata": bare}));
        assert_eq!(Head::from_metadata(bare.to_string().as_bytes()).unwrap(), read);
        assert!(!read.deleting && Head::from_metadata(b"[").is_err());
    }
}
