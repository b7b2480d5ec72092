//! coordination.k8s.io/v1.

use serde_json::Value;

use crate::error::Causes;
use crate::json;
use crate::registry::{Kind, Strategy};

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::namespaced("coordination.k8s.io", "v1", "Lease", "leases")
            .schema("io.k8s.api.coordination.v1.Lease")
            .columns(crate::table::discovery::lease())
            .strategy(&Lease),
    ]
}

struct Lease;

impl Strategy for Lease {
    fn validate(&self, object: &Value, causes: &mut Causes) {
        let field = "spec.leaseDurationSeconds";
        if let Some(seconds) = json::number(object, field).filter(|seconds| *seconds <= 0) {
            causes.invalid(field, &seconds.into(), "must be greater than 0");
        }
        if let Some(count) = json::number(object, "spec.leaseTransitions").filter(|count| *count < 0) {
            causes.invalid("spec.leaseTransitions", &count.into(), "must be greater than or equal to 0");
        }
    }
}
