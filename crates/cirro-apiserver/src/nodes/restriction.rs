//! What a node may write: itself, its pods' states, its mirror pods, its lease.

use std::collections::BTreeSet;

use cirro_seams::api::ApiError;
use serde_json::Value;

use super::authorizer::LEASES;
use super::references::{Referent, refers_to_any};
use crate::admission::outside::{Attributes, Operation};
use crate::asker;
use crate::error;
use crate::json;
use crate::storage::{Place, Storage};

/// Marks pods that a node made from a file of its own.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels that nodes may set on themselves, beside those below the two last.
const LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
];
const LABEL_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Labels that nodes may never set.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

/// Why something is refused.
type Verdict = Result<(), String>;

impl Storage {
    /// Looks into a write; one that is not a node's passes.
    ///
    /// # Errors
    /// 403 when a node writes what is not its own.
    pub(crate) async fn restrict_node(&self, write: &Attributes<'_>) -> Result<(), ApiError> {
        let Some(user) = asker::current() else { return Ok(()) };
        let Some(node) = super::identity(&user) else { return Ok(()) };
        let verdict = match node {
            "" => Err(format!("could not determine node from user {:?}", user.name)),
            node => self.verdict(node, write).await?,
        };
        verdict.map_err(|why| error::forbidden(write.kind, write.name, &why))
    }

    async fn verdict(&self, node: &str, write: &Attributes<'_>) -> Result<Verdict, ApiError> {
        Ok(match (write.kind.group.as_str(), write.kind.plural.as_str(), write.subresource) {
            ("", "pods", "") => match (write.operation, write.object, write.old) {
                (Operation::Create, Some(pod), _) => return self.mirror_pod(node, pod).await,
                (Operation::Delete, _, Some(pod)) => own_pod(node, pod, "delete pods"),
                (operation, ..) => Err(format!(
                    "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                    operation.word()
                )),
            },
            ("", "pods", _) => pod_status(node, write),
            ("", "nodes", _) => own_node(node, write),
            ("", "persistentvolumeclaims", "status") => claim_status(node, write),
            ("", "persistentvolumeclaims", _) => Err("may only update PVC status".into()),
            ("coordination.k8s.io", "leases", _) if write.namespace != LEASES => {
                Err(format!("can only access leases in the {LEASES:?} system namespace"))
            }
            ("coordination.k8s.io", "leases", _) if write.name != node => {
                Err("can only access node lease with the same name as the requesting node".into())
            }
            ("storage.k8s.io", "csinodes", _) if write.name != node => {
                Err("can only access CSINode with the same name as the requesting node".into())
            }
            _ => Ok(()),
        })
    }

    /// Checks a pod that a node makes.
    async fn mirror_pod(&self, node: &str, pod: &Value) -> Result<Verdict, ApiError> {
        let no = |what: &str| Ok(Err(format!("node {node:?} {what}")));
        if pod["metadata"]["annotations"].get(MIRROR).is_none() {
            return Ok(Err(format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            )));
        }
        if json::text(pod, "spec.nodeName") != node {
            return no("can only create pods with spec.nodeName set to itself");
        }
        let owner = match json::array(pod, "metadata.ownerReferences") {
            [] => return no("can only create pods with an owner reference set to itself"),
            [owner] => owner,
            _ => return no("can only create pods with a single owner reference set to itself"),
        };
        let owned_by = ["apiVersion", "kind", "name"].map(|member| json::text(owner, member));
        if owned_by != ["v1", "Node", node] {
            return no("can only create pods with an owner reference set to itself");
        }
        if owner["controller"] != true {
            return no("can only create pods with a controller owner reference set to itself");
        }
        if owner["blockOwnerDeletion"] == true {
            return no("must not set blockOwnerDeletion on an owner reference");
        }
        let own = self.get(self.core_place("nodes", "", node)).await?;
        let (given, uid) = (json::text(owner, "uid"), json::text(&own, "metadata.uid"));
        if given != uid {
            return Ok(Err(format!("node {node} UID mismatch: expected {given} got {uid}")));
        }
        for (referent, word) in [
            (Referent::Account, "a service account"),
            (Referent::Secret, "secrets"),
            (Referent::ConfigMap, "configmaps"),
            (Referent::Claim, "persistentvolumeclaims"),
        ] {
            if refers_to_any(pod, referent) {
                return no(&format!("can not create pods that reference {word}"));
            }
        }
        Ok(Ok(()))
    }

    /// Checks an eviction by a node.
    ///
    /// # Errors
    /// 403 when the pod is another node's.
    pub(crate) async fn restrict_eviction(&self, place: Place<'_>) -> Result<(), ApiError> {
        let Some(user) = asker::current() else { return Ok(()) };
        let Some(node) = super::identity(&user) else { return Ok(()) };
        let pod = self.get(place).await?;
        if json::text(&pod, "spec.nodeName") == node {
            return Ok(());
        }
        let what = format!("node {node} can only evict pods with spec.nodeName set to itself");
        Err(error::forbidden(place.kind, place.name, &what))
    }

    /// Checks a request of a node for an account's token: it must be bound to a pod of its own.
    ///
    /// # Errors
    /// 403 when it is not.
    pub(crate) async fn restrict_token(&self, account: Place<'_>, request: &Value) -> Result<(), ApiError> {
        let Some(user) = asker::current() else { return Ok(()) };
        let Some(node) = super::identity(&user) else { return Ok(()) };
        let no = |what: &str| Err(error::forbidden(account.kind, account.name, what));
        let reference = &request["spec"]["boundObjectRef"];
        let [version, kind, name, uid] =
            ["apiVersion", "kind", "name", "uid"].map(|member| json::text(reference, member));
        if version != "v1" || kind != "Pod" || name.is_empty() {
            return no("node requested token not bound to a pod");
        }
        if uid.is_empty() {
            return no("node requested token with a pod binding without a uid");
        }
        let pod = self.get(self.core_place("pods", account.namespace, name)).await?;
        if json::text(&pod, "metadata.uid") != uid {
            return no(&format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ));
        }
        if json::text(&pod, "spec.nodeName") != node {
            return no("node requested token bound to a pod scheduled on a different node");
        }
        Ok(())
    }
}

