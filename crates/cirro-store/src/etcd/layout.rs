//! Where a cloud's objects lie in etcd, and how its revisions are counted.
//!
//! ```text
//! <prefix>/objects<key>   the objects
//! <prefix>/meta           how revisions are counted, and whether a move into this etcd has ended
//! ```
//! A store that takes another's place goes on above that one's revisions: ours are etcd's plus an offset that is
//! written once, when the store is made.

use std::sync::Arc;

use bytes::Bytes;
use cirro_grpc::Status;

use super::client::Client;
use super::messages::*;
use crate::{Record, StoreError};

const META: &str = "/meta";
const OBJECTS: &str = "/objects";

/// The key before all keys, and with it as the end of a range: all of them.
pub(super) const ALL: &[u8] = b"\0";

/// How a store lies in etcd.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// What goes before the keys of objects.
    objects: Arc<str>,
    offset: i64,
}

/// What is written under `<prefix>/meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    /// Added to etcd's revisions.
    pub(super) offset: i64,
    /// Whether objects are still being moved in.
    pub(super) filling: bool,
}

impl Meta {
    fn to_text(self) -> String {
        format!("cirro 1 {} {}", self.offset, if self.filling { "filling" } else { "ready" })
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let known = words.next() == Some("cirro") && words.next() == Some("1");
        let offset = words.next()?.parse().ok()?;
        let filling = match words.next()? {
            "filling" => true,
            "ready" => false,
            _ => return None,
        };
        (known && words.next().is_none()).then_some(Self { offset, filling })
    }
}

fn meta_key(prefix: &str) -> Bytes {
    format!("{prefix}{META}").into()
}

/// Reads what is said about the store under `prefix`, with etcd's revision of that word (0: none) and etcd's newest.
pub(super) async fn load_meta(client: &Client, prefix: &str) -> Result<(Option<Meta>, i64, i64), StoreError> {
    let request = RangeRequest { key: meta_key(prefix), ..RangeRequest::default() };
    let answer: RangeResponse = client.call("/etcdserverpb.KV/Range", &request).await?;
    let newest = answer.header.unwrap_or_default().revision;
    let Some(found) = answer.kvs.first() else { return Ok((None, 0, newest)) };
    let meta = std::str::from_utf8(&found.value).ok().and_then(Meta::from_text);
    let meta = meta.ok_or_else(|| {
        StoreError::Io(format!("etcd: `{prefix}{META}` is not of this version of cirro, or not of cirro"))
    })?;
    Ok((Some(meta), found.mod_revision, newest))
}

/// Writes what is said about the store, if it is still at the revision that was seen; returns whether it was.
pub(super) async fn write_meta(
    client: &Client,
    prefix: &str,
    meta: Meta,
    seen: i64,
) -> Result<bool, StoreError> {
    let key = meta_key(prefix);
    let put = PutRequest { key: key.clone(), value: meta.to_text().into() };
    let request = TxnRequest {
        compare: vec![at_revision(key, seen)],
        success: vec![Request::Put(put).into()],
        failure: Vec::new(),
    };
    let answer: TxnResponse = client.call("/etcdserverpb.KV/Txn", &request).await?;
    Ok(answer.succeeded)
}

/// That the last write of a key has this revision of etcd (0: no such key).
pub(super) fn at_revision(key: Bytes, revision: i64) -> Compare {
    Compare { result: 0, target: 2, key, mod_revision: Some(revision) }
}

impl Layout {
    pub(super) fn new(prefix: &str, offset: i64) -> Self {
        Self { objects: format!("{prefix}{OBJECTS}").into(), offset }
    }

    /// The key of an object.
    pub(super) fn key(&self, key: &str) -> Bytes {
        format!("{}{key}", self.objects).into()
    }

    /// The object that has this key, if it is one of ours.
    pub(super) fn object<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        let rest = key.strip_prefix(self.objects.as_bytes())?;
        std::str::from_utf8(rest).ok()
    }

    /// First key and end of all objects.
    pub(super) fn range(&self) -> (Bytes, Bytes) {
        let mut end = self.objects.as_bytes().to_vec();
        *end.last_mut().expect("the prefix is not empty") += 1;
        (self.objects.to_string().into(), end.into())
    }

    /// Our revision for one of etcd's.
    pub(super) fn revision(&self, etcds: i64) -> u64 {
        u64::try_from(etcds.saturating_add(self.offset)).unwrap_or(0)
    }

    /// Etcd's revision for one of ours; none is below 0.
    pub(super) fn etcds(&self, revision: u64) -> i64 {
        i64::try_from(revision).unwrap_or(i64::MAX).saturating_sub(self.offset).max(0)
    }

    /// The record of what etcd has under the key of one of our objects.
    pub(super) fn record(&self, found: &KeyValue) -> Option<Record> {
        Some(Record {
            key: Arc::from(self.object(&found.key)?),
            // Copied: the message that it came in is much larger, and would live as long.
            value: Bytes::copy_from_slice(&found.value),
            revision: self.revision(found.mod_revision),
            create_revision: self.revision(found.create_revision),
            version: u64::try_from(found.version).unwrap_or(0),
        })
    }
}

/// The newest revision of etcd, of the whole cluster.
pub(super) async fn newest(client: &Client) -> Result<i64, Status> {
    let request =
        RangeRequest { key: Bytes::from_static(ALL), limit: 1, count_only: true, ..RangeRequest::default() };
    let answer: RangeResponse = client.call("/etcdserverpb.KV/Range", &request).await?;
    Ok(answer.header.unwrap_or_default().revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_about_a_store_is_read_again() {
        for meta in [Meta { offset: -7, filling: true }, Meta { offset: 1 << 40, filling: false }] {
            assert_eq!(Meta::from_text(&meta.to_text()), Some(meta));
        }
        for text in ["", "cirro 1 7", "cirro 2 7 ready", "cirro 1 7 ready more", "cirro 1 x ready"] {
            assert_eq!(Meta::from_text(text), None, "{text}");
        }
    }

    #[test]
    fn revisions_and_keys_are_translated_both_ways() {
        let layout = Layout::new("/cirro", 1000);
        assert_eq!((layout.revision(5), layout.etcds(1005), layout.etcds(3)), (1005, 5, 0));
        assert_eq!(layout.key("/registry/x"), "/cirro/objects/registry/x");
        assert_eq!(layout.object(b"/cirro/objects/registry/x"), Some("/registry/x"));
        assert_eq!(layout.object(b"/cirro/meta"), None);
        let (first, end) = layout.range();
        assert!(first <= layout.key("") && layout.key("\u{10ffff}") < end && layout.key("") < end);
    }
}
