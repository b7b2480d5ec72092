//! The workloads beside Deployment and ReplicaSet: StatefulSet, DaemonSet, ControllerRevision,
//! ReplicationController, PodTemplate.
//!
//! Source: `pkg/apis/apps/v1/defaults.go`, `pkg/apis/apps/validation`, `pkg/apis/core/validation`.

use serde_json::{Value, json};

use super::apps::workload;
use super::pod::pod_spec_defaults;
use super::volume::claim_defaults;
use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::apps as columns;
use crate::validate::fields::{amount, one_of, required_one_of, share};
use crate::validate::{self, NameRule};

/// Annotation that counts the templates of a DaemonSet.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Returns the kinds of core/v1.
pub(crate) fn core_kinds() -> Vec<Kind> {
    vec![
        Kind::namespaced("", "v1", "ReplicationController", "replicationcontrollers")
            .short(&["rc"])
            .category("all")
            .schema("io.k8s.api.core.v1.ReplicationController")
            .subresources(&[Subresource::Status, Subresource::Scale])
            .selectable(&["status.replicas"])
            .columns(columns::replica_set())
            .strategy(&ReplicationController),
        Kind::namespaced("", "v1", "PodTemplate", "podtemplates")
            .schema("io.k8s.api.core.v1.PodTemplate")
            .columns(columns::pod_template())
            .strategy(&PodTemplate),
    ]
}

/// Returns the kinds of apps/v1.
pub(crate) fn apps_kinds() -> Vec<Kind> {
    vec![
        Kind::namespaced("apps", "v1", "StatefulSet", "statefulsets")
            .short(&["sts"])
            .category("all")
            .schema("io.k8s.api.apps.v1.StatefulSet")
            .subresources(&[Subresource::Status, Subresource::Scale])
            .columns(columns::stateful_set())
            .strategy(&StatefulSet),
        Kind::namespaced("apps", "v1", "DaemonSet", "daemonsets")
            .short(&["ds"])
            .category("all")
            .schema("io.k8s.api.apps.v1.DaemonSet")
            .subresources(&[Subresource::Status])
            .columns(columns::daemon_set())
            .strategy(&DaemonSet),
        Kind::namespaced("apps", "v1", "ControllerRevision", "controllerrevisions")
            .schema("io.k8s.api.apps.v1.ControllerRevision")
            .columns(columns::controller_revision())
            .strategy(&ControllerRevision),
    ]
}

struct StatefulSet;

const FIXED_SPEC: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

impl Strategy for StatefulSet {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        let spec = &mut object["spec"];
        if !spec.is_object() {
            return;
        }
        set_default(spec, "podManagementPolicy", "OrderedReady");
        set_default(spec, "updateStrategy", json!({}));
        set_default(&mut spec["updateStrategy"], "type", "RollingUpdate");
        if spec["updateStrategy"]["type"] == "RollingUpdate" {
            set_default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
            set_default(&mut spec["updateStrategy"]["rollingUpdate"], "partition", 0);
        }
        set_default(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
        for member in ["whenDeleted", "whenScaled"] {
            set_default(&mut spec["persistentVolumeClaimRetentionPolicy"], member, "Retain");
        }
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        pod_spec_defaults(&mut spec["template"]["spec"]);
        for claim in json::elements_mut(spec, "volumeClaimTemplates") {
            claim_defaults(claim);
            set_default(claim, "apiVersion", "v1");
            set_default(claim, "kind", "PersistentVolumeClaim");
            claim["status"] = json!({"phase": "Pending"});
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"replicas": 0, "availableReplicas": 0});
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        required_one_of("spec.podManagementPolicy", object, &["OrderedReady", "Parallel"], causes);
        required_one_of("spec.updateStrategy.type", object, &["OnDelete", "RollingUpdate"], causes);
        if json::text(object, "spec.updateStrategy.type") == "OnDelete"
            && json::at(object, "spec.updateStrategy.rollingUpdate").is_some()
        {
            let value = json::at(object, "spec.updateStrategy.rollingUpdate").cloned().unwrap_or_default();
            causes.invalid(
                "spec.updateStrategy.rollingUpdate",
                &value,
                "only allowed for updateStrategy 'RollingUpdate'",
            );
        }
        for field in [
            "spec.updateStrategy.rollingUpdate.partition",
            "spec.minReadySeconds",
            "spec.ordinals.start",
            "spec.revisionHistoryLimit",
        ] {
            validate::not_negative(field, object, causes);
        }
        for member in ["whenDeleted", "whenScaled"] {
            let field = format!("spec.persistentVolumeClaimRetentionPolicy.{member}");
            required_one_of(&field, object, &["Retain", "Delete"], causes);
        }
        workload(object, "statefulset", "StatefulSet", causes);
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        let may = [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ];
        if others_changed(&object["spec"], &old["spec"], &may) {
            causes.forbidden("spec", FIXED_SPEC);
        }
    }
}

