//! EndpointSlices of a controller: written where they differ, deleted where they are no longer wanted.

use std::sync::Arc;

use cirro_client::{Cache, key_of, labels, name, uid};
use cirro_seams::api::{Api, ApiError, DeleteOptions, ObjectKey, Resource};
use serde_json::Value;

/// Says whose backends a slice has.
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Says who writes a slice.
pub(crate) const MANAGED_LABEL: &str = "endpointslice.kubernetes.io/managed-by";

/// What a manager writes: `parts` are JSON pointers to what is its own in a slice.
pub(crate) struct Writer<'a> {
    pub(crate) api: &'a dyn Api,
    pub(crate) slices: &'a Cache,
    pub(crate) manager: &'a str,
    pub(crate) parts: &'a [&'a str],
}

impl Writer<'_> {
    /// Makes the slices of a service the wanted ones.
    pub(crate) async fn write(&self, of: &str, service: &str, wanted: &[Value]) -> Result<(), ApiError> {
        let resource = Resource::new("discovery.k8s.io", "endpointslices");
        let mut present = self.slices.in_namespace(of);
        present.retain(|slice| self.is_ours(slice, service));
        for slice in wanted {
            match present.iter().find(|existing| name(existing) == name(slice)) {
                Some(existing) if same(existing, slice, self.parts) => {}
                Some(existing) => {
                    let mut updated = (**existing).clone();
                    self.parts.iter().for_each(|part| take_over(&mut updated, slice, part));
                    self.api.update(&resource, updated).await?;
                }
                None => drop(self.api.create(&resource, slice.clone()).await?),
            }
        }
        for slice in present.iter().filter(|slice| !wanted.iter().any(|one| name(one) == name(slice))) {
            delete(self.api, &key_of(&resource, slice), uid(slice)).await?;
        }
        Ok(())
    }

    fn is_ours(&self, slice: &Arc<Value>, service: &str) -> bool {
        let labels = labels(slice);
        labels.get(SERVICE_LABEL) == Some(&service) && labels.get(MANAGED_LABEL) == Some(&self.manager)
    }
}

/// Deletes an object that is still the one that was seen.
pub(crate) async fn delete(api: &dyn Api, key: &ObjectKey, uid: &str) -> Result<(), ApiError> {
    let options = DeleteOptions { uid: Some(uid.to_owned()), ..DeleteOptions::default() };
    match api.delete(key, options).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Whether parts are alike; absent, null and empty lists are the same.
pub(crate) fn same(one: &Value, other: &Value, parts: &[&str]) -> bool {
    let part = |value: &Value, path: &str| {
        let found = value.pointer(path).filter(|found| !found.is_null());
        found.filter(|found| !found.as_array().is_some_and(Vec::is_empty)).cloned()
    };
    parts.iter().all(|path| part(one, path) == part(other, path))
}

/// Gives a part the value that it has in another object.
fn take_over(object: &mut Value, from: &Value, part: &str) {
    let Some((parent, member)) = part.rsplit_once('/') else { return };
    if let Some(parent) = object.pointer_mut(parent) {
        parent[member] = from.pointer(part).cloned().unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_are_compared_and_taken_over() {
        let parts = ["/endpoints", "/metadata/labels"];
        let wanted = json!({"metadata": {"labels": {"a": "b"}}, "endpoints": []});
        let mut present = json!({"metadata": {"uid": "u"}, "endpoints": null, "ports": [1]});
        assert!(!same(&present, &wanted, &parts) && same(&present, &wanted, &parts[..1]));
        parts.iter().for_each(|part| take_over(&mut present, &wanted, part));
        assert_eq!(
            present,
            json!({"metadata": {"uid": "u", "labels": {"a": "b"}}, "endpoints": [], "ports": [1]})
        );
    }
}