fn own_pod(node: &str, pod: &Value, what: &str) -> Verdict {
    match json::text(pod, "spec.nodeName") == node {
        true => Ok(()),
        false => Err(format!("node {node:?} can only {what} with spec.nodeName set to itself")),
    }
}

fn pod_status(node: &str, write: &Attributes<'_>) -> Verdict {
    let (Operation::Update, Some(new), Some(old)) = (write.operation, write.object, write.old) else {
        return Err(format!("unexpected operation {:?}", write.operation.word()));
    };
    own_pod(node, old, "update pod status for pods")?;
    if json::at(new, "metadata.labels") != json::at(old, "metadata.labels") {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    if json::array(new, "status.resourceClaimStatuses") != json::array(old, "status.resourceClaimStatuses") {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

fn own_node(node: &str, write: &Attributes<'_>) -> Verdict {
    if write.name != node {
        return Err(format!("node {node:?} is not allowed to modify node {:?}", write.name));
    }
    let Some(new) = write.object else { return Ok(()) };
    let source = |object: &Value| json::at(object, "spec.configSource").cloned();
    let list = |labels: BTreeSet<&str>| labels.into_iter().collect::<Vec<_>>().join(", ");
    let Some(old) = write.old else {
        if source(new).is_some() {
            return Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
        }
        let forbidden = forbidden_labels(new, &Value::Null);
        return match forbidden.is_empty() {
            true => Ok(()),
            false => {
                Err(format!("node {node:?} is not allowed to set the following labels: {}", list(forbidden)))
            }
        };
    };
    if source(new).is_some() && source(new) != source(old) {
        return Err(format!(
            "node {node:?} is not allowed to update configSource to a new non-nil configSource"
        ));
    }
    if json::array(new, "spec.taints") != json::array(old, "spec.taints") {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    let forbidden = forbidden_labels(new, old);
    match forbidden.is_empty() {
        true => Ok(()),
        false => Err(format!("is not allowed to modify labels: {}", list(forbidden))),
    }
}

/// Returns the labels that differ and that a node may not change.
fn forbidden_labels<'a>(new: &'a Value, old: &'a Value) -> BTreeSet<&'a str> {
    let (new, old) = (json::object(new, "metadata.labels"), json::object(old, "metadata.labels"));
    let keys = new.into_iter().chain(old).flat_map(|labels| labels.keys());
    let of = |labels: Option<&'a serde_json::Map<String, Value>>, key: &str| {
        labels.and_then(|labels| labels.get(key).cloned())
    };
    keys.filter(|key| of(new, key) != of(old, key) && is_forbidden(key)).map(String::as_str).collect()
}

fn is_forbidden(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let below =
        |of: &str| namespace == of || namespace.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    let own = LABELS.contains(&label) || LABEL_NAMESPACES.iter().any(|of| below(of));
    below(RESTRICTED) || ((below("kubernetes.io") || below("k8s.io")) && !own)
}

fn claim_status(node: &str, write: &Attributes<'_>) -> Verdict {
    let (Operation::Update, Some(new), Some(old)) = (write.operation, write.object, write.old) else {
        return Err(format!("unexpected operation {:?}", write.operation.word()));
    };
    let rest = |object: &Value| {
        let mut rest = object.clone();
        for member in ["resourceVersion", "managedFields"] {
            json::remove(&mut rest["metadata"], member);
        }
        for member in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
            json::remove(&mut rest["status"], member);
        }
        rest
    };
    match rest(new) == rest(old) {
        true => Ok(()),
        false => Err(format!(
            "node {node:?} is not allowed to update fields other than status.capacity and status.conditions"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_label_themselves_with_what_is_theirs() {
        for own in [
            "example.com/x",
            "rack",
            "kubernetes.io/hostname",
            "node.kubernetes.io/x",
            "a.kubelet.kubernetes.io/b",
        ] {
            assert!(!is_forbidden(own), "{own}");
        }
        for other in [
            "node-restriction.kubernetes.io/x",
            "a.node-restriction.kubernetes.io/x",
            "kubernetes.io/x",
            "node-role.kubernetes.io/master",
            "x.k8s.io/y",
        ] {
            assert!(is_forbidden(other), "{other}");
        }
    }
}
