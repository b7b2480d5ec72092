//! Eviction: a deletion that disruption budgets may put off.
//!
//! Source: `pkg/registry/core/pod/storage/eviction.go`.

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use cirro_seams::api::{ApiError, DeleteOptions};
use serde_json::{Value, json};

use super::Call;
use super::delete::{asks_dry_run, read_options};
use super::write::{read_body, success};
use crate::admission::outside::{Operation, Part, told};
use crate::decode;
use crate::error;
use crate::json;
use crate::registry::{Kind, Subresource};
use crate::storage::{ListOptions, Place, Storage, Target};
use crate::validate::selector;

/// Evictions that the disruption controller may have yet to see.
const MAX_DISRUPTED: usize = 2000;

impl Call {
    /// Evicts a pod.
    pub(super) async fn evict(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let (media_type, body) = read_body(request).await?;
        let mut eviction = decode::decode(&media_type, &body)?.value;
        let name = json::name(&eviction);
        if !name.is_empty() && name != self.place().name {
            return Err(error::bad_request("name in URL does not match name in Eviction object"));
        }
        let storage = &self.server.storage;
        storage.restrict_eviction(self.place()).await?;
        let options = read_options(&eviction["deleteOptions"]);
        let dry_run = self.query.dry_run()? || asks_dry_run(&eviction["deleteOptions"]);
        let place = self.place();
        eviction["apiVersion"] = "policy/v1".into();
        eviction["kind"] = "Eviction".into();
        let (subresource, operation) = (Subresource::Eviction, Operation::Create);
        storage.admit_sent(Part { place, subresource, operation, old: None, dry_run }, eviction).await?;
        storage.evict(place, &options, dry_run).await?;
        Ok(self.answer().foreign(StatusCode::CREATED, &success(json!({}))))
    }
}

impl Storage {
    /// Deletes a pod if its budget lets it go.
    ///
    /// # Errors
    /// 429 when the budget does not, 500 when there are several.
    pub(crate) async fn evict(
        &self,
        place: Place<'_>,
        options: &DeleteOptions,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        let pod = self.get(place).await?;
        if !is_gone_anyway(&pod) {
            let kind = self.registry.kind("policy", "poddisruptionbudgets").expect("budgets are built in");
            let mut budgets = Vec::new();
            for record in self.list(kind, Some(place.namespace), &ListOptions::default()).await?.records {
                let budget = self.decoded.decode(&record)?;
                let wanted = json::at(&budget, "spec.selector");
                if wanted.is_some_and(|wanted| selector::matches(wanted, pod["metadata"].get("labels"))) {
                    budgets.push(budget);
                }
            }
            match budgets.as_slice() {
                [] => {}
                [budget] => self.spend(kind, budget, &pod, dry_run).await?,
                _ => {
                    let what = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                    return Err(error::internal(what));
                }
            }
        }
        // Of an eviction webhooks are told as such.
        told(self.delete(place, options, dry_run)).await.map(drop)
    }

    /// Takes one disruption from a budget.
    async fn spend(
        &self,
        kind: &std::sync::Arc<Kind>,
        budget: &Value,
        pod: &Value,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        let name = json::name(budget);
        if !is_ready(pod) && lets_unready_go(budget) {
            return Ok(());
        }
        let change = |budget: &Value| {
            check(kind, budget)?;
            let mut next = budget.clone();
            let allowed = json::number(budget, "status.disruptionsAllowed").unwrap_or(0) - 1;
            next["status"]["disruptionsAllowed"] = allowed.into();
            json::object_mut(&mut next["status"], "disruptedPods")
                .insert(json::name(pod).to_owned(), crate::identity::now().into());
            if allowed == 0 {
                close(&mut next);
            }
            Ok(next)
        };
        let place = Place { kind, namespace: json::namespace(budget), name };
        self.modify(place, Target::Status, dry_run, change).await.map(drop)
    }
}

/// Whether a pod serves nobody, so that no budget counts it.
fn is_gone_anyway(pod: &Value) -> bool {
    matches!(json::text(pod, "status.phase"), "Succeeded" | "Failed" | "Pending")
        || json::at(pod, "metadata.deletionTimestamp").is_some()
}

fn is_ready(pod: &Value) -> bool {
    json::array(pod, "status.conditions").iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Whether a pod that is not ready may go without being counted.
fn lets_unready_go(budget: &Value) -> bool {
    let number = |path: &str| json::number(budget, path).unwrap_or(0);
    let desired = number("status.desiredHealthy");
    json::text(budget, "spec.unhealthyPodEvictionPolicy") == "AlwaysAllow"
        || (number("status.currentHealthy") >= desired && desired > 0)
}

/// Refuses what a budget does not have.
fn check(kind: &Kind, budget: &Value) -> Result<(), ApiError> {
    let (name, number) = (json::name(budget), |path: &str| json::number(budget, path).unwrap_or(0));
    if number("status.observedGeneration") < number("metadata.generation") {
        let what = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refused(&what, Some(10)));
    }
    let allowed = number("status.disruptionsAllowed");
    if allowed < 0 {
        return Err(error::forbidden(kind, name, "pdb disruptions allowed is negative"));
    }
    if json::object(budget, "status.disruptedPods").is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        let what = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(error::forbidden(kind, name, what));
    }
    if allowed == 0 {
        let (desired, current) = (number("status.desiredHealthy"), number("status.currentHealthy"));
        let what =
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently");
        return Err(refused(&what, None));
    }
    Ok(())
}

/// Returns upstream's refusal. The client is told when to come again only where that is known.
fn refused(what: &str, seconds: Option<u32>) -> ApiError {
    let mut refusal = error::too_many_requests();
    refusal.message = "Cannot evict pod as it would violate the pod's disruption budget.".into();
    let mut details = json!({"causes": [{"reason": "DisruptionBudget", "message": what}]});
    if let Some(seconds) = seconds {
        details["retryAfterSeconds"] = seconds.into();
    }
    refusal.details = Some(details);
    refusal
}

/// Says in a budget's condition that there is nothing left.
fn close(budget: &mut Value) {
    let generation = budget["metadata"]["generation"].clone();
    let Some(conditions) = budget["status"]["conditions"].as_array_mut() else { return };
    for condition in conditions.iter_mut().filter(|one| one["type"] == "DisruptionAllowed") {
        condition["status"] = "False".into();
        condition["reason"] = "InsufficientPods".into();
        condition["lastTransitionTime"] = crate::identity::now().into();
        condition["observedGeneration"] = generation.clone();
    }
}
