//! Gives pods the priority of their class.
//!
//! Source: kubernetes `plugin/pkg/admission/priority`.

use std::sync::Arc;

use cirro_seams::api::ApiError;
use serde_json::Value;

use crate::error;
use crate::json;
use crate::registry::Kind;
use crate::storage::{ListOptions, Place, Storage};

/// Sets priority and preemption of a new pod.
///
/// # Errors
/// 403 for a class that does not exist, and for a pod that says another priority than its class.
pub(super) async fn admit(storage: &Storage, kind: &Kind, pod: &mut Value) -> Result<(), ApiError> {
    let refuse = |what: &str| Err(error::forbidden(kind, json::name(pod), what));
    let name = json::text(pod, "spec.priorityClassName").to_owned();
    let classes =
        storage.registry.kind("scheduling.k8s.io", "priorityclasses").expect("classes are built in");
    let class = match name.as_str() {
        "" => default_class(storage, classes).await?,
        name => match storage.get(Place { kind: classes, namespace: "", name }).await {
            Ok(class) => Some(class),
            Err(refusal) if refusal.is_not_found() => {
                return refuse(&format!("no PriorityClass with name {name} was found"));
            }
            Err(refusal) => return Err(refusal),
        },
    };
    let number = class.as_ref().and_then(|class| json::number(class, "value")).unwrap_or(0);
    let said = json::number(pod, "spec.priority").unwrap_or(0);
    if said != 0 && said != number {
        let what = format!(
            "the integer value of priority ({said}) must not be provided in pod spec; priority admission controller computed {number} from the given PriorityClass name"
        );
        return refuse(&what);
    }
    let policy =
        class.as_ref().map(|class| json::text(class, "preemptionPolicy")).filter(|policy| !policy.is_empty());
    let policy = policy.unwrap_or("PreemptLowerPriority").to_owned();
    let given = json::text(pod, "spec.preemptionPolicy");
    if name.is_empty() && class.is_none() {
        // What the pod has by its own defaults.
        return Ok(());
    }
    if given != policy && given != "PreemptLowerPriority" && !given.is_empty() {
        let what = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return refuse(&what);
    }
    if let Some(class) = class {
        pod["spec"]["priorityClassName"] = json::name(&class).into();
    }
    pod["spec"]["priority"] = number.into();
    pod["spec"]["preemptionPolicy"] = policy.into();
    Ok(())
}

/// Returns the class of pods that name none: of several, the one that gives least.
async fn default_class(storage: &Storage, kind: &Arc<Kind>) -> Result<Option<Arc<Value>>, ApiError> {
    let page = storage.list(kind, None, &ListOptions::default()).await?;
    let mut found: Option<Arc<Value>> = None;
    for record in &page.records {
        let class = storage.decoded.decode(record)?;
        let value = |class: &Value| json::number(class, "value").unwrap_or(0);
        if class["globalDefault"] == true && found.as_ref().is_none_or(|found| value(&class) < value(found)) {
            found = Some(class);
        }
    }
    Ok(found)
}
