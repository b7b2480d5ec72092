//! Which revisions a replica set has been: going back to an old one gives it a new number, and the old ones are kept.
//!
//! Source: `pkg/controller/deployment/util/deployment_util.go`, `SetNewReplicaSetAnnotations`.

use serde_json::{Value, json};

use super::{REVISION, revision};

/// Annotation of the revisions that a set was before, oldest first.
pub(super) const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Longest annotation; older revisions are forgotten.
const MAX_CHARS: usize = 2000;

/// Returns the annotations of a replica set that becomes a revision.
pub(super) fn at_revision(set: &Value, next: i64) -> Value {
    let mut annotations = json!({REVISION: next.to_string()});
    let last = revision(set);
    if last > 0 && last < next {
        let before = set["metadata"]["annotations"][HISTORY].as_str().unwrap_or_default();
        annotations[HISTORY] = with(before, last).into();
    }
    annotations
}

fn with(before: &str, last: i64) -> String {
    let last = last.to_string();
    let mut kept: Vec<&str> = before.split(',').filter(|one| !one.is_empty()).collect();
    kept.push(&last);
    while kept.len() > 1 && kept.iter().map(|one| one.len() + 1).sum::<usize>() > MAX_CHARS {
        kept.remove(0);
    }
    kept.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_revisions_are_kept_in_their_order() {
        let set = |annotations: Value| json!({"metadata": {"annotations": annotations}});
        assert_eq!(at_revision(&set(json!({})), 1), json!({REVISION: "1"}));
        assert_eq!(at_revision(&set(json!({REVISION: "1"})), 3), json!({REVISION: "3", HISTORY: "1"}));
        let twice = set(json!({REVISION: "3", HISTORY: "1"}));
        assert_eq!(at_revision(&twice, 5), json!({REVISION: "5", HISTORY: "1,3"}));
        assert!(with(&"123,".repeat(600), 9).len() <= MAX_CHARS);
    }
}
