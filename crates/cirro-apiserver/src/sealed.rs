//! Secrets at rest: a store whose secrets are encrypted before they reach the disk.
//!
//! Values under the prefix of secrets are sealed with AES-256-GCM by a key in the data directory, bound to
//! their own key in the store so that one cannot be put in another's place. Secrets from before are
//! sealed at the next start.
//!
//! The file of keys has one in each line. The first seals, all open: a new key is put before the others, the next start
//! seals every secret with it, and then the old ones may be taken out.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cirro_seams::Pending;
use cirro_store::{Change, Condition, Listing, ObjectStore, Operation, Record, StoreError, WatchItem};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::mpsc;

use crate::pki::{self, PkiError};

const PREFIX: &str = "/registry/core/secrets/";
const MARK: &[u8] = b"cirro:aesgcm:v1:";
const KEY_FILE: &str = "secrets.key";
/// Most keys in the file: each is tried on what the ones before it did not seal.
const MAX_KEYS: usize = 16;
/// Changes that wait for a reader before the store's own limit begins to count.
const WATCH_BUFFER: usize = 64;

/// A store that seals secrets.
pub(crate) struct SealedStore {
    store: Arc<dyn ObjectStore>,
    seal: Arc<Seal>,
}

/// The keys; the first one seals.
struct Seal(Vec<LessSafeKey>);

impl SealedStore {
    /// Opens the key in `directory`, or makes it (mode 0600). Blocks.
    pub(crate) fn open(store: Arc<dyn ObjectStore>, directory: &Path) -> Result<Self, PkiError> {
        let path = directory.join(KEY_FILE);
        let text = match pki::read(&path)? {
            Some(text) => text,
            None => {
                let mut key = [0; 32];
                SystemRandom::new().fill(&mut key).expect("the kernel gives random bytes");
                let text = STANDARD.encode(key);
                pki::write(&path, &text, 0o600)?;
                text
            }
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Option<Vec<_>> = lines.map(key).collect();
        let keys = keys.filter(|keys| (1..=MAX_KEYS).contains(&keys.len()));
        let keys = keys.ok_or_else(|| {
            PkiError::Tls(format!(
                "`{}` is not one to {MAX_KEYS} keys of 32 bytes, each in a line",
                path.display()
            ))
        })?;
        Ok(Self { store, seal: Arc::new(Seal(keys)) })
    }

    /// Seals the secrets that are not, and anew those that the first key has not sealed. One that no key opens is left
    /// as it is: it is damaged for who reads it, not for the others.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn seal_all(&self) -> Result<(), StoreError> {
        for record in self.store.list(PREFIX, None, 0, 0).await?.records {
            let value = match self.seal.open_by(&record.key, record.value) {
                Ok((_, Some(0))) => continue,
                Ok((value, _)) => value,
                Err(why) => {
                    tracing::error!(%why, "no key opens a secret");
                    continue;
                }
            };
            let key = record.key.to_string();
            let operations = vec![Operation::Put(key.clone(), value)];
            match self.commit(vec![Condition::Revision(key, record.revision)], operations).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(source) => return Err(source),
            }
        }
        Ok(())
    }
}

