//! Tables of the host's records: rows that are read as types, changes that are written at once.

use std::str::FromStr;
use std::sync::Arc;

use cirro_store::{NodeDb, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ImageError;

/// The records.
#[derive(Clone)]
pub(crate) struct Tables(pub(crate) Arc<dyn NodeDb>);

/// Changes that are written at once.
#[derive(Default)]
pub(crate) struct Changes(Vec<(&'static str, String, Option<Vec<u8>>)>);

impl Changes {
    /// Writes a record.
    pub(crate) fn put(&mut self, table: &'static str, key: String, record: &impl Serialize) {
        let bytes = serde_json::to_vec(record).expect("records have string keys");
        self.set(table, key, Some(bytes));
    }

    /// Writes bytes, or deletes a row.
    pub(crate) fn set(&mut self, table: &'static str, key: String, bytes: Option<Vec<u8>>) {
        self.0.push((table, key, bytes));
    }

    /// Deletes a row.
    pub(crate) fn delete(&mut self, table: &'static str, key: String) {
        self.set(table, key, None);
    }

    /// Whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Tables {
    /// Writes all changes, or none.
    pub(crate) fn write(&self, changes: &Changes) -> Result<(), StoreError> {
        let rows: Vec<_> =
            changes.0.iter().map(|(table, key, value)| (*table, key.as_str(), value.as_deref())).collect();
        self.0.write(&rows)
    }

    /// Reads a row's bytes.
    pub(crate) fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(table, key)
    }

    /// Reads the rows whose keys begin with `prefix`.
    pub(crate) fn scan(&self, table: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.0.scan(table, prefix)
    }
}

/// Reads a record.
pub(crate) fn parse<T: DeserializeOwned>(table: &str, key: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ImageError::Invalid(format!("the record `{table}/{key}` is damaged: {error}")))
}

/// Reads a part of a key.
pub(crate) fn part<T: FromStr>(table: &str, key: &str) -> Result<T, ImageError> {
    key.parse()
        .map_err(|_| ImageError::Invalid(format!("the record `{table}/{key}` is damaged: so is its key")))
}
