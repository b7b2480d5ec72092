//! Objects as they are stored, and as they go out.
//!
//! Stored are JSON bytes that begin with kind, apiVersion and metadata, without
//! `metadata.resourceVersion`: the revision is known only after the commit. On the way out it is
//! spliced in after the fixed beginning, so that lists and watches copy bytes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use cirro_seams::api::ApiError;
use cirro_store::Record;
use serde_json::Value;

use crate::error;
use crate::registry::Kind;

mod stored;

pub(crate) use stored::pack;

/// Largest object.
const MAX_OBJECT: usize = 3 * 512 * 1024;
/// Most objects are smaller.
const USUAL_OBJECT: usize = 4096;

/// Returns how the stored bytes of a kind begin.
fn beginning(kind: &Kind) -> String {
    beginning_in(&kind.kind, &kind.storage_api_version())
}

fn beginning_in(kind: &str, api_version: &str) -> String {
    format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{{"#)
}

/// Returns the object's name in a key of the store.
pub(crate) fn name_in(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// Whether a record was stored in a version.
pub(crate) fn is_in(record: &Record, kind: &str, api_version: &str) -> bool {
    record.value.starts_with(beginning_in(kind, api_version).as_bytes())
}

/// Whether bytes were stored in the kind's present version.
pub(crate) fn is_current(kind: &Kind, value: &[u8]) -> bool {
    value.starts_with(beginning(kind).as_bytes())
}

/// Returns the bytes from an object's metadata on, when they were stored in the kind's present version.
fn from_metadata<'a>(kind: &Kind, value: &'a [u8]) -> Option<&'a [u8]> {
    let beginning = beginning(kind);
    value.starts_with(beginning.as_bytes()).then(|| &value[beginning.len() - 1..])
}

/// Encodes an object for the store.
pub(crate) fn encode(kind: &Kind, object: &Value) -> Result<Bytes, ApiError> {
    let mut bytes = Vec::with_capacity(USUAL_OBJECT);
    bytes.extend_from_slice(beginning(kind).as_bytes());
    let metadata = object["metadata"].as_object().expect("every object got its metadata");
    let members = metadata.iter().filter(|(key, _)| *key != "resourceVersion");
    write_members(&mut bytes, members, true)?;
    bytes.push(b'}');
    let rest = object.as_object().expect("it has metadata");
    let rest = rest.iter().filter(|(key, _)| !matches!(key.as_str(), "kind" | "apiVersion" | "metadata"));
    write_members(&mut bytes, rest, false)?;
    bytes.push(b'}');
    if bytes.len() > MAX_OBJECT {
        return Err(error::too_large(format!("object is {} bytes, more than {MAX_OBJECT}", bytes.len())));
    }
    // What is kept holds no room to grow.
    Ok(Bytes::copy_from_slice(&bytes))
}

fn write_members<'a>(
    bytes: &mut Vec<u8>,
    members: impl Iterator<Item = (&'a String, &'a Value)>,
    mut first: bool,
) -> Result<(), ApiError> {
    for (key, value) in members {
        if !std::mem::replace(&mut first, false) {
            bytes.push(b',');
        }
        let written = serde_json::to_writer(&mut *bytes, key).and_then(|()| {
            bytes.push(b':');
            serde_json::to_writer(&mut *bytes, value)
        });
        written.map_err(|source| error::internal(source.to_string()))?;
    }
    Ok(())
}

/// Decodes a record into the object that a client sees, at `revision`.
pub(crate) fn decode(value: &[u8], revision: u64) -> Result<Value, ApiError> {
    let mut object: Value =
        serde_json::from_slice(value).map_err(|source| error::internal(source.to_string()))?;
    object["metadata"]["resourceVersion"] = revision.to_string().into();
    Ok(object)
}

