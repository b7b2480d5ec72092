//! Looks up the class of runtimes that a new pod names, and gives the pod what the class says.
//!
//! Source: kubernetes `plugin/pkg/admission/runtimeclass`, `pkg/util/tolerations`.

use cirro_seams::api::ApiError;
use serde_json::Value;

use crate::error;
use crate::json;
use crate::registry::Kind;
use crate::storage::{Place, Storage};

/// Merges the class of a new pod into it.
///
/// # Errors
/// 403 for a class that does not exist, and for a pod that contradicts its class.
pub(super) async fn admit(storage: &Storage, kind: &Kind, pod: &mut Value) -> Result<(), ApiError> {
    let refusal = |pod: &Value, what: &str| error::forbidden(kind, json::name(pod), what);
    let name = json::text(pod, "spec.runtimeClassName").to_owned();
    if name.is_empty() {
        let overhead = json::object(pod, "spec.overhead").is_some_and(|overhead| !overhead.is_empty());
        let what = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        return if overhead { Err(refusal(pod, what)) } else { Ok(()) };
    }
    let classes = storage.registry.kind("node.k8s.io", "runtimeclasses").expect("classes are built in");
    let class = match storage.get(Place { kind: classes, namespace: "", name: &name }).await {
        Ok(class) => class,
        Err(why) if why.is_not_found() => {
            return Err(refusal(pod, &format!("pod rejected: RuntimeClass {name:?} not found")));
        }
        Err(why) => return Err(why),
    };
    merge(&class, pod).map_err(|what| refusal(pod, &what))
}

fn merge(class: &Value, pod: &mut Value) -> Result<(), String> {
    let given = json::object(pod, "spec.overhead").filter(|overhead| !overhead.is_empty());
    match (json::at(class, "overhead.podFixed"), given) {
        (Some(fixed), Some(given)) if fixed.as_object() != Some(given) => {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        (Some(fixed), _) => pod["spec"]["overhead"] = fixed.clone(),
        (None, Some(_)) => {
            let what = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(what.into());
        }
        (None, None) => {}
    }
    for (key, value) in json::object(class, "scheduling.nodeSelector").into_iter().flatten() {
        let selector = json::object_mut(&mut pod["spec"], "nodeSelector");
        let said = selector.entry(key.clone()).or_insert_with(|| value.clone());
        if said != value {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                value.as_str().unwrap_or_default(),
                said.as_str().unwrap_or_default()
            ));
        }
    }
    let tolerations = json::array(class, "scheduling.tolerations").to_vec();
    if !tolerations.is_empty() {
        let mut own = json::array(pod, "spec.tolerations").to_vec();
        own.extend(tolerations.into_iter().filter(|one| !json::array(pod, "spec.tolerations").contains(one)));
        pod["spec"]["tolerations"] = own.into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_gets_what_its_class_says() {
        let class = json!({"overhead": {"podFixed": {"cpu": "10m"}}, "scheduling": {"nodeSelector": {"a": "b"},
            "tolerations": [{"key": "k", "operator": "Exists"}]}});
        let mut pod = json!({"spec": {"tolerations": [{"key": "own"}], "nodeSelector": {"c": "d"}}});
        merge(&class, &mut pod).unwrap();
        assert_eq!(pod["spec"]["overhead"], json!({"cpu": "10m"}));
        assert_eq!(pod["spec"]["nodeSelector"], json!({"a": "b", "c": "d"}));
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        let once = pod.clone();
        merge(&class, &mut pod).unwrap();
        assert_eq!(pod, once);
        pod["spec"]["nodeSelector"]["a"] = "c".into();
        assert!(
            merge(&class, &mut pod)
                .unwrap_err()
                .starts_with("conflict: runtimeClass.scheduling.nodeSelector[a] = b")
        );
        let mut other = json!({"spec": {"overhead": {"cpu": "1"}}});
        assert!(merge(&class, &mut other).unwrap_err().contains("doesn't match"));
        assert!(merge(&json!({}), &mut other).unwrap_err().contains("without corresponding"));
    }
}
