//! What a namespace's conditions say of its deletion.
//!
//! Source: `pkg/controller/namespace/deletion/status_condition_utils.go`.

use std::collections::BTreeMap;

use cirro_seams::api::{ApiError, Packed, Resource};
use jiff::Timestamp;
use serde_json::{Value, json};

/// What is left of a namespace's content.
#[derive(Default)]
pub(super) struct Content {
    /// Objects by `PLURAL.GROUP`.
    objects: BTreeMap<String, usize>,
    /// Objects by finalizer.
    finalizers: BTreeMap<String, usize>,
    failures: Vec<ApiError>,
}

impl Content {
    /// Notes what stays of a kind.
    pub(super) fn left(&mut self, resource: &Resource, objects: &[Packed]) {
        if objects.is_empty() {
            return;
        }
        self.objects.insert(format!("{}.{}", resource.plural, resource.group), objects.len());
        for object in objects {
            let object = object.decode();
            let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
            for finalizer in finalizers.into_iter().flatten().filter_map(Value::as_str) {
                *self.finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
    }

    /// Notes what could not be deleted.
    pub(super) fn failed(&mut self, failure: ApiError) {
        self.failures.push(failure);
    }

    /// Whether nothing is left.
    pub(super) fn is_gone(&self) -> bool {
        self.objects.is_empty() && self.failures.is_empty()
    }

    /// Returns the first failure.
    pub(super) fn failure(self) -> Option<ApiError> {
        self.failures.into_iter().next()
    }

    /// Returns type, whether it holds, reason and message of each condition.
    fn conditions(&self) -> [(&'static str, bool, &'static str, String); 5] {
        let list = |all: &BTreeMap<String, usize>, word: &str| {
            let parts: Vec<_> =
                all.iter().map(|(name, count)| format!("{name} {word} {count} resource instances")).collect();
            parts.join(", ")
        };
        let failed = {
            let messages: Vec<_> = self.failures.iter().map(|failure| failure.message.as_str()).collect();
            let left: usize = self.objects.values().sum();
            format!("Failed to delete all resource types, {left} remaining: {}", messages.join(", "))
        };
        let (has_failed, has_content, has_finalizers) =
            (!self.failures.is_empty(), !self.objects.is_empty(), !self.finalizers.is_empty());
        let either = |holds: bool, yes: (&'static str, String), no: (&'static str, &str)| {
            if holds { yes } else { (no.0, no.1.to_owned()) }
        };
        let content = either(
            has_failed,
            ("ContentDeletionFailed", failed),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        );
        let remaining = either(
            has_content,
            ("SomeResourcesRemain", format!("Some resources are remaining: {}", list(&self.objects, "has"))),
            ("ContentRemoved", "All content successfully removed"),
        );
        let text = format!(
            "Some content in the namespace has finalizers remaining: {}",
            list(&self.finalizers, "in")
        );
        let finalizers = either(
            has_finalizers,
            ("SomeFinalizersRemain", text),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        );
        let found = "All resources successfully discovered".to_owned();
        let parsed = "All legacy kube types successfully parsed".to_owned();
        [
            ("NamespaceDeletionDiscoveryFailure", false, "ResourcesDiscovered", found),
            ("NamespaceDeletionGroupVersionParsingFailure", false, "ParsedGroupVersions", parsed),
            ("NamespaceDeletionContentFailure", has_failed, content.0, content.1),
            ("NamespaceContentRemaining", has_content, remaining.0, remaining.1),
            ("NamespaceFinalizersRemaining", has_finalizers, finalizers.0, finalizers.1),
        ]
    }
}

/// Returns a namespace's status with its conditions as they are now.
pub(super) fn status(present: &Value, content: &Content, now: Timestamp) -> Value {
    let mut status = present.clone();
    let mut list = present["conditions"].as_array().cloned().unwrap_or_default();
    for (kind, holds, reason, message) in content.conditions() {
        let state = if holds { "True" } else { "False" };
        let at = list.iter().position(|one| one["type"] == kind);
        let before = at.map(|at| list[at].clone()).unwrap_or_default();
        let since = match before["status"] == state {
            true => before["lastTransitionTime"].clone(),
            false => cirro_client::seconds(now).into(),
        };
        let next = json!({"type": kind, "status": state, "lastTransitionTime": since, "reason": reason, "message": message});
        match at {
            Some(at) => list[at] = next,
            None => list.push(next),
        }
    }
    status["conditions"] = list.into();
    status
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn conditions_say_what_is_left_and_keep_their_times() {
        let mut content = Content::default();
        let kept = Packed::from(Arc::new(json!({"metadata": {"finalizers": ["x/y"]}})));
        let other = Packed::from(Arc::new(json!({"metadata": {}})));
        content.left(&Resource::new("", "pods"), &[kept.clone(), other]);
        content.left(&Resource::new("apps", "deployments"), &[kept]);
        let first = status(&json!({"phase": "Terminating"}), &content, Timestamp::UNIX_EPOCH);
        let message = |status: &Value, kind: &str| {
            let list = status["conditions"].as_array().unwrap();
            let one = list.iter().find(|one| one["type"] == kind).unwrap();
            (
                one["status"].clone(),
                one["message"].as_str().unwrap().to_owned(),
                one["lastTransitionTime"].clone(),
            )
        };
        let remaining = message(&first, "NamespaceContentRemaining");
        assert_eq!(remaining.0, "True");
        assert_eq!(
            remaining.1,
            "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances"
        );
        assert_eq!(
            message(&first, "NamespaceFinalizersRemaining").1,
            "Some content in the namespace has finalizers remaining: x/y in 2 resource instances"
        );
        let later = Timestamp::from_second(60).unwrap();
        assert_eq!(status(&first, &content, later), first);
        let empty = status(&first, &Content::default(), later);
        assert_eq!(message(&empty, "NamespaceContentRemaining").2, "1970-01-01T00:01:00Z");
        assert_eq!(message(&empty, "NamespaceDeletionContentFailure").2, "1970-01-01T00:00:00Z");
    }
}
