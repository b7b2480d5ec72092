//! Keeps the policy in memory like the store.

use std::sync::Arc;

use cirro_seams::api::ApiError;
use cirro_store::{Change, ObjectStore, Record, StoreError, WatchItem};
use serde::Deserialize;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{Mutex, mpsc};

use super::{Binding, Policy, Rule};
use crate::error;

const PREFIX: &str = "/registry/rbac.authorization.k8s.io/";

/// The policy of a store.
pub(crate) struct Rbac {
    store: Arc<dyn ObjectStore>,
    followed: Mutex<Option<Followed>>,
}

struct Followed {
    policy: Arc<Policy>,
    changes: mpsc::Receiver<WatchItem>,
}

impl Rbac {
    /// Follows a store from the first question on.
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, followed: Mutex::new(None) }
    }

    /// Returns the policy as of now.
    pub(crate) async fn policy(&self) -> Result<Arc<Policy>, ApiError> {
        let mut followed = self.followed.lock().await;
        if let Some(present) = followed.as_mut()
            && present.catch_up()
        {
            return Ok(present.policy.clone());
        }
        *followed = None;
        let loaded = self.load().await.map_err(|source| error::store(source, self.store.revision()))?;
        Ok(followed.insert(loaded).policy.clone())
    }

    async fn load(&self) -> Result<Followed, StoreError> {
        let listing = self.store.list(PREFIX, None, 0, 0).await?;
        let mut policy = Policy::default();
        listing.records.iter().for_each(|record| policy.put(record));
        let changes = self.store.watch(PREFIX, listing.revision).await?;
        Ok(Followed { policy: Arc::new(policy), changes })
    }
}

impl Followed {
    /// Applies what happened; `false` when the watch was lost.
    fn catch_up(&mut self) -> bool {
        loop {
            match self.changes.try_recv() {
                Ok(WatchItem::Changes(_, changes)) => {
                    let policy = Arc::make_mut(&mut self.policy);
                    changes.iter().for_each(|change| policy.apply(change));
                }
                Ok(WatchItem::Progress(_)) => {}
                Err(TryRecvError::Empty) => return true,
                Ok(WatchItem::Lost) | Err(TryRecvError::Disconnected) => return false,
            }
        }
    }
}

/// Where a record belongs.
enum Entry<'a> {
    Role { namespace: &'a str, name: &'a str },
    Binding { namespace: &'a str, name: &'a str },
}

impl<'a> Entry<'a> {
    fn of(key: &'a str) -> Option<Self> {
        let (plural, rest) = key.strip_prefix(PREFIX)?.split_once('/')?;
        let scoped = rest.split_once('/');
        match (plural, scoped) {
            ("clusterroles", _) => Some(Self::Role { namespace: "", name: rest }),
            ("clusterrolebindings", _) => Some(Self::Binding { namespace: "", name: rest }),
            ("roles", Some((namespace, name))) => Some(Self::Role { namespace, name }),
            ("rolebindings", Some((namespace, name))) => Some(Self::Binding { namespace, name }),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Role {
    #[serde(default)]
    rules: Option<Vec<Rule>>,
}

impl Policy {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(record, _) => self.put(record),
            Change::Delete(_, record) => self.remove(&record.key),
        }
    }

    /// Takes in a record; one that cannot be read grants nothing.
    fn put(&mut self, record: &Record) {
        let entered = match Entry::of(&record.key) {
            Some(Entry::Role { namespace, name }) => {
                serde_json::from_slice::<Role>(&record.value).map(|role| {
                    let roles = self.roles.entry(namespace.into()).or_default();
                    roles.insert(name.into(), role.rules.unwrap_or_default().into());
                })
            }
            Some(Entry::Binding { namespace, name }) => {
                serde_json::from_slice::<Binding>(&record.value).map(|binding| {
                    let bindings = self.bindings.entry(namespace.into()).or_default();
                    bindings.insert(name.into(), Arc::new(binding));
                })
            }
            None => Ok(()),
        };
        if let Err(why) = entered {
            tracing::error!(key = %record.key, %why, "an unreadable role or binding grants nothing");
            self.remove(&record.key);
        }
    }

    fn remove(&mut self, key: &str) {
        match Entry::of(key) {
            Some(Entry::Role { namespace, name }) => {
                if let Some(roles) = self.roles.get_mut(namespace) {
                    roles.remove(name);
                }
            }
            Some(Entry::Binding { namespace, name }) => {
                if let Some(bindings) = self.bindings.get_mut(namespace) {
                    bindings.remove(name);
                }
            }
            None => {}
        }
    }
}
