//! The index behind a lock: what reading and watching is in every store.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::index::Index;
use crate::{Listing, Record, StoreError};

/// An index that readers share and one writer changes.
pub(crate) struct Shared(RwLock<Index>);

impl Shared {
    pub(crate) fn new(index: Index) -> Self {
        Self(RwLock::new(index))
    }

    /// Locks for reading. A panic elsewhere leaves the index readable.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks for writing.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        Ok(self.read().get(key)?.cloned())
    }

    pub(crate) fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        revision: u64,
    ) -> Result<Listing, StoreError> {
        self.read().list(prefix, start_after, limit, revision)
    }
}
