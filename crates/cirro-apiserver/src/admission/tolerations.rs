//! Pods bear a node that is not ready or not reachable for five minutes, unless they say otherwise.
//!
//! Source: `plugin/pkg/admission/defaulttolerationseconds/admission.go`.

use serde_json::{Value, json};

use crate::json;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Adds the tolerations that a new pod has not.
pub(super) fn admit(pod: &mut Value) {
    let mut tolerations = json::array(pod, "spec.tolerations").to_vec();
    for taint in TAINTS {
        let bears = |one: &Value| {
            let (key, effect) = (json::text(one, "key"), json::text(one, "effect"));
            (key == taint || key.is_empty()) && matches!(effect, "" | "NoExecute")
        };
        if !tolerations.iter().any(bears) {
            tolerations.push(json!({"key": taint, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": SECONDS}));
        }
    }
    pod["spec"]["tolerations"] = tolerations.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_says_stands() {
        let mut pod = json!({"spec": {"tolerations": [{"key": TAINTS[0], "operator": "Exists"}]}});
        admit(&mut pod);
        let keys: Vec<_> =
            json::array(&pod, "spec.tolerations").iter().map(|one| json::text(one, "key")).collect();
        assert_eq!(keys, TAINTS);
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        admit(&mut all);
        assert_eq!(json::array(&all, "spec.tolerations").len(), 1);
    }
}
