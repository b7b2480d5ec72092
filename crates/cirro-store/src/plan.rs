//! What transactions would do: conditions evaluated and operations turned into changes, in order,
//! without touching the index.
//!
//! A writer plans a whole batch against one state of the index; each transaction sees what the
//! ones before it do.

use std::collections::HashMap;
use std::sync::Arc;

use crate::index::Index;
use crate::{Change, Condition, Operation, Record, StoreError};

/// What one transaction does.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Its revision; the newest one when it changes nothing.
    pub(crate) revision: u64,
    /// Its changes, in the order of its operations.
    pub(crate) changes: Vec<Change>,
    /// Damaged records that it overwrites or deletes.
    pub(crate) mended: Vec<Arc<str>>,
}

impl Plan {
    /// Whether anything is to be written.
    pub(crate) fn is_effective(&self) -> bool {
        !self.changes.is_empty() || !self.mended.is_empty()
    }
}

/// Plans transactions, one after another.
pub(crate) struct Planner<'a> {
    index: &'a Index,
    revision: u64,
    count: u64,
    /// What earlier plans left under the keys that they wrote; `None` for deleted.
    written: HashMap<Arc<str>, Option<Record>>,
}

impl<'a> Planner<'a> {
    /// Begins at the index's present state.
    pub(crate) fn new(index: &'a Index) -> Self {
        Self { index, revision: index.revision(), count: index.count(), written: HashMap::new() }
    }

    /// Plans a transaction.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] or [`StoreError::Damaged`] by a condition; later plans do not see it.
    pub(crate) fn plan(
        &mut self,
        conditions: &[Condition],
        operations: Vec<Operation>,
    ) -> Result<Plan, StoreError> {
        for condition in conditions {
            self.check(condition)?;
        }
        let mut plan = Plan {
            revision: self.revision + 1,
            changes: Vec::with_capacity(operations.len()),
            mended: Vec::new(),
        };
        for operation in operations {
            self.operate(operation, &mut plan);
        }
        if plan.is_effective() {
            self.revision = plan.revision;
        } else {
            plan.revision = self.revision;
        }
        Ok(plan)
    }

    /// Returns the last plan's revision, the number of records after it, and what all plans
    /// together leave under the keys that they wrote.
    pub(crate) fn finish(self) -> (u64, u64, HashMap<Arc<str>, Option<Record>>) {
        (self.revision, self.count, self.written)
    }

    fn check(&self, condition: &Condition) -> Result<(), StoreError> {
        let (key, wanted) = match condition {
            Condition::Absent(key) => (key, 0),
            Condition::Revision(key, revision) => (key, *revision),
        };
        let revision = self.look(key)?.map_or(0, |record| record.revision);
        if revision == wanted { Ok(()) } else { Err(StoreError::Conflict { key: key.clone(), revision }) }
    }

    fn look(&self, key: &str) -> Result<Option<&Record>, StoreError> {
        match self.written.get(key) {
            Some(record) => Ok(record.as_ref()),
            None => self.index.get(key),
        }
    }

    fn operate(&mut self, operation: Operation, plan: &mut Plan) {
        let (key, value) = match operation {
            Operation::Put(key, value) => (key, Some(value)),
            Operation::Delete(key) => (key, None),
        };
        // A damaged record is replaced or deleted like one that is not there.
        let (before, is_damaged) = match self.look(&key) {
            Ok(before) => (before.cloned(), false),
            Err(_) => (None, true),
        };
        if value.is_none() && before.is_none() && !is_damaged {
            return;
        }
        let key = before.as_ref().map_or_else(|| Arc::from(key), |record| record.key.clone());
        if is_damaged {
            plan.mended.push(key.clone());
        }
        let after = value.map(|value| Record {
            key: key.clone(),
            value,
            revision: plan.revision,
            create_revision: before.as_ref().map_or(plan.revision, |record| record.create_revision),
            version: before.as_ref().map_or(1, |record| record.version + 1),
        });
        self.count += u64::from(after.is_some());
        self.count -= u64::from(before.is_some() || is_damaged);
        self.written.insert(key, after.clone());
        match (after, before) {
            (Some(after), before) => plan.changes.push(Change::Put(after, before)),
            (None, Some(before)) => plan.changes.push(Change::Delete(plan.revision, before)),
            (None, None) => {}
        }
    }
}
