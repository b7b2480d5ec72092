//! Claims and volumes get the finalizer that keeps them while they are in use.
//!
//! Source: kubernetes `plugin/pkg/admission/storage/storageobjectinuseprotection`.

use serde_json::Value;

use crate::json;

/// Gives a new object its finalizer.
pub(super) fn admit(plural: &str, object: &mut Value) {
    let finalizer = match plural {
        "persistentvolumes" => "kubernetes.io/pv-protection",
        _ => "kubernetes.io/pvc-protection",
    };
    let mut finalizers = json::array(object, "metadata.finalizers").to_vec();
    if !finalizers.iter().any(|one| one == finalizer) {
        finalizers.push(finalizer.into());
        object["metadata"]["finalizers"] = finalizers.into();
    }
}
