//! Stored objects as those who follow a kind hold them: the store's own bytes, and what indexes ask of them.

use std::fmt;
use std::sync::Arc;

use cirro_seams::api::{ApiError, Encoded, Head, Packed};
use cirro_store::Record;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::{DecodeCache, from_metadata};
use crate::error;
use crate::registry::Kind;

struct Stored {
    head: Head,
    record: Record,
    cache: Arc<DecodeCache>,
}

/// Makes a record one that is decoded by `cache` when it is looked into.
///
/// # Errors
/// When it has no metadata that can be read.
pub(crate) fn pack(cache: &Arc<DecodeCache>, kind: &Kind, record: Record) -> Result<Packed, ApiError> {
    let head = from_metadata(kind, &record.value).map(Head::from_metadata);
    let head = match head {
        Some(Ok(head)) => Head { revision: record.revision, ..head },
        // Stored in another version, or with members that a client chose.
        _ => Head::read(&*cache.decode(&record)?),
    };
    if head.name.is_empty() {
        return Err(error::internal(format!("`{}` has no name", record.key)));
    }
    Ok(Packed::new(Stored { head, record, cache: cache.clone() }))
}

impl Encoded for Stored {
    fn head(&self) -> &Head {
        &self.head
    }

    fn decode(&self) -> Arc<Value> {
        self.cache.decode(&self.record).unwrap_or_else(|refusal| {
            // Its head could be read, and its checksum is right: this is a fault of who wrote it.
            tracing::error!(key = %self.record.key, %refusal, "an object cannot be decoded");
            Arc::new(Value::Null)
        })
    }

    fn text(&self, pointer: &str) -> String {
        let mut bytes = serde_json::Deserializer::from_slice(&self.record.value);
        Find(pointer).deserialize(&mut bytes).ok().flatten().unwrap_or_default()
    }
}

/// Looks for the string at a JSON pointer; what lies beside the way is skipped.
#[derive(Clone, Copy)]
struct Find<'a>(&'a str);

impl<'a> Find<'a> {
    /// Returns what to look for in a member, when the pointer goes through it.
    fn into_member(self, member: &str) -> Option<Self> {
        let rest = self.0.strip_prefix('/')?;
        let (name, rest) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        (name == member).then_some(Find(rest))
    }
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            let value = <Value as serde::Deserialize>::deserialize(deserializer)?;
            return Ok(value.as_str().map(str::to_owned));
        }
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(member) = members.next_key_seed(Member(self))? {
            match member {
                Some(find) => found = members.next_value_seed(find)?,
                None => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// The name of a member: is it on the way?
struct Member<'a>(Find<'a>);

impl<'a, 'de> DeserializeSeed<'de> for Member<'a> {
    type Value = Option<Find<'a>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Member<'a> {
    type Value = Option<Find<'a>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, member: &str) -> Result<Self::Value, E> {
        Ok(self.0.into_member(member))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn find(object: &Value, pointer: &str) -> String {
        let text = object.to_string();
        let mut bytes = serde_json::Deserializer::from_slice(text.as_bytes());
        Find(pointer).deserialize(&mut bytes).ok().flatten().unwrap_or_default()
    }

    #[test]
    fn a_string_is_found_without_decoding_the_rest() {
        let object = json!({"a": [{"b": "no"}], "spec": {"containers": [1], "nodeName": "n\"1", "z": {}},
            "status": {"phase": 3}});
        assert_eq!(find(&object, "/spec/nodeName"), "n\"1");
        for absent in ["/spec", "/spec/none", "/status/phase", "/a/b", "/spec/nodeName/x", "/none"] {
            assert_eq!(find(&object, absent), "", "{absent}");
        }
    }
}
