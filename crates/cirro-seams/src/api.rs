//! How controllers, scheduler and kubelet reach the API.
//!
//! In the API server's own process this is a call into its storage path, admission and validation
//! included; from other hosts it will be HTTPS. Objects are JSON as a client would see them, with
//! `metadata.resourceVersion`, in the kind's storage version.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::Pending;

mod packed;

pub use packed::{Encoded, Head, OwnerUid, Packed};

/// Group, version-less: the API decides the version. `("apps", "deployments")`; core is `""`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resource {
    /// API group; empty for core.
    pub group: String,
    /// Plural name of the kind.
    pub plural: String,
}

impl Resource {
    /// Names a resource.
    pub fn new(group: &str, plural: &str) -> Self {
        Self { group: group.into(), plural: plural.into() }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            write!(f, "{}", self.plural)
        } else {
            write!(f, "{}.{}", self.plural, self.group)
        }
    }
}

/// One object's place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Its kind.
    pub resource: Resource,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A kind that the API serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceInfo {
    /// Its resource.
    pub resource: Resource,
    /// Its kind (`Pod`).
    pub kind: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

/// A refusal by the API: the members of a `Status`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// `NotFound`, `AlreadyExists`, `Conflict`, `Invalid`, ...
    pub reason: String,
    /// For a person.
    pub message: String,
    /// `details` of the `Status`, when there are some.
    pub details: Option<Value>,
}

impl ApiError {
    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// Whether the object was changed meanwhile; look again and try again.
    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    /// Whether an object of that name exists.
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }
}

/// All objects of a kind at one revision.
#[derive(Debug, Clone)]
pub struct ObjectList {
    /// The objects.
    pub items: Vec<Packed>,
    /// The revision to watch from.
    pub revision: u64,
}

/// A change of an object.
#[derive(Debug, Clone)]
pub enum ObjectEvent {
    /// The object is new or changed.
    Applied(Packed),
    /// The object is gone; its last state.
    Deleted(Packed),
    /// The revision is too old (410): list again. The last event of a watch.
    Expired,
}

/// How an object is deleted.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Only if it has this uid.
    pub uid: Option<String>,
    /// Only if it is at this resource version.
    pub resource_version: Option<String>,
    /// Grace; 0 removes a pod at once.
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`; the kind's default when absent.
    pub propagation_policy: Option<String>,
}

/// The API as its own components use it.
pub trait Api: Send + Sync {
    /// Returns one object.
    fn get(&self, key: &ObjectKey) -> Pending<'_, Result<Arc<Value>, ApiError>>;
    /// Lists a kind, in every namespace when `namespace` is `None`.
    fn list(&self, resource: &Resource, namespace: Option<&str>)
    -> Pending<'_, Result<ObjectList, ApiError>>;
    /// Watches a kind in every namespace for what came after `revision`.
    fn watch(
        &self,
        resource: &Resource,
        revision: u64,
    ) -> Pending<'_, Result<mpsc::Receiver<ObjectEvent>, ApiError>>;
    /// Creates an object; returns it as stored. `metadata.generateName` works.
    fn create(&self, resource: &Resource, object: Value) -> Pending<'_, Result<Arc<Value>, ApiError>>;
    /// Replaces an object; `metadata.resourceVersion` guards it.
    fn update(&self, resource: &Resource, object: Value) -> Pending<'_, Result<Arc<Value>, ApiError>>;
    /// Replaces an object's status; `metadata.resourceVersion` guards it.
    fn update_status(&self, resource: &Resource, object: Value) -> Pending<'_, Result<Arc<Value>, ApiError>>;
    /// Merges a JSON merge patch (RFC 7396) into an object, or into its status subresource.
    fn merge_patch(
        &self,
        key: &ObjectKey,
        status: bool,
        patch: Value,
    ) -> Pending<'_, Result<Arc<Value>, ApiError>>;
    /// Binds a pod to a node, if it is not bound.
    fn bind(&self, namespace: &str, pod: &str, uid: &str, node: &str) -> Pending<'_, Result<(), ApiError>>;
    /// Asks for a token of a service account by a `TokenRequest`; returns it answered.
    fn request_token(
        &self,
        _namespace: &str,
        _account: &str,
        _request: Value,
    ) -> Pending<'_, Result<Value, ApiError>> {
        let message = "tokens cannot be had here".to_owned();
        let refusal = ApiError { code: 501, reason: "NotImplemented".into(), message, details: None };
        Box::pin(async move { Err(refusal) })
    }
    /// Deletes an object.
    fn delete(&self, key: &ObjectKey, options: DeleteOptions) -> Pending<'_, Result<(), ApiError>>;
}
