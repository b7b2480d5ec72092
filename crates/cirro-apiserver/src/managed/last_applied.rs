//! kubectl's way from applying by itself to server-side apply, and back.
//!
//! What the annotation of client-side apply says, and the object still has, belongs to kubectl whoever is noted as its
//! manager; and an apply by kubectl keeps an annotation that is there up to date.
//!
//! Source: apimachinery `util/managedfields/internal`, `lastappliedmanager.go` and `lastappliedupdater.go`.

use serde_json::Value;

use super::{Set, Shape, walk};
use crate::json;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Another field manager says that this is not wanted.
const KUBECTL: &str = "kubectl";
/// Most bytes of an object's annotations.
const MAX_ANNOTATIONS: usize = 256 << 10;

fn annotation(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][ANNOTATION].as_str()
}

/// Returns what a manager may take from others without force.
pub(super) fn inherited(shape: &Shape, manager: &str, live: &Value) -> Set {
    if manager != KUBECTL {
        return Set::default();
    }
    let last = annotation(live).and_then(|text| crate::decode::json(text.as_bytes()).ok());
    let Some(last) = last.map(|decoded| decoded.value).filter(Value::is_object) else {
        return Set::default();
    };
    let mut inherited = walk::named(shape, &last);
    let difference = walk::compare(shape, live, &last);
    // What somebody changed since is theirs.
    inherited.subtract(&difference.modified);
    inherited.subtract(&difference.added);
    inherited
}

/// Brings the annotation up to date with what kubectl applied.
pub(super) fn follow(merged: &mut Value, config: &Value, manager: &str) {
    if manager != KUBECTL || annotation(merged).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{config}\n");
    let annotations = json::object_mut(&mut merged["metadata"], "annotations");
    if text.len() > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    } else {
        annotations.insert(ANNOTATION.into(), text.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::managed::applied;
    use crate::storage::Target;

    #[test]
    fn kubectl_takes_over_what_it_applied_before() {
        let registry = crate::kinds::registry();
        let kind = registry.kind("", "configmaps").unwrap();
        let last = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "b": "1"}});
        let mut live = last.clone();
        live["metadata"]["annotations"] = json!({ANNOTATION: last.to_string()});
        crate::managed::created(kind, &mut live);
        let mut wanted = last.clone();
        wanted["data"]["a"] = "2".into();
        let apply = |live: &Value, manager| applied(kind, Target::Object, live, &wanted, manager, false);
        assert_eq!(apply(&live, "other").unwrap_err().code, 409);
        let done = apply(&live, KUBECTL).unwrap();
        assert_eq!(done["data"]["a"], "2");
        assert_eq!(annotation(&done).unwrap().trim_end(), wanted.to_string());
        // Changed by another since: no more kubectl's.
        let mut changed = live.clone();
        changed["data"]["a"] = "3".into();
        assert_eq!(apply(&changed, KUBECTL).unwrap_err().code, 409);
    }
}
