//! authentication.k8s.io and authorization.k8s.io: questions that are answered and not kept.
//!
//! Source: `pkg/registry/authorization/*/rest.go`, `pkg/apis/authorization/validation/validation.go`.

use std::collections::BTreeMap;

use cirro_seams::Pending;
use cirro_seams::api::ApiError;
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::auth::User;
use crate::error::{self, Causes};
use crate::json;
use crate::nodes;
use crate::rbac::Access;
use crate::registry::{Asker, Kind, Strategy};

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    let authorization = "authorization.k8s.io";
    let review = |kind: Kind, schema: &str, strategy: &'static dyn Strategy| {
        kind.schema(&format!("io.k8s.api.{schema}")).strategy(strategy).not_stored()
    };
    vec![
        review(
            Kind::cluster("authentication.k8s.io", "v1", "TokenReview", "tokenreviews"),
            "authentication.v1.TokenReview",
            &WhoseToken,
        ),
        review(
            Kind::cluster("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews"),
            "authentication.v1.SelfSubjectReview",
            &WhoAmI,
        ),
        review(
            Kind::cluster(authorization, "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
            "authorization.v1.SelfSubjectAccessReview",
            &MayI,
        ),
        review(
            Kind::cluster(authorization, "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
            "authorization.v1.SelfSubjectRulesReview",
            &WhatMayI,
        ),
        review(
            Kind::cluster(authorization, "v1", "SubjectAccessReview", "subjectaccessreviews"),
            "authorization.v1.SubjectAccessReview",
            &MayHe { local: false },
        ),
        review(
            Kind::namespaced(authorization, "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews"),
            "authorization.v1.LocalSubjectAccessReview",
            &MayHe { local: true },
        ),
    ]
}

type Answer<'a> = Pending<'a, Result<Value, ApiError>>;

struct WhoAmI;

impl Strategy for WhoAmI {
    fn answer<'a>(&'a self, mut object: Value, asker: Asker<'a>) -> Answer<'a> {
        object["status"] = json!({"userInfo": asker.user.info()});
        Box::pin(async { Ok(object) })
    }
}

struct WhoseToken;

impl Strategy for WhoseToken {
    fn answer<'a>(&'a self, mut object: Value, asker: Asker<'a>) -> Answer<'a> {
        Box::pin(async move {
            let token = json::text(&object, "spec.token").to_owned();
            if token.is_empty() {
                return Err(error::bad_request("token is required for TokenReview in authentication"));
            }
            let asked = json::array(&object, "spec.audiences").iter().filter_map(Value::as_str);
            let mut audiences: Vec<_> = asked.map(str::to_owned).collect();
            if audiences.is_empty() {
                audiences.push(crate::tokens::ISSUER.into());
            }
            object["status"] = match asker.server.storage.review_token(&token, &audiences).await? {
                Some(reviewed) => json!({"authenticated": true, "user": reviewed.user.info(),
                    "audiences": reviewed.audiences}),
                None => json!({"user": {}, "error": "invalid bearer token"}),
            };
            Ok(object)
        })
    }
}

struct MayI;

impl Strategy for MayI {
    fn answer<'a>(&'a self, object: Value, asker: Asker<'a>) -> Answer<'a> {
        Box::pin(async move {
            let mut causes = Causes::default();
            validate_attributes(&object, &mut causes);
            refuse_faults(&asker, causes)?;
            decide(&asker, asker.user, object).await
        })
    }
}

struct MayHe {
    local: bool,
}

impl Strategy for MayHe {
    fn answer<'a>(&'a self, object: Value, asker: Asker<'a>) -> Answer<'a> {
        Box::pin(async move {
            let mut causes = Causes::default();
            validate_attributes(&object, &mut causes);
            if json::text(&object, "spec.user").is_empty() && json::array(&object, "spec.groups").is_empty() {
                causes.invalid("spec.user", &"".into(), "at least one of user or group must be specified");
            }
            if self.local {
                validate_place(&object, asker.namespace, &mut causes);
            }
            refuse_faults(&asker, causes)?;
            let spec = &object["spec"];
            let user = User {
                name: json::text(spec, "user").into(),
                uid: json::text(spec, "uid").into(),
                groups: Vec::deserialize(&spec["groups"]).unwrap_or_default(),
                extra: BTreeMap::deserialize(&spec["extra"]).unwrap_or_default(),
            };
            decide(&asker, &user, object).await
        })
    }
}

fn refuse_faults(asker: &Asker<'_>, causes: Causes) -> Result<(), ApiError> {
    if causes.is_empty() { Ok(()) } else { Err(error::invalid(asker.kind, "", causes)) }
}

fn validate_attributes(object: &Value, causes: &mut Causes) {
    let of = |member: &str| json::at(object, &format!("spec.{member}")).is_some();
    let (resource, path) = ("resourceAttributes", "nonResourceAttributes");
    if of(resource) && of(path) {
        let what = "cannot be specified in combination with resourceAttributes";
        causes.invalid(&format!("spec.{path}"), &object["spec"][path], what);
    }
    if !of(resource) && !of(path) {
        let what = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        causes.invalid(&format!("spec.{resource}"), &Value::Null, what);
    }
}

fn validate_place(object: &Value, namespace: &str, causes: &mut Causes) {
    if json::at(object, "spec.nonResourceAttributes").is_some() {
        let value = &object["spec"]["nonResourceAttributes"];
        causes.invalid("spec.nonResourceAttributes", value, "disallowed on this kind of request");
    }
    let asked = json::text(object, "spec.resourceAttributes.namespace");
    if asked != namespace {
        let what = format!("must match metadata.namespace: {namespace}");
        causes.invalid("spec.resourceAttributes.namespace", &asked.into(), &what);
    }
}

async fn decide(asker: &Asker<'_>, user: &User, mut object: Value) -> Result<Value, ApiError> {
    let spec = &object["spec"];
    let text = |path: &str| json::text(spec, path);
    let access = if json::at(spec, "nonResourceAttributes").is_some() {
        Access::to_path(text("nonResourceAttributes.verb"), text("nonResourceAttributes.path"))
    } else {
        let [verb, group, resource, subresource, namespace, name] =
            ["verb", "group", "resource", "subresource", "namespace", "name"]
                .map(|member| json::text(&spec["resourceAttributes"], member));
        let requirements = json::array(&spec["resourceAttributes"], "fieldSelector.requirements");
        let fields = requirements.iter().filter_map(|one| {
            match (json::text(one, "operator"), json::array(one, "values")) {
                ("In", [value]) => Some((json::text(one, "key").to_owned(), value.as_str()?.to_owned())),
                _ => None,
            }
        });
        Access::to_resource(verb, group, resource, subresource, namespace, name).with_fields(fields.collect())
    };
    let decision = asker.server.storage.decide(user, &access).await?;
    object["status"] = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        object["status"]["reason"] = decision.reason.into();
    }
    Ok(object)
}

struct WhatMayI;

impl Strategy for WhatMayI {
    fn answer<'a>(&'a self, mut object: Value, asker: Asker<'a>) -> Answer<'a> {
        Box::pin(async move {
            let namespace = json::text(&object, "spec.namespace").to_owned();
            if namespace.is_empty() {
                return Err(error::bad_request("no namespace on request"));
            }
            let policy = asker.server.storage.rbac.policy().await?;
            let (mut resources, mut urls) = (Vec::new(), Vec::new());
            for rule in policy.rules(asker.user, &namespace) {
                let list = if rule.non_resource_urls.is_empty() { &mut resources } else { &mut urls };
                list.push(json!(rule));
            }
            object["status"] =
                json!({"incomplete": false, "resourceRules": resources, "nonResourceRules": urls});
            if nodes::identity(asker.user).is_some() {
                object["status"]["incomplete"] = true.into();
                object["status"]["evaluationError"] =
                    "node authorizer does not support user rule resolution".into();
            }
            Ok(object)
        })
    }
}
