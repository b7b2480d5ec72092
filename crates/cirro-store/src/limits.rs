//! Etcd's limits, held by every store so that etcd can take its place.

use std::collections::HashSet;

use crate::{Condition, Operation, StoreError};

/// Longest key, in bytes. Etcd has no bound of its own; no key of the API comes near this one.
pub const MAX_KEY_BYTES: usize = 2048;
/// Largest value, and largest sum of the values of a transaction (etcd's `--max-request-bytes`).
pub const MAX_VALUE_BYTES: usize = 3 * 512 * 1024;
/// Largest value of a [`crate::NodeDb`], which etcd never holds.
pub const MAX_NODE_VALUE_BYTES: usize = 16 * 1024 * 1024;
/// Most operations, and most conditions, of a transaction (etcd's `--max-txn-ops`).
pub const MAX_OPERATIONS: usize = 128;

/// Checks a transaction before anything is done about it.
pub(crate) fn check_transaction(
    conditions: &[Condition],
    operations: &[Operation],
) -> Result<(), StoreError> {
    check_count(conditions.len(), "conditions")?;
    check_count(operations.len(), "operations")?;
    for condition in conditions {
        let (Condition::Absent(key) | Condition::Revision(key, _)) = condition;
        check_key(key)?;
    }
    let mut written = HashSet::new();
    let mut bytes = 0;
    for operation in operations {
        let (key, size) = match operation {
            Operation::Put(key, value) => (key, value.len()),
            Operation::Delete(key) => (key, 0),
        };
        check_key(key)?;
        if !written.insert(key) {
            return Err(StoreError::Invalid(format!("transaction writes key `{key}` twice")));
        }
        bytes += size;
        if bytes > MAX_VALUE_BYTES {
            return Err(StoreError::TooLarge(format!(
                "values up to that of `{key}` have {bytes} bytes, more than {MAX_VALUE_BYTES}"
            )));
        }
    }
    Ok(())
}

/// Checks a key's length.
pub(crate) fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::Invalid("key is empty".into()));
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(StoreError::TooLarge(format!(
            "key of {} bytes is longer than {MAX_KEY_BYTES} bytes",
            key.len()
        )));
    }
    Ok(())
}

/// Checks the keys and values of a write to a [`crate::NodeDb`].
pub(crate) fn check_writes(writes: &[(&str, &str, Option<&[u8]>)]) -> Result<(), StoreError> {
    for (table, key, value) in writes {
        check_key(table)?;
        check_key(key)?;
        let bytes = value.map_or(0, <[u8]>::len);
        if bytes > MAX_NODE_VALUE_BYTES {
            return Err(StoreError::TooLarge(format!(
                "value of `{key}` has {bytes} bytes, more than {MAX_NODE_VALUE_BYTES}"
            )));
        }
    }
    Ok(())
}

fn check_count(count: usize, what: &str) -> Result<(), StoreError> {
    if count > MAX_OPERATIONS {
        return Err(StoreError::TooLarge(format!("{count} {what} are more than {MAX_OPERATIONS}")));
    }
    Ok(())
}
