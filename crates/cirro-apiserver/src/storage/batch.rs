//! Many new objects in few transactions.

use super::*;

/// Objects in one transaction; the store takes 128 operations.
const CHUNK: usize = 100;

impl Storage {
    /// Creates objects of the server itself; those that exist by now are left alone.
    ///
    /// # Errors
    /// When the store fails or an object is not good.
    pub(crate) async fn create_many(&self, objects: Vec<(Arc<Kind>, String, Value)>) -> Result<(), ApiError> {
        for chunk in objects.chunks(CHUNK) {
            let (mut conditions, mut operations) = (Vec::new(), Vec::new());
            for (kind, namespace, object) in chunk {
                let mut object = begin_creation(kind, namespace, object.clone(), Tracking::Difference)?;
                let (claims, value) = self.complete_creation(kind, &mut object).await?;
                let keys =
                    claims.into_iter().map(|claim| (claim, kind.key(namespace, json::name(&object)).into()));
                let own = (kind.key(namespace, json::name(&object)), value);
                for (key, value) in keys.chain([own]) {
                    conditions.push(Condition::Absent(key.clone()));
                    operations.push(Operation::Put(key, value));
                }
            }
            match self.store.commit(conditions, operations).await {
                Ok(_) => {}
                Err(StoreError::Conflict { .. }) => self.create_each(chunk).await?,
                Err(source) => return Err(self.translate(source)),
            }
        }
        Ok(())
    }

    async fn create_each(&self, objects: &[(Arc<Kind>, String, Value)]) -> Result<(), ApiError> {
        for (kind, namespace, object) in objects {
            match self.create(kind, namespace, object.clone(), false).await {
                Err(refusal) if !refusal.is_already_exists() => return Err(refusal),
                _ => {}
            }
        }
        Ok(())
    }
}
