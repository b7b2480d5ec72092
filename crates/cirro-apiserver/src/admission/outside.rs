//! Admission by others: webhooks, and policies that people wrote.
//!
//! ```text
//! mutating webhooks ─▶ (validation of the kind) ─▶ policies in CEL ─▶ validating webhooks
//! ```
//! What is configured is read from the store and compiled once per change. The configurations themselves are never
//! subject to it, so that a wrong one can be taken away.

use std::sync::{Arc, Mutex};

use cirro_seams::api::ApiError;
use serde_json::Value;

use crate::error;
use crate::json;
use crate::registry::Kind;
use crate::storage::{Place, Storage};

mod annotation;
mod attributes;
mod call;
mod condition;
mod matching;
mod part;
mod policy;
mod types;
mod webhook;

pub(crate) use annotation::annotation_faults;
pub(crate) use attributes::{Attributes, Operation};
pub(crate) use call::{Target, endpoint, roots};
pub(crate) use part::{Part, told};
use policy::{Binding, Policy};
pub(crate) use policy::{compile_fault, compile_faults};
use webhook::Webhook;

pub(crate) const GROUP: &str = "admissionregistration.k8s.io";
const PREFIX: &str = "/registry/admissionregistration.k8s.io/";

/// What is configured, compiled.
#[derive(Default)]
struct Configured {
    mutating: Vec<Webhook>,
    validating: Vec<Webhook>,
    policies: Vec<Policy>,
    bindings: Vec<Binding>,
}

/// The configuration of a state of the store: its newest revision, and how much there was.
type Kept = ((u64, usize), Arc<Configured>);

/// The newest configuration that somebody looked at.
#[derive(Default)]
pub(crate) struct Outside(Mutex<Option<Kept>>);

impl Storage {
    async fn configured(&self) -> Result<Option<Arc<Configured>>, ApiError> {
        let listing = self.store.list(PREFIX, None, 0, 0).await;
        let listing = listing.map_err(|source| error::store(source, self.store.revision()))?;
        if listing.records.is_empty() {
            return Ok(None);
        }
        let newest = listing.records.iter().map(|record| record.revision).max().unwrap_or(0);
        let state = (newest, listing.records.len());
        if let Some((kept, configured)) = &*self.outside.0.lock().expect("no panic while it is held")
            && *kept == state
        {
            return Ok(Some(configured.clone()));
        }
        let mut configured = Configured::default();
        // Keys come in order, and so do the configurations of a kind.
        for record in &listing.records {
            let object = self.decoded.decode(record)?;
            let plural = record.key[PREFIX.len()..].split('/').next().unwrap_or_default();
            match plural {
                "mutatingwebhookconfigurations" => configured.mutating.extend(webhook::read(&object)),
                "validatingwebhookconfigurations" => configured.validating.extend(webhook::read(&object)),
                "validatingadmissionpolicies" => configured.policies.push(Policy::read(&object)),
                "validatingadmissionpolicybindings" => configured.bindings.push(Binding::read(&object)),
                _ => {}
            }
        }
        let configured = Arc::new(configured);
        *self.outside.0.lock().expect("no panic while it is held") = Some((state, configured.clone()));
        Ok(Some(configured))
    }

    /// Lets mutating webhooks change an object that is written; returns what it was when they did.
    ///
    /// # Errors
    /// The refusal of whichever webhook refuses, and of those that cannot be asked and must be.
    pub(crate) async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Value,
    ) -> Result<Option<Value>, ApiError> {
        if is_exempt(attributes.kind) || part::is_told() {
            return Ok(None);
        }
        let Some(configured) = self.configured().await? else { return Ok(None) };
        if configured.mutating.is_empty() {
            return Ok(None);
        }
        let before = object.clone();
        let attributes = attributes.with_object(&before);
        webhook::mutate(self, &configured.mutating, &attributes, object).await?;
        Ok((*object != before).then_some(before))
    }

    /// Lets policies and validating webhooks refuse a write.
    ///
    /// # Errors
    /// The refusal of whichever refuses.
    pub(crate) async fn validate_outside(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        self.restrict_node(attributes).await?;
        if is_exempt(attributes.kind) || part::is_told() {
            return Ok(());
        }
        let Some(configured) = self.configured().await? else { return Ok(()) };
        self.refuse(&configured, attributes).await
    }

    async fn refuse(&self, configured: &Configured, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        if !configured.bindings.is_empty() {
            policy::check(self, &configured.policies, &configured.bindings, attributes).await?;
        }
        webhook::validate(self, &configured.validating, attributes).await
    }

    /// Returns the namespace of a request as selectors see it; the object itself when that is a namespace.
    async fn namespace_of(&self, attributes: &Attributes<'_>) -> Result<Option<Arc<Value>>, ApiError> {
        if attributes.kind.group.is_empty() && attributes.kind.plural == "namespaces" {
            return Ok(attributes.object.or(attributes.old).map(|object| Arc::new(object.clone())));
        }
        if !attributes.kind.namespaced {
            return Ok(None);
        }
        let kind = self.registry.kind("", "namespaces").expect("namespaces are built in");
        let place = Place { kind, namespace: "", name: attributes.namespace };
        match self.get(place).await {
            Ok(found) => Ok(Some(found)),
            Err(refusal) if refusal.is_not_found() => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }
}

fn is_exempt(kind: &Kind) -> bool {
    kind.group == GROUP || !kind.stored
}

/// Returns the texts of a list.
fn texts(value: &Value, path: &str) -> Vec<String> {
    json::array(value, path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}
