//! What a node may ask for.
//!
//! Upstream keeps a graph from nodes to what their pods refer to. Here the path is walked when it is asked for, over
//! what is in the store: no memory while no node asks, and no moment in which the graph is behind.

use std::sync::{Arc, OnceLock};

use cirro_seams::api::ApiError;
use serde::Deserialize as _;
use serde_json::Value;

use super::references::{self, Referent};
use crate::json;
use crate::rbac::{Access, Rule, Target, bootstrap};
use crate::storage::{ListOptions, Storage};

/// What a node may do wherever it is not said more exactly: the rules of the default role `system:node`.
static RULES: OnceLock<Vec<Rule>> = OnceLock::new();

/// The namespace of nodes' leases.
pub(super) const LEASES: &str = "kube-node-lease";

/// What is said: yes, or no opinion with a reason that may be empty.
pub(crate) type Opinion = Result<(), String>;

/// A request for objects.
struct Asked<'a> {
    verb: &'a str,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl Storage {
    /// Says what the node authorizer thinks of a request by a node; its name is empty when it did not say it.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn node_opinion(
        &self,
        node: &str,
        user: &str,
        access: &Access,
    ) -> Result<Opinion, ApiError> {
        if node.is_empty() {
            return Ok(Err(format!("unknown node for user {user:?}")));
        }
        if let Target::Resource { group, resource, subresource, namespace, name } = &access.target {
            let asked = Asked { verb: &access.verb, subresource, namespace, name };
            match (group.as_str(), resource.as_str()) {
                ("", "secrets") => return self.read_of(node, &asked, Referent::Secret).await,
                ("", "configmaps") => return self.read_of(node, &asked, Referent::ConfigMap).await,
                ("", "persistentvolumeclaims") => return self.claim_of(node, &asked).await,
                ("", "persistentvolumes") => return self.get_of(node, &asked, What::Volume).await,
                ("storage.k8s.io", "volumeattachments") => {
                    return self.get_of(node, &asked, What::Attachment).await;
                }
                ("", "serviceaccounts") => return self.token_of(node, &asked).await,
                ("coordination.k8s.io", "leases") => return Ok(lease(node, &asked)),
                ("storage.k8s.io", "csinodes") => return Ok(csi_node(node, &asked)),
                ("", "nodes") => return Ok(own_node(node, &asked)),
                ("", "pods") => return self.pod_of(node, &asked, access).await,
                _ => {}
            }
        }
        let rules = RULES.get_or_init(rules);
        Ok(if rules.iter().any(|rule| rule.allows(access)) { Ok(()) } else { Err(String::new()) })
    }

    async fn read_of(&self, node: &str, asked: &Asked<'_>, what: Referent) -> Result<Opinion, ApiError> {
        if !["get", "list", "watch"].contains(&asked.verb) {
            return no("can only read resources of this type");
        }
        if !asked.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if asked.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(node, asked, What::Of(what)).await
    }

    async fn get_of(&self, node: &str, asked: &Asked<'_>, what: What) -> Result<Opinion, ApiError> {
        if asked.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !asked.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(node, asked, what).await
    }

    async fn claim_of(&self, node: &str, asked: &Asked<'_>) -> Result<Opinion, ApiError> {
        let claim = What::Of(Referent::Claim);
        if asked.subresource != "status" {
            return self.get_of(node, asked, claim).await;
        }
        if !["update", "patch"].contains(&asked.verb) {
            return no("can only get/update/patch this type");
        }
        self.related(node, asked, claim).await
    }

    async fn token_of(&self, node: &str, asked: &Asked<'_>) -> Result<Opinion, ApiError> {
        if asked.verb != "create" || asked.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if asked.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(node, asked, What::Of(Referent::Account)).await
    }

    async fn pod_of(&self, node: &str, asked: &Asked<'_>, access: &Access) -> Result<Opinion, ApiError> {
        match (asked.subresource, asked.verb) {
            ("", "get") => self.get_of(node, asked, What::Pod).await,
            ("", "list" | "watch") => {
                if access.selects("spec.nodeName", node) {
                    return Ok(Ok(()));
                }
                if !asked.name.is_empty() {
                    return self.related(node, asked, What::Pod).await;
                }
                no("can only list/watch pods with spec.nodeName field selector")
            }
            // Which pods these may be is the restriction's business.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(Ok(())),
            _ => no(""),
        }
    }

    /// Whether a path leads from the node to an object.
    async fn related(&self, node: &str, asked: &Asked<'_>, what: What) -> Result<Opinion, ApiError> {
        if asked.name.is_empty() {
            return no("No Object name found");
        }
        let found = match what {
            What::Pod => {
                self.core("pods", asked.namespace, asked.name).await?.is_some_and(|pod| is_on(&pod, node))
            }
            What::Of(Referent::Secret) => {
                self.has_pod(node, asked.namespace, Referent::Secret, asked.name).await?
                    || self.has_volume_secret(node, asked.namespace, asked.name).await?
            }
            What::Of(referent) => self.has_pod(node, asked.namespace, referent, asked.name).await?,
            What::Volume => match self.core("persistentvolumes", "", asked.name).await? {
                Some(volume) => self.uses_volume(node, &volume).await?,
                None => false,
            },
            What::Attachment => {
                let kind = self.registry.kind("storage.k8s.io", "volumeattachments");
                let kind = kind.expect("attachments are built in");
                let place = crate::storage::Place { kind, namespace: "", name: asked.name };
                found(self.get(place).await)?.is_some_and(|one| json::text(&one, "spec.nodeName") == node)
            }
        };
        match found {
            true => Ok(Ok(())),
            false => no(&format!("no relationship found between node '{node}' and this object")),
        }
    }

    async fn core(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Arc<Value>>, ApiError> {
        found(self.get(self.core_place(plural, namespace, name)).await)
    }

    /// Whether a pod of the node refers to an object. Mirror pods are the node's own word and lead nowhere.
    async fn has_pod(&self, node: &str, namespace: &str, to: Referent, name: &str) -> Result<bool, ApiError> {
        let kind = self.registry.kind("", "pods").expect("pods are built in");
        let page = self.list(kind, Some(namespace), &ListOptions::default()).await?;
        for record in &page.records {
            let pod = self.decoded.decode(record)?;
            let mirrors = pod["metadata"]["annotations"].get(super::restriction::MIRROR).is_some();
            if is_on(&pod, node) && !mirrors && references::refers(&pod, to, name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn uses_volume(&self, node: &str, volume: &Value) -> Result<bool, ApiError> {
        let (namespace, claim) =
            (json::text(volume, "spec.claimRef.namespace"), json::text(volume, "spec.claimRef.name"));
        if namespace.is_empty() || claim.is_empty() {
            return Ok(false);
        }
        self.has_pod(node, namespace, Referent::Claim, claim).await
    }

    /// Whether the driver of a volume that the node's pods use needs a secret.
    async fn has_volume_secret(&self, node: &str, namespace: &str, name: &str) -> Result<bool, ApiError> {
        let kind = self.registry.kind("", "persistentvolumes").expect("volumes are built in");
        let page = self.list(kind, None, &ListOptions::default()).await?;
        for record in &page.records {
            let volume = self.decoded.decode(record)?;
            let of_claim = json::text(&volume, "spec.claimRef.namespace");
            let needs = references::volume_secrets(&volume).iter().any(|(of, secret)| {
                *secret == name && (if of.is_empty() { of_claim } else { of }) == namespace
            });
            if needs && self.uses_volume(node, &volume).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What stands at the far end of a path.
#[derive(Clone, Copy)]
enum What {
    Of(Referent),
    Pod,
    Volume,
    Attachment,
}

fn rules() -> Vec<Rule> {
    let role = bootstrap::defaults()
        .into_iter()
        .find(|entry| entry.plural == "clusterroles" && json::name(&entry.object) == "system:node")
        .expect("the default policy has it");
    Vec::deserialize(&role.object["rules"]).expect("the default policy is good")
}

fn no(reason: &str) -> Result<Opinion, ApiError> {
    Ok(Err(reason.to_owned()))
}

fn found(object: Result<Arc<Value>, ApiError>) -> Result<Option<Arc<Value>>, ApiError> {
    match object {
        Ok(object) => Ok(Some(object)),
        Err(refusal) if refusal.is_not_found() => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

fn is_on(pod: &Value, node: &str) -> bool {
    json::text(pod, "spec.nodeName") == node
}

fn lease(node: &str, asked: &Asked<'_>) -> Opinion {
    if !["get", "create", "update", "patch", "delete"].contains(&asked.verb) {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if asked.namespace != LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    // What is created has its name in the body, which the restriction sees.
    if asked.verb != "create" && asked.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn csi_node(node: &str, asked: &Asked<'_>) -> Opinion {
    if !["get", "create", "update", "patch", "delete"].contains(&asked.verb) {
        return Err("can only get, create, update, patch, or delete a CSINode".into());
    }
    if !asked.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".into());
    }
    if asked.verb != "create" && asked.name != node {
        return Err("can only access CSINode with the same name as the requesting node".into());
    }
    Ok(())
}

fn own_node(node: &str, asked: &Asked<'_>) -> Opinion {
    match (asked.subresource, asked.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match asked.name {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => Err(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => Err(String::new()),
    }
}
