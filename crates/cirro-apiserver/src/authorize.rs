//! Decides whether a user may do what he asks, and says in upstream's words when not.

use cirro_seams::api::ApiError;
use serde_json::json;

use crate::auth::User;
use crate::error;
use crate::nodes;
use crate::rbac::{Access, Target};
use crate::storage::Storage;

/// What was decided.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    /// Why, as far as there is something to say.
    pub(crate) reason: String,
}

impl Storage {
    /// Decides a request.
    ///
    /// # Errors
    /// When the roles cannot be read.
    pub(crate) async fn decide(&self, user: &User, access: &Access) -> Result<Decision, ApiError> {
        if user.is_master() {
            return Ok(Decision { allowed: true, reason: String::new() });
        }
        let mut reason = String::new();
        if let Some(node) = nodes::identity(user) {
            match self.node_opinion(node, &user.name, access).await? {
                Ok(()) => return Ok(Decision { allowed: true, reason }),
                Err(why) => reason = why,
            }
        }
        Ok(match self.rbac.policy().await?.grant(user, access) {
            Some(grant) => Decision { allowed: true, reason: grant.0 },
            None => Decision { allowed: false, reason },
        })
    }

    /// Lets a request through or refuses it.
    ///
    /// # Errors
    /// 403 when nothing allows it.
    pub(crate) async fn authorize(&self, user: &User, access: &Access) -> Result<(), ApiError> {
        let decision = self.decide(user, access).await?;
        if decision.allowed { Ok(()) } else { Err(forbidden(user, access, &decision.reason)) }
    }
}

/// Returns upstream's refusal.
pub(crate) fn forbidden(user: &User, access: &Access, reason: &str) -> ApiError {
    let mut words = match &access.target {
        Target::Path(path) => format!("User {:?} cannot {} path {path:?}", user.name, access.verb),
        Target::Resource { group, resource, subresource, namespace, .. } => {
            let full = match subresource.as_str() {
                "" => resource.clone(),
                subresource => format!("{resource}/{subresource}"),
            };
            let place = match namespace.as_str() {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            format!(
                "User {:?} cannot {} resource {full:?} in API group {group:?} {place}",
                user.name, access.verb
            )
        }
    };
    if !reason.is_empty() {
        words = format!("{words}: {reason}");
    }
    let (what, details) = match &access.target {
        Target::Path(_) => ("forbidden".to_owned(), json!({})),
        Target::Resource { group, resource, name, .. } => {
            let mut details = json!({"kind": resource});
            let mut what = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
            if !name.is_empty() {
                details["name"] = name.clone().into();
                what = format!("{what} {name:?}");
            }
            if !group.is_empty() {
                details["group"] = group.clone().into();
            }
            (format!("{what} is forbidden"), details)
        }
    };
    error::refused(format!("{what}: {words}"), details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_upstreams() {
        let user = User { name: "jane".into(), ..User::default() };
        let text = |access: Access| forbidden(&user, &access, "").message;
        assert_eq!(
            text(Access::to_resource("list", "", "pods", "", "y", "")),
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "y""#
        );
        assert_eq!(
            text(Access::to_resource("get", "apps", "deployments", "scale", "", "web")),
            r#"deployments.apps "web" is forbidden: User "jane" cannot get resource "deployments/scale" in API group "apps" at the cluster scope"#
        );
        assert_eq!(
            text(Access::to_path("get", "/metrics")),
            r#"forbidden: User "jane" cannot get path "/metrics""#
        );
    }
}