/// Whether members beside those named differ.
fn others_changed(new: &Value, old: &Value, but: &[&str]) -> bool {
    let without = |value: &Value| {
        let mut value = value.clone();
        if let Some(members) = value.as_object_mut() {
            members.retain(|key, _| !but.contains(&key.as_str()));
        }
        value
    };
    without(new) != without(old)
}

struct DaemonSet;

impl Strategy for DaemonSet {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        let spec = &mut object["spec"];
        if !spec.is_object() {
            return;
        }
        set_default(spec, "updateStrategy", json!({}));
        let strategy = &mut spec["updateStrategy"];
        set_default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            set_default(strategy, "rollingUpdate", json!({}));
            set_default(&mut strategy["rollingUpdate"], "maxUnavailable", 1);
            set_default(&mut strategy["rollingUpdate"], "maxSurge", 0);
        }
        set_default(spec, "revisionHistoryLimit", 10);
        pod_spec_defaults(&mut spec["template"]["spec"]);
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0,
            "desiredNumberScheduled": 0, "numberReady": 0});
        set_template_generation(object, 1);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        let annotations = json::object(old, "metadata.annotations");
        let before = annotations.and_then(|all| all.get(TEMPLATE_GENERATION)?.as_str()?.parse().ok());
        let before: i64 = before.unwrap_or(1);
        let changed = object["spec"]["template"] != old["spec"]["template"];
        set_template_generation(object, before + i64::from(changed));
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        workload(object, "daemonset", "DaemonSet", causes);
        required_one_of("spec.updateStrategy.type", object, &["RollingUpdate", "OnDelete"], causes);
        if json::text(object, "spec.updateStrategy.type") == "RollingUpdate" {
            let rolling = "spec.updateStrategy.rollingUpdate";
            share(&format!("{rolling}.maxUnavailable"), object, causes);
            share(&format!("{rolling}.maxSurge"), object, causes);
            let count = |member: &str| {
                json::at(object, &format!("{rolling}.{member}")).map_or(0, |value| amount(value).unwrap_or(1))
            };
            match (count("maxUnavailable") > 0, count("maxSurge") > 0) {
                (true, true) => {
                    let value = &object["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"];
                    let detail = "may not be set when maxUnavailable is non-zero";
                    causes.invalid(&format!("{rolling}.maxSurge"), value, detail);
                }
                (false, false) => {
                    causes.required(&format!("{rolling}.maxUnavailable"), "cannot be 0 when maxSurge is 0");
                }
                _ => {}
            }
        }
        for field in ["spec.minReadySeconds", "spec.revisionHistoryLimit"] {
            validate::not_negative(field, object, causes);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        validate::immutable("spec.selector", object, old, causes);
    }
}

fn set_template_generation(object: &mut Value, generation: i64) {
    json::object_mut(object, "metadata");
    let annotations = json::object_mut(&mut object["metadata"], "annotations");
    annotations.insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
}

struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate(&self, object: &Value, causes: &mut Causes) {
        validate::not_negative("revision", object, causes);
        if json::at(object, "data").is_none() {
            causes.required("data", "data is mandatory");
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        if object.get("data") != old.get("data") {
            causes.invalid("data", object.get("data").unwrap_or(&Value::Null), "field is immutable");
        }
    }
}

struct ReplicationController;

