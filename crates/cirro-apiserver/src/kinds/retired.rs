//! Objects as old books and old clients write them: deployments of apps/v1beta1, apps/v1beta2 and extensions/v1beta1, the betas of
//! CronJob (kubectl before 1.21 makes no other) and PodDisruptionBudget.
//!
//! They are stored in the version of today, with the defaults of the version that was spoken.
//! Source: `pkg/apis/{apps,extensions}/v1beta*/defaults.go` of Kubernetes 1.15.

use serde_json::{Value, json};

use crate::json::{self, set_default};
use crate::registry::View;

/// Returns the views of a deployment.
pub(crate) fn deployment_views() -> Vec<View> {
    let view = |group: &str, version: &str, import: fn(&mut Value)| View {
        group: group.into(),
        version: version.into(),
        schema: "io.k8s.api.apps.v1.Deployment".into(),
        import,
        export: |_| {},
        deprecation: Some(format!(
            "{group}/{version} Deployment is deprecated in v1.9+, unavailable in v1.16+; use apps/v1 Deployment"
        )),
    };
    vec![
        view("apps", "v1beta1", import_apps_v1beta1),
        view("apps", "v1beta2", |_| {}),
        view("extensions", "v1beta1", import_extensions_v1beta1),
    ]
}

/// The beta of a CronJob had its form of today.
pub(crate) fn cron_job_view() -> View {
    View {
        group: "batch".into(),
        version: "v1beta1".into(),
        schema: "io.k8s.api.batch.v1.CronJob".into(),
        import: |_| {},
        export: |_| {},
        deprecation: Some(
            "batch/v1beta1 CronJob is deprecated in v1.21+, unavailable in v1.25+; use batch/v1 CronJob"
                .into(),
        ),
    }
}

/// What an empty selector meant in the beta of a PodDisruptionBudget: no pod at all.
const NO_POD: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

/// The beta of a PodDisruptionBudget had the form of today, but for the empty selector.
pub(crate) fn disruption_budget_view() -> View {
    View {
        group: "policy".into(),
        version: "v1beta1".into(),
        schema: "io.k8s.api.policy.v1.PodDisruptionBudget".into(),
        import: |object| {
            if json::object(object, "spec.selector").is_some_and(serde_json::Map::is_empty) {
                object["spec"]["selector"] = no_pod();
            }
        },
        export: |object| {
            if json::at(object, "spec.selector") == Some(&no_pod()) {
                object["spec"]["selector"] = json!({});
            }
        },
        deprecation: Some(
            "policy/v1beta1 PodDisruptionBudget is deprecated in v1.21+, unavailable in v1.25+; use policy/v1 PodDisruptionBudget".into(),
        ),
    }
}

fn no_pod() -> Value {
    json!({"matchExpressions": [{"key": NO_POD, "operator": "Exists"}]})
}

/// No history limit but 2, a deadline, and the selector from the template's labels.
fn import_apps_v1beta1(object: &mut Value) {
    set_default(&mut object["spec"], "revisionHistoryLimit", 2);
    without_rollback(object);
    selector_from_template(object);
}

/// No history limit and no deadline to speak of, one pod at a time.
fn import_extensions_v1beta1(object: &mut Value) {
    let spec = &mut object["spec"];
    set_default(spec, "progressDeadlineSeconds", i32::MAX);
    set_default(spec, "revisionHistoryLimit", i32::MAX);
    if spec.is_object() {
        set_default(spec, "strategy", json!({}));
        let strategy = &mut spec["strategy"];
        set_default(strategy, "type", "RollingUpdate");
        if json::text(strategy, "type") == "RollingUpdate" {
            set_default(strategy, "rollingUpdate", json!({}));
            set_default(&mut strategy["rollingUpdate"], "maxUnavailable", 1);
            set_default(&mut strategy["rollingUpdate"], "maxSurge", 1);
        }
    }
    without_rollback(object);
    selector_from_template(object);
}

/// `rollbackTo` asked the server to roll back; clients have done that themselves since 1.16.
fn without_rollback(object: &mut Value) {
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("rollbackTo");
    }
}

fn selector_from_template(object: &mut Value) {
    let Some(labels) = json::at(object, "spec.template.metadata.labels").cloned() else { return };
    let empty = crate::validate::selector::is_empty(json::at(object, "spec.selector"));
    if empty {
        object["spec"]["selector"] = json!({"matchLabels": labels});
    }
    if json::object(object, "metadata.labels").is_none_or(serde_json::Map::is_empty) {
        json::object_mut(object, "metadata").insert("labels".into(), labels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Value {
        json!({"metadata": {"name": "myapp"}, "spec": {"template": {"metadata": {"labels": {"app": "hello"}}}}})
    }

    #[test]
    fn the_selector_comes_from_the_template() {
        let mut object = object();
        import_apps_v1beta1(&mut object);
        assert_eq!(object["spec"]["selector"]["matchLabels"]["app"], "hello");
        assert_eq!(object["spec"]["revisionHistoryLimit"], 2);
        assert_eq!(object["metadata"]["labels"]["app"], "hello");
    }

    #[test]
    fn an_empty_selector_of_the_beta_budget_means_no_pod() {
        let view = disruption_budget_view();
        let mut budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {}}});
        let given = budget.clone();
        (view.import)(&mut budget);
        assert_eq!(budget["spec"]["selector"]["matchExpressions"][0]["key"], NO_POD);
        (view.export)(&mut budget);
        assert_eq!(budget, given);
    }

    #[test]
    fn extensions_roll_one_pod_at_a_time() {
        let mut object = object();
        import_extensions_v1beta1(&mut object);
        let rolling = json!({"maxSurge": 1, "maxUnavailable": 1});
        assert_eq!(object["spec"]["strategy"]["rollingUpdate"], rolling);
    }
}