/// Writes a record's bytes with its resource version in them.
pub(crate) fn splice(kind: &Kind, value: &[u8], revision: u64, out: &mut Vec<u8>) {
    let beginning = beginning(kind);
    match value.strip_prefix(beginning.as_bytes()) {
        Some(rest) => {
            out.extend_from_slice(beginning.as_bytes());
            out.extend_from_slice(format!(r#""resourceVersion":"{revision}","#).as_bytes());
            out.extend_from_slice(rest);
        }
        // Written by another storage version.
        None => match decode(value, revision) {
            Ok(object) => out.extend_from_slice(object.to_string().as_bytes()),
            Err(_) => out.extend_from_slice(value),
        },
    }
}

/// Stored bytes of decoded objects that are held although nobody uses them just now.
const RECENT_BYTES: usize = 1024 * 1024;

/// Decoded objects that somebody holds, so that each revision is decoded once and shared; and those that
/// were decoded last, so that what is looked at often is not decoded each time.
#[derive(Default)]
pub(crate) struct DecodeCache(Mutex<Shared>);

#[derive(Default)]
struct Shared {
    objects: HashMap<Arc<str>, (u64, Weak<Value>)>,
    sweep_at: usize,
    /// Oldest first, with the length of their stored bytes.
    recent: VecDeque<(Arc<Value>, usize)>,
    recent_bytes: usize,
}

impl DecodeCache {
    /// Decodes a record, or returns what another one decoded.
    pub(crate) fn decode(&self, record: &Record) -> Result<Arc<Value>, ApiError> {
        let held = |shared: &Shared| {
            let (revision, object) = shared.objects.get(&record.key)?;
            (*revision == record.revision).then(|| object.upgrade())?
        };
        if let Some(object) = held(&self.0.lock().expect("no panic while it is held")) {
            return Ok(object);
        }
        let object = Arc::new(decode(&record.value, record.revision)?);
        self.remember(record, &object);
        Ok(object)
    }

    fn remember(&self, record: &Record, object: &Arc<Value>) {
        let revision = record.revision;
        let shared = &mut *self.0.lock().expect("no panic while it is held");
        let newer = |(present, _): &(u64, Weak<Value>)| *present > revision;
        if !shared.objects.get(&record.key).is_some_and(newer) {
            shared.objects.insert(record.key.clone(), (revision, Arc::downgrade(object)));
        }
        shared.hold(object, record.value.len());
        if shared.objects.len() > shared.sweep_at.max(256) {
            shared.objects.retain(|_, (_, object)| object.strong_count() > 0);
            shared.sweep_at = shared.objects.len() * 2;
        }
    }
}

impl Shared {
    /// Holds an object in the place of those that were decoded longest ago.
    fn hold(&mut self, object: &Arc<Value>, length: usize) {
        self.recent.push_back((object.clone(), length));
        self.recent_bytes += length;
        while self.recent_bytes > RECENT_BYTES
            && let Some((_, length)) = self.recent.pop_front()
        {
            self.recent_bytes -= length;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_resource_version_is_spliced_in_where_decoding_would_put_it() {
        let kind = Kind::namespaced("", "v1", "ConfigMap", "configmaps");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "data": {"metadata": "\"metadata\":{"}, "metadata": {"name": "x", "resourceVersion": "1"}});
        let stored = encode(&kind, &object).unwrap();
        assert!(!String::from_utf8_lossy(&stored).contains("resourceVersion"));
        let mut out = Vec::new();
        splice(&kind, &stored, 7, &mut out);
        let spliced: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(spliced, decode(&stored, 7).unwrap());
        assert_eq!(spliced["metadata"]["resourceVersion"], "7");
        assert_eq!(spliced["data"], object["data"]);
    }

    #[test]
    fn a_revision_is_decoded_once_while_it_is_held() {
        let cache = DecodeCache::default();
        let record = |revision| Record {
            key: "/x".into(),
            value: Bytes::from_static(b"{\"metadata\":{}}"),
            revision,
            create_revision: 1,
            version: 1,
        };
        let one = cache.decode(&record(3)).unwrap();
        assert!(Arc::ptr_eq(&one, &cache.decode(&record(3)).unwrap()));
        assert!(!Arc::ptr_eq(&one, &cache.decode(&record(4)).unwrap()));
    }

    #[test]
    fn what_is_held_unused_is_bounded_by_its_bytes() {
        let cache = DecodeCache::default();
        let value = Bytes::from(format!("{{\"metadata\":{{\"x\":{:?}}}}}", "x".repeat(100_000)));
        for number in 0..100 {
            let key = format!("/{number}").into();
            cache
                .decode(&Record { key, value: value.clone(), revision: 2, create_revision: 1, version: 1 })
                .unwrap();
        }
        let shared = cache.0.lock().unwrap();
        let held = shared.objects.values().filter(|(_, object)| object.strong_count() > 0).count();
        assert_eq!((held, shared.recent.len()), (10, 10));
    }
}