impl Seal {
    fn seal(&self, key: &str, value: &[u8]) -> Bytes {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).expect("the kernel gives random bytes");
        let mut body = value.to_vec();
        let aad = Aad::from(key.as_bytes());
        self.0[0]
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body)
            .expect("objects are far below the limit of GCM");
        [MARK, nonce.as_slice(), &body].concat().into()
    }

    fn open(&self, key: &str, value: Bytes) -> Result<Bytes, StoreError> {
        Ok(self.open_by(key, value)?.0)
    }

    /// Opens a value; returns the place of the key that did, `None` when it was not sealed.
    fn open_by(&self, key: &str, value: Bytes) -> Result<(Bytes, Option<usize>), StoreError> {
        let Some(rest) = value.strip_prefix(MARK) else { return Ok((value, None)) };
        let damaged = || StoreError::Damaged(key.to_owned());
        let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or_else(damaged)?;
        let attempt = |one: &LessSafeKey| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut body = body.to_vec();
            let length = one.open_in_place(nonce, Aad::from(key.as_bytes()), &mut body).ok()?.len();
            body.truncate(length);
            Some(Bytes::from(body))
        };
        let opened = self.0.iter().enumerate().find_map(|(at, one)| Some((attempt(one)?, Some(at))));
        opened.ok_or_else(damaged)
    }

    fn record(&self, record: Record) -> Result<Record, StoreError> {
        if !record.key.starts_with(PREFIX) {
            return Ok(record);
        }
        let value = self.open(&record.key, record.value)?;
        Ok(Record { value, ..record })
    }

    fn change(&self, change: &Change) -> Result<Change, StoreError> {
        Ok(match change {
            Change::Put(record, before) => Change::Put(
                self.record(record.clone())?,
                before.clone().map(|before| self.record(before)).transpose()?,
            ),
            Change::Delete(revision, last) => Change::Delete(*revision, self.record(last.clone())?),
        })
    }

    fn item(&self, item: WatchItem) -> WatchItem {
        let WatchItem::Changes(revision, changes) = item else { return item };
        let opened: Result<Arc<[Change]>, _> = changes.iter().map(|change| self.change(change)).collect();
        match opened {
            Ok(changes) => WatchItem::Changes(revision, changes),
            Err(why) => {
                tracing::error!(%why, "a secret cannot be opened; its watchers list again");
                WatchItem::Lost
            }
        }
    }
}

impl ObjectStore for SealedStore {
    fn get(&self, key: &str) -> Pending<'_, Result<Option<Record>, StoreError>> {
        let found = self.store.get(key);
        Box::pin(async move { found.await?.map(|record| self.seal.record(record)).transpose() })
    }

    fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        revision: u64,
    ) -> Pending<'_, Result<Listing, StoreError>> {
        let listing = self.store.list(prefix, start_after, limit, revision);
        let concerned = overlaps(prefix);
        Box::pin(async move {
            let mut listing = listing.await?;
            if concerned {
                let records = listing.records.into_iter().map(|record| self.seal.record(record));
                listing.records = records.collect::<Result<_, _>>()?;
            }
            Ok(listing)
        })
    }

    fn commit(
        &self,
        conditions: Vec<Condition>,
        operations: Vec<Operation>,
    ) -> Pending<'_, Result<u64, StoreError>> {
        let sealed = operations.into_iter().map(|operation| match operation {
            Operation::Put(key, value) if key.starts_with(PREFIX) => {
                let value = self.seal.seal(&key, &value);
                Operation::Put(key, value)
            }
            other => other,
        });
        self.store.commit(conditions, sealed.collect())
    }

    fn watch(
        &self,
        prefix: &str,
        revision: u64,
    ) -> Pending<'_, Result<mpsc::Receiver<WatchItem>, StoreError>> {
        let watch = self.store.watch(prefix, revision);
        if !overlaps(prefix) {
            return watch;
        }
        let seal = self.seal.clone();
        Box::pin(async move {
            let mut items = watch.await?;
            let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
            tokio::spawn(async move {
                loop {
                    let item = tokio::select! {
                        item = items.recv() => item,
                        () = sender.closed() => return,
                    };
                    let Some(item) = item.map(|item| seal.item(item)) else { return };
                    let last = matches!(item, WatchItem::Lost);
                    if sender.send(item).await.is_err() || last {
                        return;
                    }
                }
            });
            Ok(receiver)
        })
    }

    fn revision(&self) -> u64 {
        self.store.revision()
    }

    fn newest_revision(&self) -> Pending<'_, Result<u64, StoreError>> {
        self.store.newest_revision()
    }

    fn compact(&self, revision: u64) -> Pending<'_, Result<(), StoreError>> {
        self.store.compact(revision)
    }
}

/// Reads a line of the file.
fn key(line: &str) -> Option<LessSafeKey> {
    let bytes = STANDARD.decode(line).ok()?;
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).ok()?))
}

/// Whether a prefix may have secrets under it.
fn overlaps(prefix: &str) -> bool {
    prefix.starts_with(PREFIX) || PREFIX.starts_with(prefix)
}

#[cfg(test)]
mod tests {
    use cirro_store::MemoryObjectStore;

    use super::*;

