//! What a write must pass beyond the rules of its kind.
//!
//! ```text
//! defaults ─▶ admit (changes the object) ─▶ validation ─▶ check (refuses, adds to the transaction)
//! ```

use cirro_seams::api::ApiError;
use cirro_store::{Condition, Operation};
use serde_json::{Value, json};

use crate::asker;
use crate::certificates;
use crate::fairness;
use crate::json;
use crate::rbac::{self, escalation};
use crate::record;
use crate::registry::{Kind, Subresource};
use crate::server::Plugin;
use crate::storage::Storage;

mod account;
mod limits;
pub(crate) mod outside;
mod priority;
mod protection;
pub(crate) mod quota;
mod runtime_class;
mod secret;
mod security;
mod tolerations;

pub(crate) use security::check_labels;

/// Name of the ConfigMap that holds the authority's certificate in every namespace.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";

/// What admission adds to the transaction of a write.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) operations: Vec<Operation>,
}

impl Admitted {
    /// Puts two together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.conditions.extend(other.conditions);
        self.operations.extend(other.operations);
        self
    }
}

impl Storage {
    /// Completes an object before it is validated.
    ///
    /// # Errors
    /// The refusal of whichever part of admission refuses.
    pub(crate) async fn admit(
        &self,
        kind: &Kind,
        namespace: &str,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        match (kind.group.as_str(), kind.plural.as_str(), old) {
            ("", "pods", None) => {
                let wanted = |part| !self.without_admission.contains(&part);
                if wanted(Plugin::ServiceAccount) {
                    account::admit(self, kind, namespace, new).await?;
                }
                priority::admit(self, kind, new).await?;
                runtime_class::admit(self, kind, new).await?;
                if wanted(Plugin::DefaultTolerationSeconds) {
                    tolerations::admit(new);
                }
                limits::admit(self, kind, namespace, new).await
            }
            ("", plural @ ("persistentvolumeclaims" | "persistentvolumes"), None) => {
                if !self.without_admission.contains(&Plugin::StorageObjectInUseProtection) {
                    protection::admit(plural, new);
                }
                if plural == "persistentvolumes" {
                    return Ok(());
                }
                limits::admit(self, kind, namespace, new).await
            }
            ("", "resourcequotas", _) => {
                let counted =
                    old.is_some_and(|old| old["spec"] == new["spec"] && old.get("status").is_some());
                if counted { Ok(()) } else { self.count(namespace, new).await }
            }
            (fairness::GROUP, "flowschemas", _) => self.note_level(new).await,
            (certificates::GROUP, "certificatesigningrequests", None) => certificates::admit(kind, new),
            (outside::GROUP, "validatingadmissionpolicies", _) => {
                self.check_types(new, old);
                Ok(())
            }
            ("", "secrets", _) => secret::admit(self, namespace, new).await,
            _ => Ok(()),
        }
    }

    /// Checks the new state of a part of an object before it is validated.
    ///
    /// # Errors
    /// The refusal of whichever part of admission refuses.
    pub(crate) async fn admit_part(
        &self,
        kind: &Kind,
        part: Subresource,
        new: &Value,
    ) -> Result<(), ApiError> {
        match part {
            Subresource::Resize => limits::allow(self, kind, json::namespace(new), new).await,
            _ => Ok(()),
        }
    }

    /// Checks a complete object before it is committed; `old` is what it replaces.
    ///
    /// # Errors
    /// The refusal of whichever check refuses.
    pub(crate) async fn check(
        &self,
        kind: &Kind,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<Admitted, ApiError> {
        let namespace = json::namespace(new);
        if kind.namespaced {
            security::check(self, kind, namespace, new, old).await?;
        }
        if kind.group == rbac::GROUP
            && let Some(user) = asker::current()
        {
            escalation::check(&*self.rbac.policy().await?, &user, kind, new, old)?;
        }
        if kind.group.is_empty() && kind.plural == "namespaces" && old.is_none() {
            return Ok(Admitted { conditions: Vec::new(), operations: self.furnish(json::name(new))? });
        }
        Ok(Admitted::default())
    }

    /// Returns what a new namespace gets in its own transaction, so that the first pod finds its account.
    /// The controllers of both bring back what is deleted later.
    fn furnish(&self, namespace: &str) -> Result<Vec<Operation>, ApiError> {
        let mut objects = vec![("serviceaccounts", json!({"metadata": {"name": "default"}}))];
        if let Some(pki) = &self.pki {
            objects.push(("configmaps", root_ca(pki.ca())));
        }
        let operation = |(plural, object): (&str, Value)| {
            let kind = self.registry.kind("", plural).expect("the core kinds are built in");
            let object = crate::storage::begin_creation(
                kind,
                namespace,
                object,
                crate::storage::Tracking::Difference,
            )?;
            Ok(Operation::Put(kind.key(namespace, json::name(&object)), record::encode(kind, &object)?))
        };
        objects.into_iter().map(operation).collect()
    }
}

/// Returns the ConfigMap with which pods check whom they talk to.
fn root_ca(certificate: &str) -> Value {
    let about = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
    json!({"metadata": {"name": ROOT_CA, "annotations": {"kubernetes.io/description": about}},
        "data": {"ca.crt": certificate}})
}
