//! Adopting what fits a selector and has no controller; letting go of what no longer fits.

use std::sync::Arc;

use cirro_client::{Cache, controller_uid, key_of, labels, matches_labels, name, namespace, uid};
use cirro_seams::api::{Api, ApiError, Head, Resource};
use serde_json::{Value, json};

use crate::pods::is_deleting;

/// An owner with a selector.
pub(crate) struct Owner<'a> {
    /// The object.
    pub(crate) object: &'a Value,
    /// Its API version.
    pub(crate) api_version: &'a str,
    /// Its kind.
    pub(crate) kind: &'a str,
    /// Its resource.
    pub(crate) resource: Resource,
}

impl Owner<'_> {
    /// The reference that its dependents carry.
    pub(crate) fn reference(&self) -> Value {
        json!({"apiVersion": self.api_version, "kind": self.kind, "name": name(self.object), "uid": uid(self.object),
            "controller": true, "blockOwnerDeletion": true})
    }

    /// Returns the dependents of this owner in `cache` after adopting and letting go.
    pub(crate) async fn claim(
        &self,
        api: &dyn Api,
        resource: &Resource,
        cache: &Cache,
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        let selector = &self.object["spec"]["selector"];
        let mut claimed = Vec::new();
        let concerned = |candidate: &Head| match candidate.controller() {
            Some(owner) => owner == uid(self.object),
            None => matches_labels(selector, &candidate.labels()),
        };
        for candidate in cache.select(namespace(self.object), concerned) {
            let fits = matches_labels(selector, &labels(&candidate));
            match controller_uid(&candidate) {
                Some(owner) if owner == uid(self.object) && fits => claimed.push(candidate),
                Some(owner) if owner == uid(self.object) => self.let_go(api, resource, &candidate).await?,
                None if fits && !is_deleting(&candidate) && !is_deleting(self.object) => {
                    if !self.is_still_wanted(api).await? {
                        continue;
                    }
                    claimed.push(self.adopt(api, resource, &candidate).await?);
                }
                _ => {}
            }
        }
        Ok(claimed)
    }

    /// Asks the API itself: a cache that is behind would take back what an orphaning deletion lets go.
    async fn is_still_wanted(&self, api: &dyn Api) -> Result<bool, ApiError> {
        match api.get(&key_of(&self.resource, self.object)).await {
            Ok(newest) => Ok(uid(&newest) == uid(self.object) && !is_deleting(&newest)),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn adopt(
        &self,
        api: &dyn Api,
        resource: &Resource,
        orphan: &Value,
    ) -> Result<Arc<Value>, ApiError> {
        let mut owners = owner_references(orphan);
        owners.push(self.reference());
        let patch = json!({"metadata": {"uid": uid(orphan), "ownerReferences": owners}});
        api.merge_patch(&key_of(resource, orphan), false, patch).await
    }

    async fn let_go(&self, api: &dyn Api, resource: &Resource, dependent: &Value) -> Result<(), ApiError> {
        let mut owners = owner_references(dependent);
        owners.retain(|owner| owner["uid"].as_str() != Some(uid(self.object)));
        let patch = json!({"metadata": {"uid": uid(dependent), "ownerReferences": owners}});
        match api.merge_patch(&key_of(resource, dependent), false, patch).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Returns what may have a say about a dependent: its controller, or, when it has none, whoever selects it.
pub(crate) fn owners_of(owners: &Cache, dependent: &Head) -> Vec<Arc<Value>> {
    match dependent.controller() {
        Some(uid) => {
            let found = owners.by_uid(uid).filter(|found| namespace(found) == &*dependent.namespace);
            found.into_iter().collect()
        }
        None => {
            let mut found = owners.in_namespace(&dependent.namespace);
            found.retain(|owner| matches_labels(&owner["spec"]["selector"], &dependent.labels()));
            found
        }
    }
}

/// Returns an object's owner references.
pub(crate) fn owner_references(object: &Value) -> Vec<Value> {
    object.pointer("/metadata/ownerReferences").and_then(Value::as_array).cloned().unwrap_or_default()
}
