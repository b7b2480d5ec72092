//! Makes tokens: the subresource `token` of service accounts, and those that secrets carry.
//!
//! Source: `pkg/registry/core/serviceaccount/storage/token.go`, `pkg/apis/authentication/validation/validation.go`.

use cirro_seams::api::ApiError;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::ISSUER;
use crate::error::{self, Causes};
use crate::identity;
use crate::json;
use crate::storage::{Place, Storage};

const HOUR: i64 = 3600;
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;

impl Storage {
    /// Answers a `TokenRequest` for the account at `place`.
    ///
    /// # Errors
    /// 404 without the account or what the token is to be bound to, 409 when that has another uid.
    pub(crate) async fn request_token(
        &self,
        place: Place<'_>,
        mut request: Value,
    ) -> Result<Value, ApiError> {
        json::drop_nulls(&mut request);
        let account = self.get(place).await?;
        for (member, wanted) in [("name", place.name), ("namespace", place.namespace)] {
            let given = json::text(&request["metadata"], member);
            if !given.is_empty() && given != wanted {
                return Err(error::bad_request(format!(
                    "the {member} of the provided object ({given}) does not match the {member} on the URL ({wanted})"
                )));
            }
        }
        request["apiVersion"] = "authentication.k8s.io/v1".into();
        request["kind"] = "TokenRequest".into();
        json::object_mut(&mut request, "spec");
        let spec = &mut request["spec"];
        json::set_default(spec, "expirationSeconds", HOUR);
        if json::array(spec, "audiences").is_empty() {
            spec["audiences"] = json!([ISSUER]);
        }
        check(place, spec)?;
        let bound = self.bound_object(place, spec).await?;
        let now = Timestamp::now();
        let expires =
            now + SignedDuration::from_secs(json::number(spec, "expirationSeconds").unwrap_or(HOUR));
        let mut kubernetes = json!({"namespace": place.namespace,
            "serviceaccount": {"name": place.name, "uid": account["metadata"]["uid"]}});
        if let (Some(into), Some(bound)) = (kubernetes.as_object_mut(), bound.as_object()) {
            into.extend(bound.clone());
        }
        let claims = json!({"iss": ISSUER, "aud": spec["audiences"], "iat": now.as_second(), "nbf": now.as_second(),
            "exp": expires.as_second(), "jti": identity::uid(), "kubernetes.io": kubernetes,
            "sub": format!("system:serviceaccount:{}:{}", place.namespace, place.name)});
        request["metadata"] = json!({"name": place.name, "namespace": place.namespace,
            "creationTimestamp": identity::seconds(now)});
        request["status"] =
            json!({"token": self.tokens.sign(&claims), "expirationTimestamp": identity::seconds(expires)});
        Ok(request)
    }

    /// Returns the claims about what a token is bound to.
    async fn bound_object(&self, account: Place<'_>, spec: &Value) -> Result<Value, ApiError> {
        let Some(reference) = json::at(spec, "boundObjectRef") else { return Ok(json!({})) };
        let (name, uid) = (json::text(reference, "name"), json::text(reference, "uid"));
        let (plural, claim) = match (json::text(reference, "apiVersion"), json::text(reference, "kind")) {
            ("v1", "Pod") => ("pods", "pod"),
            ("v1", "Secret") => ("secrets", "secret"),
            ("v1", "Node") => ("nodes", "node"),
            (version, kind) => {
                let what = format!("cannot bind token to object of type {version}, Kind={kind}");
                return Err(error::bad_request(what));
            }
        };
        let object = self.get(self.core_place(plural, account.namespace, name)).await?;
        let found = json::text(&object, "metadata.uid");
        if !uid.is_empty() && uid != found {
            let what = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            let kind = self.registry.kind("", plural).expect("it is built in");
            return Err(error::conflict(kind, name, &what));
        }
        let mut claims = json!({(claim): {"name": name, "uid": found}});
        if claim == "pod" {
            if json::text(&object, "spec.serviceAccountName") != account.name {
                let what = format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    account.name
                );
                return Err(error::bad_request(what));
            }
            let node = json::text(&object, "spec.nodeName");
            if !node.is_empty() {
                claims["node"] = json!({"name": node});
                if let Ok(node) = self.get(self.core_place("nodes", "", node)).await {
                    claims["node"]["uid"] = node["metadata"]["uid"].clone();
                }
            }
        }
        Ok(claims)
    }

    /// Returns the place of an object of a core kind.
    pub(crate) fn core_place<'a>(&'a self, plural: &str, namespace: &'a str, name: &'a str) -> Place<'a> {
        let kind = self.registry.kind("", plural).expect("the core kinds are built in");
        Place { kind, namespace: if kind.namespaced { namespace } else { "" }, name }
    }

    /// Returns the token that a secret of type `kubernetes.io/service-account-token` carries: it has no
    /// end but the secret's and the account's.
    pub(crate) fn legacy_token(&self, secret: &Value, account: &Value) -> String {
        let prefix = "kubernetes.io/serviceaccount";
        let (namespace, name) = (json::namespace(account), json::name(account));
        self.tokens.sign(&json!({
            "iss": super::review::LEGACY_ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            (format!("{prefix}/namespace")): namespace,
            (format!("{prefix}/secret.name")): json::name(secret),
            (format!("{prefix}/service-account.name")): name,
            (format!("{prefix}/service-account.uid")): account["metadata"]["uid"],
        }))
    }
}

fn check(place: Place<'_>, spec: &Value) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    let seconds = json::number(spec, "expirationSeconds").unwrap_or(0);
    let field = "spec.expirationSeconds";
    if seconds < SHORTEST {
        causes.invalid(field, &seconds.into(), "may not specify a duration less than 10 minutes");
    }
    if seconds > LONGEST {
        causes.invalid(field, &seconds.into(), "may not specify a duration larger than 2^32 seconds");
    }
    if causes.is_empty() { Ok(()) } else { Err(error::invalid(place.kind, place.name, causes)) }
}
