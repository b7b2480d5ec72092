//! Webhooks: who is asked, in which order, and what comes of the answers.
//!
//! Source: apiserver `pkg/admission/plugin/webhook/{mutating,validating}`.

use std::time::Duration;

use base64::Engine as _;
use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use super::call::Target;
use super::condition::{self, Condition};
use super::{Attributes, matching};
use crate::asker;
use crate::cel::Budget;
use crate::error;
use crate::json;
use crate::patch;
use crate::registry::Served;
use crate::storage::Storage;

/// One webhook of a configuration.
pub(super) struct Webhook {
    name: String,
    rules: Vec<Value>,
    namespaces: Value,
    objects: Value,
    conditions: Vec<Condition>,
    /// Whether a webhook that cannot be asked lets the write through.
    ignores_failures: bool,
    asks_again: bool,
    target: Target,
    version: &'static str,
}

/// Reads the webhooks of a configuration.
pub(super) fn read(configuration: &Value) -> Vec<Webhook> {
    json::array(configuration, "webhooks").iter().map(Webhook::read).collect()
}

impl Webhook {
    fn read(hook: &Value) -> Self {
        let seconds = json::number(hook, "timeoutSeconds").unwrap_or(10).clamp(1, 30).unsigned_abs();
        let versions = json::array(hook, "admissionReviewVersions");
        Self {
            name: json::text(hook, "name").into(),
            rules: json::array(hook, "rules").to_vec(),
            namespaces: hook["namespaceSelector"].clone(),
            objects: hook["objectSelector"].clone(),
            conditions: condition::read(json::array(hook, "matchConditions")),
            ignores_failures: hook["failurePolicy"] == "Ignore",
            asks_again: hook["reinvocationPolicy"] == "IfNeeded",
            target: Target::read(&hook["clientConfig"], Duration::from_secs(seconds)),
            version: if versions.iter().any(|one| one == "v1") { "v1" } else { "v1beta1" },
        }
    }

    /// Asks the webhook, if the write is its business; returns the response and the version that was told.
    async fn ask(
        &self,
        storage: &Storage,
        namespace: Option<&Value>,
        attributes: &Attributes<'_>,
    ) -> Result<Option<(Value, Served)>, ApiError> {
        let registry = storage.definitions.registry();
        let Some(served) = matching::rule_version(&self.rules, &registry, attributes) else {
            return Ok(None);
        };
        if !matching::selected(&self.namespaces, &self.objects, namespace, attributes) {
            return Ok(None);
        }
        let request = attributes.request(storage, &served).await?;
        let authorizer = condition::authorizer(storage, attributes).await?;
        match condition::hold(
            &self.conditions,
            &condition::scope(&request, authorizer),
            &mut Budget::new(condition::BUDGET),
        ) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(_) if self.ignores_failures => return Ok(None),
            Err(why) => {
                let what = format!("failed to evaluate match conditions for webhook {:?}: {why}", self.name);
                return Err(error::forbidden(attributes.kind, attributes.name, &what));
            }
        }
        let uid = request["uid"].clone();
        let review = json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{}", self.version), "request": request});
        let answer = self.target.ask(storage, &review).await.and_then(|answer| checked(&answer, &uid));
        match answer {
            Ok(response) => {
                for warning in json::array(&response, "warnings").iter().filter_map(Value::as_str) {
                    asker::warn(warning.to_owned());
                }
                Ok(Some((response, served)))
            }
            Err(why) if self.ignores_failures => {
                tracing::warn!(webhook = %self.name, why, "a webhook failed and was ignored");
                Ok(None)
            }
            Err(why) => Err(error::internal(format!("failed calling webhook {:?}: {why}", self.name))),
        }
    }

    /// Turns a response that does not allow into a refusal.
    fn allowed(&self, response: &Value) -> Result<(), ApiError> {
        if response["allowed"] == true {
            return Ok(());
        }
        let status = &response["status"];
        let message = match (json::text(status, "message"), json::text(status, "reason")) {
            ("", "") => format!("admission webhook {:?} denied the request without explanation", self.name),
            ("", why) | (why, _) => format!("admission webhook {:?} denied the request: {why}", self.name),
        };
        let code = json::number(status, "code").and_then(|code| u16::try_from(code).ok());
        let code = code.filter(|code| (400..600).contains(code)).unwrap_or(403);
        let reason = match json::text(status, "reason") {
            "" if code == 403 => "Forbidden",
            reason => reason,
        };
        Err(ApiError { code, reason: reason.into(), message, details: status.get("details").cloned() })
    }
}

