//! authentication.k8s.io and authorization.k8s.io: questions about oneself, answered and not kept.

use serde_json::{Value, json};

use crate::auth::User;
use crate::registry::{Kind, Strategy};

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    let authorization = "authorization.k8s.io";
    vec![
        Kind::cluster("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews")
            .schema("io.k8s.api.authentication.v1.SelfSubjectReview")
            .strategy(&WhoAmI)
            .not_stored(),
        Kind::cluster(authorization, "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews")
            .schema("io.k8s.api.authorization.v1.SelfSubjectAccessReview")
            .strategy(&MayI)
            .not_stored(),
        Kind::cluster(authorization, "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews")
            .schema("io.k8s.api.authorization.v1.SelfSubjectRulesReview")
            .strategy(&WhatMayI)
            .not_stored(),
    ]
}

struct WhoAmI;

impl Strategy for WhoAmI {
    fn answer(&self, mut object: Value, user: &User) -> Value {
        object["status"] = json!({"userInfo": {"username": user.name, "groups": user.groups}});
        object
    }
}

struct MayI;

impl Strategy for MayI {
    fn answer(&self, mut object: Value, user: &User) -> Value {
        let allowed = user.is_master();
        object["status"] = json!({"allowed": allowed});
        if !allowed {
            object["status"]["reason"] = "only members of system:masters may use this cloud's API".into();
        }
        object
    }
}

struct WhatMayI;

impl Strategy for WhatMayI {
    fn answer(&self, mut object: Value, user: &User) -> Value {
        let rule = |members: Value| if user.is_master() { json!([members]) } else { json!([]) };
        object["status"] = json!({
            "incomplete": false,
            "resourceRules": rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})),
            "nonResourceRules": rule(json!({"verbs": ["*"], "nonResourceURLs": ["*"]})),
        });
        object
    }
}
