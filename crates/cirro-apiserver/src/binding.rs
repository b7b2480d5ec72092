//! Assigns a pod to a node.

use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use crate::admission::outside::{Operation, Part};
use crate::error;
use crate::json;
use crate::registry::Subresource;
use crate::storage::{Place, Storage, Target};

/// Binds the pod at `place` as a `Binding` object says.
///
/// # Errors
/// 409 when the pod has a node, another uid or is being deleted.
pub(crate) async fn bind(
    storage: &Storage,
    place: Place<'_>,
    binding: &Value,
    dry_run: bool,
) -> Result<(), ApiError> {
    let mut binding = binding.clone();
    binding["apiVersion"] = "v1".into();
    binding["kind"] = "Binding".into();
    let part =
        Part { place, subresource: Subresource::Binding, operation: Operation::Create, old: None, dry_run };
    let binding = &storage.admit_sent(part, binding).await?;
    let node = json::text(binding, "target.name");
    let kind = json::text(binding, "target.kind");
    if node.is_empty() || !(kind.is_empty() || kind == "Node") {
        return Err(error::bad_request("target must name a node"));
    }
    let change = |pod: &Value| bound(place, pod, binding, node);
    storage.modify(place, Target::Whole, dry_run, change).await.map(drop)
}

fn bound(place: Place<'_>, pod: &Value, binding: &Value, node: &str) -> Result<Value, ApiError> {
    let refuse = |what: String| Err(error::conflict(place.kind, place.name, &what));
    let (asked, uid) = (json::text(binding, "metadata.uid"), json::text(pod, "metadata.uid"));
    if !asked.is_empty() && asked != uid {
        return refuse(format!(
            "Precondition failed: UID in precondition: {asked}, UID in object meta: {uid}"
        ));
    }
    if json::at(pod, "metadata.deletionTimestamp").is_some() {
        return refuse(format!("pod {} is being deleted, cannot be assigned to a host", place.name));
    }
    let present = json::text(pod, "spec.nodeName");
    if !present.is_empty() {
        return refuse(format!("pod {} is already assigned to node {present:?}", place.name));
    }
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = node.into();
    let conditions = json::object_mut(&mut pod, "status").entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|one| json::text(one, "type") != "PodScheduled");
        conditions.push(json!({"type": "PodScheduled", "status": "True",
            "lastTransitionTime": crate::identity::now()}));
    }
    Ok(pod)
}