impl Strategy for ReplicationController {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        let labels = json::at(object, "spec.template.metadata.labels").cloned();
        if let Some(labels) = labels {
            if json::object(object, "spec.selector").is_none_or(serde_json::Map::is_empty) {
                object["spec"]["selector"] = labels.clone();
            }
            if json::object(object, "metadata.labels").is_none_or(serde_json::Map::is_empty) {
                json::object_mut(object, "metadata").insert("labels".into(), labels);
            }
        }
        let spec = &mut object["spec"];
        if spec.is_object() {
            set_default(spec, "replicas", 1);
            if spec["template"].is_object() {
                pod_spec_defaults(&mut spec["template"]["spec"]);
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"replicas": 0});
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        for field in ["spec.minReadySeconds", "spec.replicas"] {
            validate::not_negative(field, object, causes);
        }
        let selector = json::object(object, "spec.selector");
        if selector.is_none_or(serde_json::Map::is_empty) {
            causes.required("spec.selector", "");
        }
        if json::at(object, "spec.template").is_none() {
            causes.required("spec.template", "");
            return;
        }
        let labels = json::at(object, "spec.template.metadata.labels");
        let has = |(key, value): (&String, &Value)| labels.and_then(|all| all.get(key)) == Some(value);
        if !selector.into_iter().flatten().all(has) {
            let labels = labels.cloned().unwrap_or_else(|| json!({}));
            let detail = "`selector` does not match template `labels`";
            causes.invalid("spec.template.metadata.labels", &labels, detail);
        }
        template("spec.template", &object["spec"]["template"], causes);
        one_of("spec.template.spec.restartPolicy", object, &["Always"], causes);
        if json::at(object, "spec.template.spec.activeDeadlineSeconds").is_some() {
            let detail = "activeDeadlineSeconds in ReplicationController is not Supported";
            causes.forbidden("spec.template.spec.activeDeadlineSeconds", detail);
        }
    }
}

/// Checks a pod template.
pub(super) fn template(field: &str, template: &Value, causes: &mut Causes) {
    validate::labels(&format!("{field}.labels"), json::at(template, "metadata.labels"), causes);
    validate::pod::spec(&format!("{field}.spec"), &template["spec"], causes);
}

struct PodTemplate;

impl Strategy for PodTemplate {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        if object["template"].is_object() {
            pod_spec_defaults(&mut object["template"]["spec"]);
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        template("template", &object["template"], causes);
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Value {
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    }

    fn faults(strategy: &dyn Strategy, spec: Value) -> String {
        let mut object = json!({"metadata": {}, "spec": spec});
        let mut causes = Causes::default();
        strategy.defaults(&mut object);
        strategy.validate(&object, &mut causes);
        format!("{causes:?}")
    }

    #[test]
    fn plain_workloads_are_good() {
        let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template()});
        assert_eq!(faults(&StatefulSet, spec.clone()), "Causes([])");
        assert_eq!(faults(&DaemonSet, spec), "Causes([])");
        assert_eq!(faults(&ReplicationController, json!({"template": template()})), "Causes([])");
    }

    #[test]
    fn a_stateful_set_keeps_its_name_and_claims() {
        let old = json!({"spec": {"serviceName": "a", "replicas": 1}});
        let mut causes = Causes::default();
        StatefulSet.validate_update(&json!({"spec": {"serviceName": "a", "replicas": 2}}), &old, &mut causes);
        assert!(causes.is_empty());
        StatefulSet.validate_update(&json!({"spec": {"serviceName": "b", "replicas": 1}}), &old, &mut causes);
        assert!(format!("{causes:?}").contains("updates to statefulset spec"));
    }

    #[test]
    fn a_daemon_set_rolls_one_way() {
        let spec = |max_surge: Value| {
            json!({"selector": {"matchLabels": {"a": "b"}}, "template": template(),
                "updateStrategy": {"rollingUpdate": {"maxSurge": max_surge}}})
        };
        assert!(faults(&DaemonSet, spec("10%".into())).contains("may not be set when maxUnavailable"));
        let mut object = json!({"metadata": {}, "spec": spec(0.into())});
        DaemonSet.prepare_create(&mut object);
        let mut next = object.clone();
        next["spec"]["template"]["spec"]["x"] = 1.into();
        DaemonSet.prepare_update(&mut next, &object);
        assert_eq!(next["metadata"]["annotations"][TEMPLATE_GENERATION], "2");
    }
}
