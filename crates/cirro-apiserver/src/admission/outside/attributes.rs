//! A write as webhooks and policies see it.

use std::sync::Arc;

use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use crate::asker;
use crate::auth::User;
use crate::registry::{Kind, Served};
use crate::storage::{Place, Storage, Target};

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// Returns the word in rules and reviews.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// What is written, by what kind of write.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a> {
    pub(crate) kind: &'a Arc<Kind>,
    /// The part that is written, `status` for one; else empty.
    pub(crate) subresource: &'static str,
    /// Group, version and kind of what is sent, when it is not the object's own.
    pub(crate) speaks: Option<(&'static str, &'static str, &'static str)>,
    pub(crate) operation: Operation,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) object: Option<&'a Value>,
    pub(crate) old: Option<&'a Value>,
    pub(crate) dry_run: bool,
}

impl<'a> Attributes<'a> {
    /// Describes a write of a whole object.
    pub(crate) fn of(
        place: Place<'a>,
        operation: Operation,
        object: Option<&'a Value>,
        old: Option<&'a Value>,
        dry_run: bool,
    ) -> Self {
        let Place { kind, namespace, name } = place;
        Self { kind, subresource: "", speaks: None, operation, namespace, name, object, old, dry_run }
    }

    /// Describes the same write of the part that is its target.
    pub(crate) fn on(self, target: Target) -> Self {
        Self { subresource: target.subresource(), ..self }
    }

    /// Returns the same write with another state of the object.
    pub(super) fn with_object(self, object: &'a Value) -> Self {
        Self { object: Some(object), ..self }
    }

    /// Returns the member `request` of a review; `served` is the version that it is told in.
    ///
    /// # Errors
    /// When the objects cannot be converted to that version.
    pub(super) async fn request(&self, storage: &Storage, served: &Served) -> Result<Value, ApiError> {
        let kind = match self.speaks {
            Some((group, version, kind)) => json!({"group": group, "version": version, "kind": kind}),
            None => json!({"group": served.group(), "version": served.version(), "kind": self.kind.kind}),
        };
        let resource =
            json!({"group": served.group(), "version": served.version(), "resource": self.kind.plural});
        let form = async |object: Option<&Value>| match object {
            Some(object) if self.speaks.is_some() => Ok(object.clone()),
            Some(object) => storage.exported(served, object).await,
            None => Ok(Value::Null),
        };
        let user = asker::current().unwrap_or_else(|| User::internal().into());
        let options = match self.operation {
            Operation::Create => Some("CreateOptions"),
            Operation::Update => Some("UpdateOptions"),
            Operation::Delete => Some("DeleteOptions"),
            Operation::Connect => None,
        };
        let options = options.map(|options| json!({"kind": options, "apiVersion": "meta.k8s.io/v1"}));
        let mut request = json!({"uid": crate::identity::uid(), "kind": kind, "resource": resource,
            "requestKind": kind, "requestResource": resource, "name": self.name,
            "operation": self.operation.word(), "userInfo": user_info(&user), "object": form(self.object).await?,
            "oldObject": form(self.old).await?, "dryRun": self.dry_run,
            "options": options});
        if self.kind.namespaced {
            request["namespace"] = self.namespace.into();
        }
        if !self.subresource.is_empty() {
            request["subResource"] = self.subresource.into();
            request["requestSubResource"] = self.subresource.into();
        }
        Ok(request)
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}