    async fn put(store: &dyn ObjectStore, key: &str, value: &'static str) -> u64 {
        store.commit(Vec::new(), vec![Operation::Put(key.into(), value.into())]).await.unwrap()
    }

    #[tokio::test]
    async fn a_new_first_key_seals_everything_anew_and_the_old_one_may_go() {
        let (below, directory) = (Arc::new(MemoryObjectStore::new()), tempfile::tempdir().unwrap());
        let (path, secret) = (directory.path().join(KEY_FILE), "/registry/core/secrets/a/b");
        let store = SealedStore::open(below.clone(), directory.path()).unwrap();
        put(&store, secret, "hidden").await;
        let old = std::fs::read_to_string(&path).unwrap();
        let new = STANDARD.encode([7; 32]);
        std::fs::write(&path, format!("{new}\n{old}\n")).unwrap();
        let store = SealedStore::open(below.clone(), directory.path()).unwrap();
        assert_eq!(store.get(secret).await.unwrap().unwrap().value, "hidden", "all keys open");
        store.seal_all().await.unwrap();
        let revision = below.revision();
        store.seal_all().await.unwrap();
        assert_eq!(below.revision(), revision, "what the first key has sealed is left alone");
        std::fs::write(&path, &new).unwrap();
        let store = SealedStore::open(below.clone(), directory.path()).unwrap();
        assert_eq!(store.get(secret).await.unwrap().unwrap().value, "hidden");
        std::fs::write(&path, &old).unwrap();
        let store = SealedStore::open(below.clone(), directory.path()).unwrap();
        assert!(
            matches!(store.get(secret).await, Err(StoreError::Damaged(_))),
            "the old key opens nothing now"
        );
        store.seal_all().await.unwrap();
        for wrong in ["", "short", &[new.as_str(), "x"].join("\n")] {
            std::fs::write(&path, wrong).unwrap();
            assert!(SealedStore::open(below.clone(), directory.path()).is_err(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn secrets_are_sealed_below_and_open_above() {
        let (below, directory) = (Arc::new(MemoryObjectStore::new()), tempfile::tempdir().unwrap());
        let (secret, other) = ("/registry/core/secrets/a/b", "/registry/core/configmaps/a/b");
        put(below.as_ref(), "/registry/core/secrets/a/old", "from before").await;
        let store = SealedStore::open(below.clone(), directory.path()).unwrap();
        store.seal_all().await.unwrap();
        let mut watch = store.watch(PREFIX, below.revision()).await.unwrap();
        put(&store, secret, "hidden").await;
        put(&store, other, "plain").await;
        let stored = |key: &str| below.get(key);
        for key in [secret, "/registry/core/secrets/a/old"] {
            assert!(stored(key).await.unwrap().unwrap().value.starts_with(MARK), "{key}");
        }
        assert_eq!(stored(other).await.unwrap().unwrap().value, "plain");
        assert_eq!(store.get(secret).await.unwrap().unwrap().value, "hidden");
        let listing = store.list("/registry/", None, 0, 0).await.unwrap();
        let values: Vec<_> = listing.records.iter().map(|record| record.value.clone()).collect();
        assert_eq!(values, ["plain", "hidden", "from before"]);
        let Some(WatchItem::Changes(_, changes)) = watch.recv().await else { panic!("no change") };
        let Change::Put(record, None) = &changes[0] else { panic!("{changes:?}") };
        assert_eq!(record.value, "hidden");
        // Another start has the same key; another key opens nothing.
        let again = SealedStore::open(below.clone(), directory.path()).unwrap();
        assert_eq!(again.get(secret).await.unwrap().unwrap().value, "hidden");
        let foreign = SealedStore::open(below.clone(), tempfile::tempdir().unwrap().path()).unwrap();
        assert!(matches!(foreign.get(secret).await, Err(StoreError::Damaged(_))));
        // What was sealed for one key is nothing under another.
        let moved = stored(secret).await.unwrap().unwrap().value;
        below
            .commit(Vec::new(), vec![Operation::Put("/registry/core/secrets/a/c".into(), moved)])
            .await
            .unwrap();
        assert!(matches!(store.get("/registry/core/secrets/a/c").await, Err(StoreError::Damaged(_))));
    }
}