/// Returns the response of a review that answers this one.
fn checked(answer: &Value, uid: &Value) -> Result<Value, String> {
    let response = &answer["response"];
    if !response.is_object() {
        return Err("the review has no response".into());
    }
    if response["uid"] != *uid {
        return Err(format!("expected response.uid={uid}, got {}", response["uid"]));
    }
    Ok(response.clone())
}

/// Asks mutating webhooks in turn; those that want it are asked again when others changed the object after them.
pub(super) async fn mutate(
    storage: &Storage,
    hooks: &[Webhook],
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<(), ApiError> {
    let namespace = storage.namespace_of(attributes).await?;
    let mut left: Vec<Option<Value>> = vec![None; hooks.len()];
    for round in 0..2 {
        for (hook, left) in hooks.iter().zip(&mut left) {
            let again = hook.asks_again && left.as_ref().is_some_and(|left| left != object);
            if round == 1 && !again {
                continue;
            }
            let present = object.clone();
            let asked = hook.ask(storage, namespace.as_deref(), &attributes.with_object(&present)).await?;
            let Some((response, served)) = asked else { continue };
            hook.allowed(&response)?;
            let applied = apply(storage, attributes, &response, &served, object).await;
            if let Err(why) = applied
                && !hook.ignores_failures
            {
                return Err(error::internal(format!("failed calling webhook {:?}: {why}", hook.name)));
            }
            *left = Some(object.clone());
        }
    }
    Ok(())
}

/// Applies the patch of a response.
async fn apply(
    storage: &Storage,
    attributes: &Attributes<'_>,
    response: &Value,
    served: &Served,
    object: &mut Value,
) -> Result<(), String> {
    let patch = json::text(response, "patch");
    if patch.is_empty() {
        return Ok(());
    }
    let patch =
        base64::engine::general_purpose::STANDARD.decode(patch).map_err(|why| format!("patch: {why}"))?;
    let patch: Value = serde_json::from_slice(&patch).map_err(|why| format!("patch: {why}"))?;
    if attributes.speaks.is_some() {
        *object = patch::json_patched(object, &patch).map_err(|refusal| refusal.message)?;
        return Ok(());
    }
    let told = storage.exported(served, object).await.map_err(|refusal| refusal.message)?;
    let patched = patch::json_patched(&told, &patch).map_err(|refusal| refusal.message)?;
    if !patched["metadata"].is_object() {
        return Err("the patched object has no metadata".into());
    }
    let patched = storage.converted(attributes.kind, served.import(patched)).await;
    *object = patched.map_err(|refusal| refusal.message)?;
    Ok(())
}

/// Asks validating webhooks, all at once.
pub(super) async fn validate(
    storage: &Storage,
    hooks: &[Webhook],
    attributes: &Attributes<'_>,
) -> Result<(), ApiError> {
    if hooks.is_empty() {
        return Ok(());
    }
    let namespace = storage.namespace_of(attributes).await?;
    let asked = hooks.iter().map(|hook| async {
        match hook.ask(storage, namespace.as_deref(), attributes).await? {
            Some((response, _)) => hook.allowed(&response),
            None => Ok(()),
        }
    });
    futures_util::future::join_all(asked).await.into_iter().collect()
}
