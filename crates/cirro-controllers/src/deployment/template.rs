//! Pod templates: their hash, and the replica set made from one.

use cirro_client::{labels, name, namespace};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::history::HISTORY;
use super::{DESIRED, MAX_REPLICAS, REVISION};

/// Label that tells the pods of one template from those of another.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// Upstream's alphabet for generated names: no vowels, nothing that looks alike.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Annotations that are the deployment's own, not its revisions'.
const NOT_COPIED: [&str; 5] =
    ["kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MAX_REPLICAS];

/// Whether a replica set was made from a deployment's present template.
pub(super) fn is_of(deployment: &Value, set: &Value) -> bool {
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    normal(&template) == normal(&deployment["spec"]["template"])
}

/// Makes the replica set of the present template.
pub(super) fn replica_set(deployment: &Value, owner: Value, replicas: i64, collisions: i64) -> Value {
    let hash = hash(&deployment["spec"]["template"], collisions);
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH_LABEL] = hash.clone().into();
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH_LABEL] = hash.clone().into();
    let scale = super::Scale::of(deployment);
    let copied = deployment.pointer("/metadata/annotations").and_then(Value::as_object);
    let mut annotations: serde_json::Map<String, Value> = copied.cloned().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    annotations.insert(DESIRED.into(), scale.desired.to_string().into());
    annotations.insert(MAX_REPLICAS.into(), (scale.desired + scale.max_surge).to_string().into());
    json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", name(deployment)),
            "namespace": namespace(deployment),
            "labels": labels(&template),
            "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": deployment["spec"]["minReadySeconds"].as_i64().unwrap_or(0),
            "selector": selector,
            "template": template,
        },
    })
}

fn hash(template: &Value, collisions: i64) -> String {
    let mut hasher = Sha256::new();
    // serde_json's maps are ordered, so equal templates print alike.
    hasher.update(normal(template).to_string());
    hasher.update(collisions.to_be_bytes());
    let digest = hasher.finalize();
    digest.iter().take(10).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// Drops members that are null or empty: a template reads the same with and without them.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().map(|(key, value)| (key.clone(), normal(value)));
            Value::Object(kept.filter(|(_, value)| !is_nothing(value)).collect())
        }
        Value::Array(items) => items.iter().map(normal).collect(),
        other => other.clone(),
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(image: &str) -> Value {
        json!({"metadata": {"name": "web", "namespace": "ns",
                "annotations": {"a": "b", "deployment.kubernetes.io/revision": "7"}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"labels": {"app": "x"}, "creationTimestamp": null},
                    "spec": {"containers": [{"name": "c", "image": image}]}}}})
    }

    #[test]
    fn a_set_is_of_the_template_that_it_was_made_from() {
        let (one, two) = (deployment("a"), deployment("b"));
        let set = replica_set(&one, json!({}), 2, 0);
        assert!(is_of(&one, &set));
        assert!(!is_of(&two, &set));
        let hash = set["metadata"]["labels"][HASH_LABEL].as_str().unwrap();
        assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
        assert_eq!(set["spec"]["selector"]["matchLabels"], json!({"app": "x", HASH_LABEL: hash}));
        assert_eq!(set["metadata"]["annotations"]["a"], "b");
        assert!(set["metadata"]["annotations"].get(REVISION).is_none());
    }

    #[test]
    fn a_collision_changes_the_name() {
        let set =
            |collisions| replica_set(&deployment("a"), json!({}), 1, collisions)["metadata"]["name"].clone();
        assert_eq!(set(0), set(0));
        assert_ne!(set(0), set(1));
    }
}
