//! apps/v1.

use serde_json::{Value, json};

use super::{pod, retired};
use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::apps as columns;
use crate::validate::fields::amount;
use crate::validate::{self, selector};

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    let subresources = [Subresource::Status, Subresource::Scale];
    let deployment = Kind::namespaced("apps", "v1", "Deployment", "deployments")
        .short(&["deploy"])
        .category("all")
        .schema("io.k8s.api.apps.v1.Deployment")
        .subresources(&subresources)
        .columns(columns::deployment())
        .strategy(&Deployment);
    let replica_set = Kind::namespaced("apps", "v1", "ReplicaSet", "replicasets")
        .short(&["rs"])
        .category("all")
        .schema("io.k8s.api.apps.v1.ReplicaSet")
        .subresources(&subresources)
        .selectable(&["status.replicas"])
        .columns(columns::replica_set())
        .strategy(&ReplicaSet);
    vec![retired::deployment_views().into_iter().fold(deployment, Kind::view), replica_set]
}

struct Deployment;

impl Strategy for Deployment {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        let spec = &mut object["spec"];
        if !spec.is_object() {
            return;
        }
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "progressDeadlineSeconds", 600);
        set_default(spec, "strategy", json!({}));
        let strategy = &mut spec["strategy"];
        set_default(strategy, "type", "RollingUpdate");
        if json::text(strategy, "type") == "RollingUpdate" {
            set_default(strategy, "rollingUpdate", json!({}));
            set_default(&mut strategy["rollingUpdate"], "maxUnavailable", "25%");
            set_default(&mut strategy["rollingUpdate"], "maxSurge", "25%");
        }
        pod::pod_spec_defaults(&mut spec["template"]["spec"]);
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        workload(object, "deployment", "ReplicaSet", causes);
        rolling_update(&object["spec"]["strategy"], causes);
        for field in ["spec.minReadySeconds", "spec.revisionHistoryLimit", "spec.progressDeadlineSeconds"] {
            validate::not_negative(field, object, causes);
        }
        let deadline = json::number(object, "spec.progressDeadlineSeconds").unwrap_or(600);
        if deadline <= json::number(object, "spec.minReadySeconds").unwrap_or(0) {
            let detail = "must be greater than minReadySeconds";
            causes.invalid("spec.progressDeadlineSeconds", &deadline.into(), detail);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        validate::immutable("spec.selector", object, old, causes);
    }
}

struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        let spec = &mut object["spec"];
        if spec.is_object() {
            set_default(spec, "replicas", 1);
            pod::pod_spec_defaults(&mut spec["template"]["spec"]);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"replicas": 0});
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        workload(object, "replicaset", "ReplicaSet", causes);
        validate::not_negative("spec.minReadySeconds", object, causes);
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        validate::immutable("spec.selector", object, old, causes);
    }
}

/// Checks replicas, selector and template, which every workload has; `word` is what upstream's texts
/// call the kind, `template` whose template it says it is.
pub(super) fn workload(object: &Value, word: &str, template: &str, causes: &mut Causes) {
    let spec = &object["spec"];
    validate::not_negative("spec.replicas", object, causes);
    let template_labels = json::at(spec, "template.metadata.labels");
    match spec.get("selector") {
        None => causes.required("spec.selector", ""),
        Some(selector) if selector::is_empty(Some(selector)) => {
            causes.invalid("spec.selector", selector, &format!("empty selector is invalid for {word}"));
        }
        Some(selector) => {
            selector::check("spec.selector", selector, causes);
            if !selector::matches(selector, template_labels) {
                let labels = template_labels.cloned().unwrap_or_else(|| json!({}));
                let detail = "`selector` does not match template `labels`";
                causes.invalid("spec.template.metadata.labels", &labels, detail);
            }
        }
    }
    validate::labels("spec.template.labels", template_labels, causes);
    validate::pod::spec("spec.template.spec", &spec["template"]["spec"], causes);
    let policy = json::text(spec, "template.spec.restartPolicy");
    if policy != "Always" && ["OnFailure", "Never"].contains(&policy) {
        causes.unsupported("spec.template.spec.restartPolicy", &policy.into(), &["Always"]);
    }
    if json::at(spec, "template.spec.activeDeadlineSeconds").is_some() {
        causes.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            &format!("activeDeadlineSeconds in {template} is not Supported"),
        );
    }
}

fn rolling_update(strategy: &Value, causes: &mut Causes) {
    match json::text(strategy, "type") {
        "Recreate" if strategy.get("rollingUpdate").is_some() => causes.forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        "Recreate" => {}
        "RollingUpdate" => {
            let mut zeros = 0;
            for member in ["maxUnavailable", "maxSurge"] {
                let field = format!("spec.strategy.rollingUpdate.{member}");
                let value = &strategy["rollingUpdate"][member];
                match amount(value) {
                    Err(why) => causes.invalid(&field, value, why),
                    Ok(0) => zeros += 1,
                    Ok(_) => {}
                }
            }
            if zeros == 2 {
                let value = &strategy["rollingUpdate"]["maxUnavailable"];
                let detail = "may not be 0 when `maxSurge` is 0";
                causes.invalid("spec.strategy.rollingUpdate.maxUnavailable", value, detail);
            }
        }
        _ => causes.unsupported("spec.strategy.type", &strategy["type"], &["Recreate", "RollingUpdate"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(spec: Value) -> String {
        let mut object = json!({"spec": spec});
        let mut causes = Causes::default();
        Deployment.defaults(&mut object);
        Deployment.validate(&object, &mut causes);
        format!("{causes:?}")
    }

    fn template() -> Value {
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    }

    #[test]
    fn a_plain_deployment_is_good() {
        let text = faults(json!({"selector": {"matchLabels": {"a": "b"}}, "template": template()}));
        assert_eq!(text, "Causes([])");
    }

    #[test]
    fn faults_are_named_by_their_paths() {
        let text = faults(json!({"selector": {"matchLabels": {"a": "c"}}, "template": template()}));
        assert!(text.contains("`selector` does not match template `labels`"), "{text}");
        let text = faults(json!({"template": template(), "replicas": -1}));
        assert!(text.contains("spec.selector") && text.contains("spec.replicas"), "{text}");
        let strategy = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
        let text = faults(
            json!({"selector": {"matchLabels": {"a": "b"}}, "template": template(), "strategy": strategy}),
        );
        assert!(text.contains("may not be 0 when `maxSurge` is 0"), "{text}");
    }
}
